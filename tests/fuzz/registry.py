"""Everything that parses bytes or text from outside, one module of `targets` each.

A target module has

    MAX_LEN         bytes of the longest input that is worth trying
    seeds()         inputs to begin with, right ones
    make()          what is called with each input: returns, or raises, and then it has found something

`make` builds what it needs once. What it calls with an input checks more than that nothing is raised: see each module.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Protocol, cast

TARGETS = (
    "ip", "esp", "bursts", "inner", "udp", "icmp", "vnet", "tun", "netlink", "xfrm", "route", "grammar", "listing",
    "tables", "lab", "netdev", "capture", "layout", "explain", "page", "json",
)  # fmt: skip

One = Callable[[bytes], None]


class Target(Protocol):
    MAX_LEN: int

    def seeds(self) -> list[bytes]: ...

    def make(self) -> One: ...


def target(name: str) -> Target:
    """KeyError for a name that is none of TARGETS."""
    if name not in TARGETS:
        raise KeyError(name)
    return cast(Target, importlib.import_module(f"tests.fuzz.targets.{name}"))
