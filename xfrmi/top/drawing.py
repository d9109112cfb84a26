"""Numbers, bars and replay windows, as narrow as they are clear."""

from __future__ import annotations

from typing import NamedTuple

_PREFIXES = ("", "k", "M", "G", "T", "P", "E")
_DOTS = (0x01, 0x02, 0x04, 0x40, 0x08, 0x10, 0x20, 0x80)
"""Of a braille character: down the left column, then down the right one."""
_BRAILLE = 0x2800
SEEN, MISSING, NEVER = "█", "·", " "


def si(value: float) -> str:
    """Three digits: 0, 0.5, 12.3, 999, 1.00k, 12.3M."""
    for prefix in _PREFIXES:
        if value < 999.5 or prefix == _PREFIXES[-1]:
            break
        value /= 1000
    if not prefix:
        return f"{value:.0f}" if value >= 99.95 or value == int(value) else f"{value:.1f}"
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}{prefix}"


def duration(seconds: float) -> str:
    """45s, 12m30s, 3h05m, 2d03h."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def shortened(text: str, width: int) -> str:
    """With its middle left out where it is too long."""
    if len(text) <= width:
        return text
    left = width // 2
    return text[:left] + "…" + text[len(text) - (width - left - 1) :] if width > 1 else text[:width]


class Bar(NamedTuple):
    """A limit: `cells` characters, of which `full` are used up, with the soft limit before number `soft`."""

    cells: int
    full: int
    soft: int | None

    def __str__(self) -> str:
        drawn = ["█" if number < self.full else "░" for number in range(self.cells)]
        if self.soft is not None:
            drawn[self.soft] = "┃"
        return "".join(drawn)


def bar(used: float, soft: float | None, hard: float | None, cells: int) -> Bar:
    """Its end is the hard limit, or the soft one where that is the only one."""
    end = hard if hard is not None else soft or 0
    if end <= 0:
        return Bar(cells, cells, None)
    full = min(cells, int(used / end * cells))
    marked = None if soft is None or soft >= end else min(cells - 1, int(soft / end * cells))
    return Bar(cells, full, marked)


class DrawnWindow(NamedTuple):
    bitmap: str
    """The oldest number left, the newest right."""
    hidden: int
    """So many older ones are not drawn."""
    missing: int
    """So many of the whole window have not come, of those that there are."""


def window(size: int, top: int, seen: int, cells: int) -> DrawnWindow:
    """`seen`: bit d for number top - d. A character a number if `cells` suffice, else eight in a braille one."""
    there = min(size, top)
    seen &= (1 << there) - 1
    missing = there - seen.bit_count()
    if size <= cells:
        drawn = (NEVER if d >= there else SEEN if seen >> d & 1 else MISSING for d in reversed(range(size)))
        return DrawnWindow("".join(drawn), 0, missing)
    characters = min(cells, -(-size // 8))
    text = ""
    for cell in reversed(range(characters)):
        numbers = seen >> cell * 8 & 0xFF  # bit 7 is the oldest
        text += chr(_BRAILLE | sum(dot for place, dot in enumerate(_DOTS) if numbers >> 7 - place & 1))
    return DrawnWindow(text, max(0, size - characters * 8), missing)
