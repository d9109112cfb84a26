"""Resident memory of one daemon with one tunnel, before and after a while of traffic of many flows.

    python -m bench.memory [--seconds 10] [--flows 1000] [--json FILE]      # --seconds 600: ten minutes

UDP datagrams of so many flows (source ports, in turn) through the tunnel in both directions, and a TCP stream every few
seconds. Memory is looked at once a second. What a daemon needs it has after the first seconds; told is how much more it
has at the end than after a third of the time.
"""

from __future__ import annotations

import argparse
import json
import resource
import socket
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

from bench.cable import Way, cable
from bench.chart import Bar, Chart
from bench.contenders.xfrmi import GCM, daemons, tunnel
from bench.datagrams import Sink
from bench.report import Section, show
from bench.show import Progress
from bench.throughput import stream
from xfrmi.lab.preflight import prepare
from xfrmi.lab.topology import Node

PORT = 4690
ROUND = 1.0
"""Seconds between two looks."""
STREAM_EVERY, STREAM_SECONDS = 5, 0.3
"""Rounds between two streams, and how long one is."""
SETTLED = 3
"""The part of the time, as 1 / SETTLED, after which nothing should grow any more."""


class Memory(NamedTuple):
    """Of both daemons, in MB; moon's first."""

    before: tuple[float, float]
    """With the tunnel, before the first packet."""
    looks: list[tuple[float, float]]
    """Once a second."""
    datagrams: int
    """Sent."""
    arrived: int

    @property
    def growth(self) -> tuple[float, float]:
        moon, sun = (growth([look[at] for look in self.looks]) for at in range(2))
        return moon, sun


def growth(looks: list[float]) -> float:
    """From what was resident after a third of the time to what was at the end, medians of a third each."""
    part = max(len(looks) // SETTLED, 1)
    return statistics.median(looks[-part:]) - statistics.median(looks[part : 2 * part] or looks[:1])


def resident(pid: int) -> float:
    """MB (2^20 bytes) of a process, VmRSS."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def measured(seconds: float, flows: int) -> Memory:
    prepare()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a socket for each flow
    with cable() as (moon, sun), Progress(seconds) as progress:
        pids = daemons(moon, sun)
        inner = tunnel((moon, sun), 1, 4, GCM, PORT)[4]
        way = Way("xfrmi UDP", 4, inner, pids)
        before = resident(pids[0]), resident(pids[1])
        looks: list[tuple[float, float]] = []
        with Flows(moon, sun, inner, flows) as there, Flows(sun, moon, inner[::-1], flows) as back:
            began = time.monotonic()
            while (passed := time.monotonic() - began) < seconds:
                progress.at(passed)
                progress.doing(f"memory, {flows} flows each way")
                if len(looks) % STREAM_EVERY == 0:
                    with stream(moon, sun, way, STREAM_SECONDS, "cubic"):
                        pass
                end = began + min(len(looks) * ROUND + ROUND, seconds)
                while time.monotonic() < end:
                    there.send()
                    back.send()
                    time.sleep(0.005)
                looks.append((resident(pids[0]), resident(pids[1])))
            return Memory(before, looks, there.sent + back.sent, there.arrived() + back.arrived())


class Flows:
    """Sockets with a port each; each send is a datagram of some of them."""

    BATCH = 25

    def __init__(self, source: Node, target: Node, addresses: tuple[str, ...], count: int) -> None:
        self._sink = Sink(target, addresses[1])
        with source:
            self._sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
        for sock in self._sockets:
            sock.connect((addresses[1], self._sink.port))
        self.sent = 0

    def send(self) -> None:
        for _ in range(self.BATCH):
            self._sockets[self.sent % len(self._sockets)].send(bytes(200))
            self.sent += 1

    def arrived(self) -> int:
        return self._sink.all()

    def __enter__(self) -> Flows:
        return self

    def __exit__(self, *_: object) -> None:
        self._sink.__exit__()
        for sock in self._sockets:
            sock.close()


def sections(found: Memory, seconds: float, flows: int) -> list[Section]:
    last = found.looks[-1]
    peak = [max(each) for each in zip(*found.looks, strict=True)]
    rows = [
        [f"daemon on {name}", *(f"{value:.1f}" for value in (found.before[at], last[at], peak[at], found.growth[at]))]
        for at, name in enumerate(("moon", "sun"))
    ]
    text = (
        f"MB resident, one tunnel, {seconds:.0f} seconds of {flows} flows each way ({found.datagrams:,} datagrams, "
        f"{found.arrived:,} of them arrived) and a TCP stream now and then. Goals: below 100, and no growth. The last "
        "column is the last third of the time against the second."
    )
    heads = ["", "with the tunnel", "at the end", "most", "growth"]
    bars = [
        Bar(f"{name}, {when}", value, value, value, f"{value:.1f}", "ours")
        for at, name in enumerate(("moon", "sun"))
        for when, value in (("with the tunnel", found.before[at]), ("at the end", last[at]))
    ]
    return [Section("memory of a daemon", text, heads, rows, [Chart("resident memory", "MB", False, bars)])]


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--flows", type=int, default=1000, help="in each direction, and as many descriptors")
    parser.add_argument("--json", type=Path, help="write every look here")
    told = parser.parse_args()
    found = measured(told.seconds, told.flows)
    show(sections(found, told.seconds, told.flows))
    if told.json:
        told.json.write_text(json.dumps(found._asdict()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
