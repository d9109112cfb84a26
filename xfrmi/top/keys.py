"""What a terminal sends when keys are pressed."""

from __future__ import annotations

import re

_NAMED = {
    "\r": "enter", "\n": "enter", "\x7f": "backspace", "\b": "backspace", "\x1b": "escape",
    "A": "up", "B": "down", "H": "home", "F": "end", "1~": "home", "4~": "end", "7~": "home", "8~": "end",
    "5~": "page up", "6~": "page down",
}  # fmt: skip
_PRESSED = re.compile(r"\x1b[\[O]([0-9;]*[ -/]*[@-~])|\x1b|[^\x1b]", re.DOTALL)


def keys_in(text: str) -> list[str]:
    """Names of the keys, single characters for themselves. Sequences of others are left out."""
    found = []
    for match in _PRESSED.finditer(text):
        name = _NAMED.get(match[1]) if match[1] is not None else _NAMED.get(match[0], match[0])
        if name is not None:
            found.append(name)
    return found
