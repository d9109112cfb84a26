"""One state as lines: who with whom, how fast, its numbers, its replay window, what is left of its life."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from rich.text import Text

from xfrmi.client.samples import StateView
from xfrmi.formats.words import MODES, SA_DIRS
from xfrmi.top.drawing import bar, duration, shortened, si, window
from xfrmi.top.selection import Rate
from xfrmi.wire.address import format_address
from xfrmi.wire.xfrm_types import Limits

INDENT = "    "
RATES_WIDTH = 26
BAR_CELLS = 20
WINDOW_CELLS = 64
HARD_ADD = Limits._fields.index("hard_add")


def state_lines(state: StateView, rate: Rate | None, at: float, name: str, width: int) -> list[Text]:
    """`name` is the interface's."""
    lines = [_head(state, rate, name, width), _what(state)]
    if (drawn := _window(state, width)) is not None:
        lines.append(drawn)
    return lines + [_life(life) for life in lives(state, at)]


def larval_line(state: StateView, at: float, name: str, width: int) -> Text:
    ends_at = state.limits[HARD_ADD]
    left = f"{duration(state.add_time + ends_at - at)} left" if ends_at else "for ever"
    tail = f"  {name}  {left}"
    spi = f"{state.spi:#010x}" if state.spi else "no SPI yet"
    ends = shortened(_ends(state), max(8, width - len(spi) - len(tail) - 2))
    return Text(f"{spi}  {ends}{tail}", "yellow")


def _head(state: StateView, rate: Rate | None, name: str, width: int) -> Text:
    rates = "-" if rate is None else f"{si(rate.packets)} pkt/s {si(rate.bits):>6}bit/s"
    line = Text().append(f"{state.spi:#010x}", "cyan")
    line.append(f" {_direction(state):<3} ")
    dying = "  DYING" if state.dying else ""
    room = width - len(line) - len(name) - len(dying) - 2 - max(RATES_WIDTH, len(rates))
    line.append(shortened(_ends(state), max(8, room)))
    line.append(f"  {name}", "cyan")
    line.append(dying, "bold yellow")
    line.append(f"{rates:>{max(0, width - len(line))}}", "bold" if rate is not None and rate.packets else "dim")
    return line


def _what(state: StateView) -> Text:
    words = [MODES.get(state.mode, str(state.mode)), " ".join(state.algorithms)]
    words += ["esn"] * state.esn + ["in UDP"] * state.encap
    if state.sent or _direction(state) == "out":
        words.append(f" seq {state.sent}")
    line = Text().append(INDENT + " ".join(words), "dim")
    told = (("late", state.late), ("replayed", state.replayed), ("unauthentic", state.unauthentic))
    for word, count in told:
        if count:
            line.append(f"  {word} {si(count)}", "red")
    return line


def _window(state: StateView, width: int) -> Text | None:
    if _direction(state) == "out" or (not state.window and not state.top):
        return None
    line = Text(INDENT)
    if not state.window:
        return line.append("no replay window", "dim")
    words = f"  top {state.top}"
    drawn = window(state.window, state.top, state.seen, max(8, min(WINDOW_CELLS, width - len(words) - 36)))
    line.append(f"window {state.window:<4} ", "dim")
    line.append(f"▕{drawn.bitmap}▏", "green")
    line.append(words)
    line.append(f"  {drawn.missing} missing" if drawn.missing else "", "yellow")
    line.append(f"  ({drawn.hidden} older)" if drawn.hidden else "", "dim")
    return line


class Life(NamedTuple):
    """One kind of limit."""

    name: str
    used: float
    soft: float | None
    hard: float | None
    unit: Callable[[float], str]


def lives(state: StateView, at: float) -> list[Life]:
    """Those there are limits of."""
    soft_bytes, hard_bytes, soft_packets, hard_packets, soft_add, hard_add, soft_use, hard_use = state.limits
    age = max(0.0, at - state.add_time)
    used_for = max(0.0, at - state.use_time) if state.use_time else 0.0
    found = [
        Life("bytes", state.bytes, soft_bytes, hard_bytes, lambda left: f"{si(left)}B"),
        Life("packets", state.packets, soft_packets, hard_packets, si),
        Life("age", age, soft_add or None, hard_add or None, duration),
        Life("use", used_for, soft_use or None, hard_use or None, duration),
    ]
    return [life for life in found if (life.soft, life.hard) != (None, None)]


def _life(life: Life) -> Text:
    drawn = bar(life.used, life.soft, life.hard, BAR_CELLS)
    past_soft = life.soft is not None and life.used >= life.soft
    line = Text().append(f"{INDENT}{life.name:<8}", "dim")
    line.append(str(drawn), "red" if drawn.full >= drawn.cells else "yellow" if past_soft else "green")
    for word, limit in (("soft", life.soft), ("hard", life.hard)):
        if limit is not None:
            left = limit - life.used
            words = f"  {word} in {life.unit(left)}" if left > 0 else f"  {word} reached"
            line.append(words, "" if left > 0 else "yellow")
    return line


def _direction(state: StateView) -> str:
    """As configured; where it is not, as its numbers tell; where they do not, empty."""
    said = SA_DIRS.get(state.dir)
    return said or ("out" if state.sent else "in" if state.top or state.packets else "")


def _ends(state: StateView) -> str:
    return f"{format_address(state.src)} > {format_address(state.dst)}"
