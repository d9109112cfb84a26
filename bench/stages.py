"""Where the time goes: CPU of each stage of the data path for a full-size packet, in two daemons at work.

    python -m bench.stages [--rounds 3] [--seconds 2]

One TCP stream, ESP in UDP and raw, from moon to sun. The daemons are real ones with a clock on each public entry point
(staged.py). Everything a daemon does is told for a packet of the stream: the sender's `receive`, `input` and `write
TUN` are the acknowledgements.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

from bench.cable import Way, cable, cpu_seconds
from bench.chart import Bar, Chart
from bench.contenders.xfrmi import GCM, tunnel
from bench.report import Section, show
from bench.rounds import finite
from bench.show import Progress
from bench.stage_names import BARE, PACKETS, SAMPLING, STAGES
from bench.throughput import PACKET, stream
from xfrmi.lab.preflight import prepare
from xfrmi.lab.topology import Node

REST = "all else"
"""The loop, waiting for a descriptor, timers."""
TOTAL = "the whole daemon"
PORT = 4650
SECONDS = 5.0
"""For a daemon to answer."""


class Sums(NamedTuple):
    """Of one daemon, since it started."""

    seconds: dict[str, float]
    calls: dict[str, int]
    overhead: float
    total: float
    """Seconds of CPU."""


class Costs(NamedTuple):
    """Of one daemon during one stream."""

    microseconds: dict[str, float]
    """For a packet: of each stage, of REST, of TOTAL; and of one bare cipher call."""
    packets: dict[str, float]
    """Of the stream, for each call of a stage."""


def costs(before: Sums, after: Sums, packets: float) -> Costs:
    """Clocks taken off: half of what one costs lies inside its stage, half around it."""
    calls = {name: after.calls[name] - before.calls[name] for name in after.calls}
    spent = {name: after.seconds[name] - before.seconds[name] for name in after.seconds}
    found = {name: max(spent[name] - calls[name] * after.overhead / 2, 0.0) for name in STAGES}
    found[TOTAL] = after.total - before.total - spent[SAMPLING] - sum(calls[name] for name in STAGES) * after.overhead
    found[REST] = found[TOTAL] - sum(found[name] for name in STAGES)
    each = {name: seconds / packets * 1e6 for name, seconds in found.items()}
    each |= {name: spent[name] / calls[name] * 1e6 if calls[name] else float("nan") for name in BARE}
    return Costs(each, {name: packets / calls[name] for name in STAGES if calls[name]})


class Staged:
    """A daemon that tells its stages."""

    def __init__(self, node: Node) -> None:
        self._path = node.folder / "stages.json"
        self.process = node.start([sys.executable, "-m", "bench.staged", str(self._path)], "daemon.log")
        self._node = node

    def sums(self) -> Sums:
        total = cpu_seconds(self.process.pid)
        self._path.unlink(missing_ok=True)
        os.kill(self.process.pid, signal.SIGUSR1)
        deadline = time.monotonic() + SECONDS
        while not self._path.exists():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise RuntimeError(f"the clocked daemon does not answer: {self._node.last_words()}")
            time.sleep(0.01)
        told = json.loads(self._path.read_text())
        return Sums(told["seconds"], told["calls"], told["overhead"], total)


Measured = dict[str, list[tuple[Costs, Costs]]]
"""By the kind of tunnel: for each round, the sender's and the receiver's."""


def measured(rounds: int, seconds: float) -> Measured:
    prepare()
    found: Measured = {}
    with cable() as (moon, sun), Progress(rounds * 2) as progress:
        daemons = [Staged(node) for node in (moon, sun)]
        for node, daemon in zip((moon, sun), daemons, strict=True):
            node.await_daemon(daemon.process)
        ways = [
            Way(f"xfrmi {kind}", 4, tunnel((moon, sun), if_id, 4, GCM, port)[4], (1, 1))
            for if_id, (kind, port) in enumerate((("UDP", PORT), ("raw", 0)), 1)
        ]
        for turn in range(rounds):
            for way in ways:
                progress.doing(f"stages, round {turn + 1} of {rounds}: {way.contender}")
                before = [daemon.sums() for daemon in daemons]
                with stream(moon, sun, way, seconds, "cubic") as told:
                    pass
                after = [daemon.sums() for daemon in daemons]
                packets = told[1] / PACKET
                sender, receiver = (costs(*pair, packets) for pair in zip(before, after, strict=True))
                found.setdefault(way.contender, []).append((sender, receiver))
                progress.advance()
    return found


def sections(found: Measured) -> list[Section]:
    columns = {
        f"{kind}, {role}": [pair[end] for pair in pairs]
        for kind, pairs in found.items()
        for end, role in enumerate(("sender", "receiver"))
    }
    rows = []
    for name in (*STAGES, REST, TOTAL, *BARE):
        cells = []
        for each in columns.values():
            text = f"{median(each, name):.2f}"
            calls = [costs.packets[name] for costs in each if name in costs.packets]
            cells.append(f"{text}\n{statistics.median(calls):.0f} a call" if calls else text)
        rows.append([name, *cells])
    charts = []
    for column, each in columns.items():
        bars = []
        for name in (*STAGES, REST):
            values = [costs.microseconds[name] for costs in each]
            bars.append(Bar(name, median(each, name), min(values), max(values), f"{median(each, name):.2f}", "ours"))
        bars += [Bar(name, median(each, name), 0, 0, f"{median(each, name):.2f}", "floor") for name in BARE]
        charts.append(Chart(f"where the time of {column} goes", "us of CPU a packet", False, bars))
    text = (
        "Microseconds of CPU for a full-size packet of one TCP stream; small print: packets of the stream for each "
        "call. What a sender receives and a receiver sends are acknowledgements. The bare cipher call is measured "
        f"between bursts of the same daemon, {PACKETS} at a time: output holds one seal a packet, input one open."
    )
    return [Section("where the time goes, stage by stage", text, ["", *columns], rows, charts)]


def median(each: list[Costs], name: str) -> float:
    return statistics.median(costs.microseconds[name] for costs in each)


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each stream")
    parser.add_argument("--json", type=Path, help="write every single result here")
    told = parser.parse_args()
    found = measured(told.rounds, told.seconds)
    show(sections(found))
    if told.json:
        told.json.write_text(json.dumps(plain(found)))
    return 0


def plain(found: Measured) -> dict[str, list[dict[str, dict[str, float | None]]]]:
    return {
        kind: [{"sender": finite(pair[0].microseconds), "receiver": finite(pair[1].microseconds)} for pair in pairs]
        for kind, pairs in found.items()
    }


if __name__ == "__main__":
    sys.exit(main())
