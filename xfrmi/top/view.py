"""What the reader wants to see, and how a key changes that."""

from __future__ import annotations

from dataclasses import dataclass, replace

from xfrmi.top.selection import SORTS

MAX_FILTER = 32


@dataclass(frozen=True)
class View:
    sort: str = SORTS[0]
    filter: str = ""
    """A part of interfaces' names, or an if_id."""
    first: int = 0
    """How many states are scrolled past."""
    help: bool = False
    typing: str | None = None
    """A filter that is being typed."""
    done: bool = False

    def clamped(self, states: int) -> View:
        """Scrolled no further than to the last state."""
        first = max(0, min(self.first, states - 1))
        return self if first == self.first else replace(self, first=first)


def pressed(view: View, key: str, page: int) -> View:
    """`key` as xfrmi.top.keys names it; `page` is how many states are on the screen."""
    if view.typing is not None:
        return _typed(view, view.typing, key)
    if key in ("q", "Q"):
        return replace(view, done=True)
    if key in ("?", "h"):
        return replace(view, help=not view.help)
    if view.help:
        return replace(view, help=False)
    if key == "s":
        return replace(view, sort=SORTS[(SORTS.index(view.sort) + 1) % len(SORTS)], first=0)
    if key == "f":
        return replace(view, typing="")
    steps = {"up": -1, "down": 1, "k": -1, "j": 1, "page up": -page, "page down": page, " ": page}
    if key in steps:
        return replace(view, first=max(0, view.first + steps[key]))
    if key in ("home", "end"):
        return replace(view, first=0 if key == "home" else 1 << 30)
    return view


def _typed(view: View, text: str, key: str) -> View:
    if key == "enter":
        return replace(view, filter=text.strip(), typing=None, first=0)
    if key == "escape":
        return replace(view, typing=None)
    if key == "backspace":
        return replace(view, typing=text[:-1])
    if len(key) == 1 and key.isprintable() and len(text) < MAX_FILTER:
        return replace(view, typing=text + key)
    return view
