"""End to end: TCP streams between two namespaces, through xfrmi, its peers and the bare cable, in one run.

    python -m bench.throughput [--quick] [--rounds 5] [--seconds 1.5] [--congestion cubic] [--json FILE] [name ...]

Each way is measured from moon to sun, from sun to moon, and both at once. On a machine with other work read the CPU
time of the daemons for a full-size packet, which hardly depends on who else is at work, rather than the throughput,
which does.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from bench.cable import Way, cpu_seconds
from bench.rounds import Figure, options, ratios, run, table
from xfrmi.lab.topology import Node

PORT = 5201
PACKET = 1400 * 8
"""Bits of payload that about fill a packet: what CPU time is told for."""


class Result(NamedTuple):
    there: float
    """Mbit/s from moon to sun alone."""
    back: float
    both: float
    """The sum of two at once."""
    sender: float
    """Microseconds of CPU that the sending end took for a full-size packet, mean of both directions alone."""
    receiver: float


FIGURES = [
    Figure[Result]("there", lambda result: result.there),
    Figure[Result]("back", lambda result: result.back),
    Figure[Result]("both", lambda result: result.both),
]
CPU = [
    Figure[Result]("us sender", lambda result: result.sender, larger=False, digits=1),
    Figure[Result]("us recver", lambda result: result.receiver, larger=False, digits=1),
]


def main() -> int:
    parser = options(__doc__, rounds=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each stream")
    parser.add_argument("--congestion", default="cubic", help="TCP congestion control; pacing ones send small bursts")
    told = parser.parse_args()

    def measure(moon: Node, sun: Node, way: Way) -> Result:
        there, sender, receiver = alone(moon, sun, way, told.seconds, told.congestion)
        turned = way._replace(addresses=way.addresses[::-1], programs=way.programs[::-1])
        back, *others = alone(sun, moon, turned, told.seconds, told.congestion)
        with ExitStack() as stack:
            pairs = [(moon, sun, way), (sun, moon, turned)]
            rates = [stack.enter_context(stream(*pair, told.seconds, told.congestion)) for pair in pairs]
        both = sum(rate[0] for rate in rates)
        return Result(there, back, both, (sender + others[0]) / 2, (receiver + others[1]) / 2)

    results = run(told, measure)
    table("Mbit/s; us of CPU a packet", results, FIGURES + CPU, spread=3)
    ratios(results, FIGURES + CPU)
    return 0


def alone(source: Node, sink: Node, way: Way, seconds: float, congestion: str) -> tuple[float, float, float]:
    """(Mbit/s, microseconds a packet of the source's end, of the sink's)."""
    before = [cpu_seconds(pid) for pid in way.programs]
    with stream(source, sink, way, seconds, congestion) as rate:
        pass
    spent = [cpu_seconds(pid) - start for pid, start in zip(way.programs, before, strict=True)]
    mbits, bits = rate
    sender, receiver = (each / (bits / PACKET) * 1e6 for each in spent or (0.0, 0.0))
    return mbits, sender, receiver


@contextmanager
def stream(source: Node, sink: Node, way: Way, seconds: float, congestion: str) -> Iterator[list[float]]:
    """Begun in the block, ended after it; the list then has Mbit/s and bits."""
    address = way.addresses[1]
    receiver = program(sink, "receive", address, str(PORT))
    assert receiver.stdout is not None
    receiver.stdout.readline()
    sender = program(source, "send", address, str(PORT), str(seconds), congestion)
    told: list[float] = []
    yield told
    total, took = receiver.stdout.readline().split()
    for process in (sender, receiver):
        if process.wait():
            raise RuntimeError(f"{way.name}: {process.args} failed")
    bits = int(total) * 8
    told += [bits / float(took) / 1e6, bits]


def program(node: Node, *arguments: str) -> subprocess.Popen[str]:
    return node.popen([sys.executable, "-m", "bench.stream", *arguments], stdout=subprocess.PIPE)


if __name__ == "__main__":
    sys.exit(main())
