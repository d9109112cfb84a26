"""End to end: TCP streams between two namespaces, through xfrmi, its peers and the bare cable, in one run.

    python -m bench.throughput [--quick] [--rounds 5] [--seconds 1.5] [--congestion cubic] [--json FILE] [name ...]

Each way is measured from moon to sun, from sun to moon, and both at once. On a machine with other work read the CPU
time of the daemons, which hardly depends on who else is at work, rather than the throughput, which does.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

from bench.cable import Way, cpu_seconds
from bench.figures import Figure
from bench.program import program
from bench.rounds import Measurement, Suits, every, options
from xfrmi.lab.topology import Node

PORT = 5201
PACKET = 1400 * 8
"""Bits of payload that about fill a packet: what CPU time is told for."""


class Throughput(NamedTuple):
    there: float
    """Mbit/s from moon to sun alone."""
    back: float
    both: float
    """The sum of two at once."""
    sender: float
    """Microseconds of CPU that the sending daemon took for a full-size packet, mean of both directions alone. NaN
    where there is none."""
    receiver: float

    @property
    def gigabit(self) -> tuple[float, float]:
        """Seconds of CPU of the sending and the receiving daemon for 1000 Mbit."""
        return self.sender * 1e3 / PACKET, self.receiver * 1e3 / PACKET


FIGURES = [
    Figure[Throughput]("there", lambda told: told.there, unit="Mbit/s"),
    Figure[Throughput]("back", lambda told: told.back, unit="Mbit/s"),
    Figure[Throughput]("both", lambda told: told.both, unit="Mbit/s"),
    Figure[Throughput]("CPU, sender", lambda told: told.sender, larger=False, digits=1, unit="us/packet"),
    Figure[Throughput]("CPU, receiver", lambda told: told.receiver, larger=False, digits=1, unit="us/packet"),
    Figure[Throughput]("sender", lambda told: told.gigabit[0], larger=False, digits=2, unit="s/Gbit", goal=False),
    Figure[Throughput]("receiver", lambda told: told.gigabit[1], larger=False, digits=2, unit="s/Gbit", goal=False),
]


def throughput(seconds: float, congestion: str = "cubic", suits: Suits = every) -> Measurement[Throughput]:
    return Measurement("throughput", partial(measure, seconds, congestion), FIGURES, suits)


def measure(seconds: float, congestion: str, moon: Node, sun: Node, way: Way) -> Throughput:
    there, sender, receiver = alone(moon, sun, way, seconds, congestion)
    turned = way._replace(addresses=way.addresses[::-1], programs=way.programs[::-1])
    back, *others = alone(sun, moon, turned, seconds, congestion)
    with ExitStack() as stack:
        pairs = [(moon, sun, way), (sun, moon, turned)]
        rates = [stack.enter_context(stream(*pair, seconds, congestion)) for pair in pairs]
    both = sum(rate[0] for rate in rates)
    return Throughput(there, back, both, (sender + others[0]) / 2, (receiver + others[1]) / 2)


def alone(source: Node, sink: Node, way: Way, seconds: float, congestion: str = "cubic") -> tuple[float, float, float]:
    """(Mbit/s, microseconds a packet of the source's end, of the sink's)."""
    before = [cpu_seconds(pid) for pid in way.programs]
    with stream(source, sink, way, seconds, congestion) as rate:
        pass
    spent = [cpu_seconds(pid) - start for pid, start in zip(way.programs, before, strict=True)]
    mbits, bits = rate
    sender, receiver = (each / (bits / PACKET) * 1e6 for each in spent or (math.nan, math.nan))
    return mbits, sender, receiver


@contextmanager
def stream(source: Node, sink: Node, way: Way, seconds: float, congestion: str) -> Iterator[list[float]]:
    """Begun in the block, ended after it; the list then has Mbit/s and bits. RuntimeError if nothing went through."""
    address = way.addresses[1]
    receiver = end(sink, "receive", address, str(PORT))
    assert receiver.stdout is not None
    receiver.stdout.readline()
    sender = end(source, "send", address, str(PORT), str(seconds), congestion)
    told: list[float] = []
    try:
        yield told
        if sender.wait():
            raise RuntimeError(f"{way.name}: the stream broke off")
        total, took = receiver.stdout.readline().split()
        receiver.wait()
    finally:
        for process in (sender, receiver):
            process.kill()  # no more than a formality where all went well
            process.wait()
    bits = int(total) * 8
    told += [bits / float(took) / 1e6, bits]


def end(node: Node, *arguments: str) -> subprocess.Popen[str]:
    return node.popen([sys.executable, "-m", "bench.stream", *arguments], stdout=subprocess.PIPE)


def main() -> int:
    parser = options(__doc__, rounds=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each stream")
    parser.add_argument("--congestion", default="cubic", help="TCP congestion control; pacing ones send small bursts")
    told = parser.parse_args()
    return program(told, [throughput(told.seconds, told.congestion)])


if __name__ == "__main__":
    sys.exit(main())
