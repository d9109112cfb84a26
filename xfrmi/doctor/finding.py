"""What one look at the machine has shown."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Level(IntEnum):
    """In the order in which findings are told."""

    LACK = 0
    """xfrmi cannot work here."""
    WARNING = 1
    """It works, but something may be in its way, or could not be looked at."""
    OK = 2


class Finding(NamedTuple):
    check: str
    level: Level
    text: str
    cure: str = ""
    """A command line that mends it; empty where nothing needs to be mended or no one line would."""


def lack(check: str, text: str, cure: str = "") -> Finding:
    return Finding(check, Level.LACK, text, cure)


def warning(check: str, text: str, cure: str = "") -> Finding:
    return Finding(check, Level.WARNING, text, cure)


def ok(check: str, text: str) -> Finding:
    return Finding(check, Level.OK, text)


def some(names: list[str], limit: int = 3) -> str:
    """'eth0, eth1, eth2 and 5 more'."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
