"""Two daemons for a long time: many flows through several tunnels, new keys every second, states that end by a limit,
captures that come and go. At the end the books must balance.

    make soak [TIME=600]        python -m bench.soak [--seconds 600] [--tunnels 8] [--flows 32] [--rate 2000]

What has to hold, or the exit status is 1:

    packets     sent = arrived + lost, by reason, to the packet (books.py); none twice
    memory      of each daemon, no more at the end than after a third of the time (medians), but for GROWTH. What is
                kept for captures that do not read (tracer.py says how much at most) is not given back: the first two
                do not read for some seconds, so that no busy moment brings this about later
    descriptors as many at the end as at the start
    leftovers   one state for each tunnel and direction; no larval state; the policies that were there at the start
    faults      no exception in a daemon
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from bench.books import Side, side
from bench.cable import cable
from bench.contenders.xfrmi import daemons
from bench.memory import growth, resident
from bench.soak_keys import Keys, Tunnel, tunnels
from bench.soak_traffic import Traffic
from tests.system.hosts import at
from xfrmi.formats.pcapng import read_packets
from xfrmi.lab.namespace import xfrmi_command
from xfrmi.lab.preflight import prepare
from xfrmi.lab.topology import Node

GROWTH = 2.0
"""MB that the medians of two thirds may differ by."""
CAPTURE_EVERY, CAPTURE_FOR = 20, 6
"""Turns, of a second if there is a processor for it; from the first on."""
HOLD = 2
"""The turn after which the first captures do not read."""
SETTLE = 0.5
"""Seconds in which a daemon notices that somebody has gone, unless there is no processor for it."""
LARVAL = 35.0
"""Seconds after which no larval state is left (net.core.xfrm_acq_expires, and some)."""


class Found(NamedTuple):
    sent: int
    arrived: int
    twice: int
    lost: dict[str, int]
    memory: tuple[list[float], list[float]]
    """MB of moon's daemon and sun's, once a second when nobody captures."""
    descriptors: tuple[list[int], list[int]]
    """Moon's daemon's and sun's, before the first monitor and after the last."""
    rekeyed: int
    captures: int
    records: int
    """Packets that captures have seen."""
    left: dict[str, int]
    """What is there that should not be."""

    @property
    def unaccounted(self) -> int:
        return self.sent - self.arrived - sum(self.lost.values())

    def wrong(self) -> list[str]:
        told = []
        if self.unaccounted:
            told.append(f"{self.unaccounted} packets are unaccounted for")
        if self.twice:
            told.append(f"{self.twice} packets arrived twice")
        for name, memory, first, last in zip(("moon", "sun"), self.memory, *self.descriptors, strict=True):
            if (grown := growth(memory)) > GROWTH:
                told.append(f"the daemon on {name} has grown by {grown:.1f} MB")
            if first != last:
                told.append(f"the daemon on {name} had {first} descriptors, and has {last}")
        return told + [f"{count} {what}" for what, count in self.left.items() if count]


def descriptors(pids: tuple[int, int]) -> list[int]:
    return [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids]


class Captures:
    """`xfrmi capture` on both nodes, now and then."""

    def __init__(self, *nodes: Node) -> None:
        self._nodes = nodes
        self._running: list[subprocess.Popen[str]] = []
        self.files: list[Path] = []
        self._held = False

    def hold(self) -> None:
        """Do not read, until the end of these."""
        self._signal(signal.SIGSTOP)
        self._held = True

    def wanted(self, wanted: bool) -> bool:
        """Begin, or end. Is there one now?"""
        if wanted and not self._running:
            for node in self._nodes:
                self.files.append(node.folder / f"{len(self.files)}.pcapng")
                self._running.append(node.start(xfrmi_command("capture", "-w", str(self.files[-1])), "capture.log"))
        elif not wanted and self._running:
            if self._held:
                self._signal(signal.SIGCONT)
                self._held = False
                time.sleep(SETTLE)
            for node, program in zip(self._nodes, self._running, strict=True):
                node.stop(program)
            self._running.clear()
        return wanted

    def _signal(self, number: signal.Signals) -> None:
        for program in self._running:
            program.send_signal(number)

    def records(self) -> int:
        return sum(1 for file in self.files for _ in read_packets(file.read_bytes()))


