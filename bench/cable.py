"""Two nodes with one cable between them, a way through it for each contender, and the CPU time its programs take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from xfrmi.lab.topology import Lab, Node

OUTER = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}
"""Of moon and sun."""


class Lacks(Exception):
    """A contender cannot run here; the text says what would help."""


class Way(NamedTuple):
    """A way from moon to sun: between plain addresses, or through a tunnel."""

    contender: str
    family: int
    """Inside."""
    addresses: tuple[str, str]
    """Moon's and sun's."""
    programs: tuple[int, ...] = ()
    """Process ids of the tunnel, moon's and sun's."""
    outer: int = 4

    @property
    def name(self) -> str:
        return f"{self.contender}, IPv{self.family}" + (f" in IPv{self.outer}" if self.programs else "")


@contextmanager
def cable() -> Iterator[tuple[Node, Node]]:
    with Lab() as lab:
        moon, sun = lab.node("moon"), lab.node("sun")
        lab.link(moon, "eth0", [f"{OUTER[4][0]}/30", f"{OUTER[6][0]}/64"],
                 sun, "eth0", [f"{OUTER[4][1]}/30", f"{OUTER[6][1]}/64"])  # fmt: skip
        yield moon, sun


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all its threads, and of the processes it has started that still run."""
    total = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0]) / 1e9
        with suppress(FileNotFoundError):  # a kernel that does not tell
            total += sum(cpu_seconds(int(child)) for child in (task / "children").read_text().split())
    return total
