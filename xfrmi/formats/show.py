"""How to show: the options of ip(8) that change what the printers write, and the names they need from outside."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple


def local_time(seconds: int) -> str:
    """Unix seconds as ip(8) prints them, in local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def numbered_device(ifindex: int) -> str:
    """How ip(8) calls a device that it cannot find."""
    return f"if{ifindex}" if ifindex else "*"


def assumed_up(ifindex: int) -> bool:
    return True


class Show(NamedTuple):
    stats: int = 0
    """How many -s."""
    details: bool = False
    """-d."""
    oneline: bool = False
    """-o: a record on one line, a backslash for each line end inside."""
    nokeys: bool = False
    localtime: Callable[[int], str] = local_time
    """Unix seconds -> text."""
    ifname: Callable[[int], str] = numbered_device
    """Device index -> name."""
    is_up: Callable[[int], bool] = assumed_up
    """Device index -> whether it is up: a link over a device that is not shows M-DOWN."""

    def record(self, text: str) -> str:
        """One finished record: lines that end in a newline each."""
        return text.replace("\n", "\\") + "\n" if self.oneline else text

    def time(self, seconds: int) -> str:
        return self.localtime(seconds) if seconds else "-"


PLAIN: Final = Show()