def soaked(seconds: float, count: int, flows: int, rate: float) -> Found:
    prepare()
    with cable() as (moon, sun), ExitStack() as resources:
        pids = daemons(moon, sun)
        keys = Keys(moon, sun, tunnels(count))
        keys.set_up()
        names = [tunnel.name for tunnel in keys.tunnels]
        policies = [count_of(node)[1] for node in (moon, sun)]
        time.sleep(SETTLE)  # until they have noticed that who set them up has gone
        before = descriptors(pids)
        monitors = [node.start(xfrmi_command("monitor"), "monitor.log") for node in (moon, sun)]
        captures = Captures(moon, sun)
        traffic = resources.enter_context(Traffic(moon, sun, keys.tunnels, flows, rate))
        memory = [resident(pids[0])], [resident(pids[1])]
        began = time.monotonic()
        turn = 0
        while time.monotonic() - began < seconds:
            turn += 1
            keys.rekey()
            if not captures.wanted(turn % CAPTURE_EVERY < CAPTURE_FOR):
                for pid, seen in zip(pids, memory, strict=True):
                    seen.append(resident(pid))
            if turn == HOLD:
                captures.hold()
            time.sleep(max(0.0, began + turn - time.monotonic()))
        traffic.stop()
        captures.wanted(False)
        keys.settle()
        sides = side(moon, names), side(sun, names)
        left = leftovers(moon, sun, keys.tunnels, policies)
        for node, monitor in zip((moon, sun), monitors, strict=True):
            node.stop(monitor)
        after = settled(lambda: descriptors(pids), before)
        return Found(
            traffic.sent, traffic.arrived, traffic.twice, losses(*sides), memory, (before, after), keys.rekeyed,
            len(captures.files), captures.records(), left,
        )  # fmt: skip


def settled(ask: Callable[[], list[int]], wanted: list[int]) -> list[int]:
    """What `ask` says, when it says what is wanted, or does not come to it."""
    deadline = time.monotonic() + 10 * SETTLE
    while (found := ask()) != wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def losses(*sides: Side) -> dict[str, int]:
    """By reason, on both hosts."""
    lost: Counter[str] = Counter()
    for one in sides:
        lost["queue of the TUN"] += one.tun["qdisc"] + one.tun["tx_dropped"]
        lost["not sent: no state, or its limit"] += one.device["tx_errors"]
        lost["full sockets"] += one.sockets
        lost["TUN did not take it"] += one.tun["rx_dropped"] + one.tun["rx_errors"]
        for name, value in one.mib.items():
            if name.startswith("XfrmIn"):
                lost[name] += value
    return {reason: value for reason, value in lost.items() if value}


def count_of(node: Node) -> tuple[int, int, int]:
    """States, policies, faults."""
    with at(node) as client:
        status = client.status()
        return status["states"], status["policies"], status["faults"]


def leftovers(moon: Node, sun: Node, through: list[Tunnel], policies: list[int]) -> dict[str, int]:
    """After at most LARVAL seconds."""
    deadline = time.monotonic() + LARVAL
    while time.monotonic() < deadline and any(larval(node) for node in (moon, sun)):
        time.sleep(0.5)
    left: Counter[str] = Counter()
    for node, before in zip((moon, sun), policies, strict=True):
        states, now, faults = count_of(node)
        keyless = larval(node)
        left["larval states"] += keyless
        left["states too many"] += max(states - keyless - 2 * len(through), 0)
        left["policies too many"] += now - before
        left["faults in a daemon"] += faults
    return dict(left)


def larval(node: Node) -> int:
    with at(node) as client:
        return sum(info.aead is None for info in client.states())


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--tunnels", type=int, default=8)
    parser.add_argument("--flows", type=int, default=32, help="of each tunnel, direction and family")
    parser.add_argument("--rate", type=float, default=2000.0, help="packets a second, in all")
    told = parser.parse_args()
    found = soaked(told.seconds, told.tunnels, told.flows, told.rate)
    print(report(found, told.seconds, told.tunnels))
    for fault in found.wrong():
        print(f"WRONG: {fault}")
    return bool(found.wrong())


def report(found: Found, seconds: float, count: int) -> str:
    lines = [
        f"{seconds:.0f} s, {count} tunnels, {found.rekeyed:,} rekeys, "
        f"{found.captures} captures of {found.records:,} records",
        f"  {found.sent:>12,}  sent",
        f"  {found.arrived:>12,}  arrived, {found.twice} of them twice",
        *(f"  {value:>12,}  {reason}" for reason, value in sorted(found.lost.items(), key=lambda item: -item[1])),
        f"  {found.unaccounted:>12,}  unaccounted for",
    ]
    for name, memory, first, last in zip(("moon", "sun"), found.memory, *found.descriptors, strict=True):
        lines.append(
            f"  daemon on {name}: {memory[0]:.1f} MB at first, {memory[-1]:.1f} at the end, growth "
            f"{growth(memory):+.1f}; descriptors {first}, {last}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
