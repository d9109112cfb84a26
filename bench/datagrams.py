"""End to end: how many UDP datagrams a second get through without a loss, and how many when far too many are sent.

    python -m bench.datagrams [--quick] [--rounds 3] [--sizes 64 512 1400] [--json FILE] [name ...]

A rate is held if all that was sent arrives, and if at the end no more is on its way than BACKLOG: large queues would
otherwise pass for speed. The highest such rate is searched for. How many arrive is asked of the kernel: the socket at
the other end has room for a few datagrams, is not read, and counts what it drops. So no receiving program competes with
the tunnel for the machine, or is mistaken for its limit.
"""

from __future__ import annotations

import contextlib
import math
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from bench.cable import Way, cpu_seconds
from bench.figures import Figure
from bench.program import program
from bench.rounds import Measurement, Suits, every, options
from xfrmi.dev.sockets import receive_drops
from xfrmi.lab.topology import Node

SIZES = (64, 512, 1400)
"""Bytes of payload."""
BACKLOG = 0.02
"""Seconds' worth of datagrams."""
QUIET = 0.05
"""Seconds without an arrival: nothing is on its way any more."""
GROWTH = 1.4
STEPS = 5
"""Halvings of what is between a rate that was held and one that was not, 1.4 times as high: a good per cent."""
TRIES = 2
"""A rate is not held when it failed so often: a hiccup of the machine is no limit of a tunnel."""


class Datagrams(NamedTuple):
    lossless: float
    """Datagrams a second. 0: not even the lowest that was tried."""
    saturated: float
    """Datagrams a second that arrive while as many are sent as can be."""
    offered: float
    """... and how many those are."""
    sender: float
    """Microseconds of CPU that the sending daemon takes for a datagram at the lossless rate. NaN: no daemon."""
    receiver: float


FIGURES = [
    Figure[Datagrams]("no loss", lambda told: told.lossless, unit="packets/s"),
    Figure[Datagrams]("saturated", lambda told: told.saturated, unit="packets/s"),
    Figure[Datagrams]("of", lambda told: told.offered, unit="packets/s", goal=False),
    Figure[Datagrams]("CPU, sender", lambda told: told.sender, larger=False, digits=1, unit="us/packet"),
    Figure[Datagrams]("CPU, receiver", lambda told: told.receiver, larger=False, digits=1, unit="us/packet"),
]


class Trial(NamedTuple):
    offered: float
    """Datagrams a second."""
    rate: float
    """That arrived while they were sent, without the first quarter of the time."""
    held: bool
    spent: tuple[float, ...]
    """Microseconds of CPU for a datagram, of each daemon."""


def datagrams(size: int, seconds: float, suits: Suits = every) -> Measurement[Datagrams]:
    return Measurement(f"datagrams of {size} bytes", partial(measure, size, seconds), FIGURES, suits)


def measure(size: int, seconds: float, moon: Node, sun: Node, way: Way) -> Datagrams:
    with sender(moon, way) as sending:
        flooded = trial(sending, sun, way, size, math.inf, seconds)
        best = search(lambda rate: trial(sending, sun, way, size, rate, seconds), flooded.rate or 1000.0)
    nothing = (math.nan, math.nan)
    lossless, spent = (best.offered, best.spent or nothing) if best else (0.0, nothing)
    return Datagrams(lossless, flooded.rate, flooded.offered, *spent)


def search(attempt: Callable[[float], Trial], rate: float) -> Trial | None:
    """The trial with the highest rate that was held, up from `rate` or down from it."""
    best: Trial | None = None
    above = math.inf
    for _ in range(2 * STEPS):
        found = next((one for one in (attempt(rate) for _ in range(TRIES)) if one.held), None)
        if found and (best is None or found.offered > best.offered):
            best = found
        elif found:
            break  # the sender is as fast as it can be
        else:
            above = rate
        low = best.offered if best else 0.0
        if best and above < low * GROWTH ** (1 / 2**STEPS):
            break
        rate = low * GROWTH if above == math.inf else math.sqrt(low * above) if low else above / GROWTH
    return best


class Sender:
    """The program that sends, for as many trials as one likes."""

    def __init__(self, process: subprocess.Popen[str], name: str) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._in, self._out, self._name = process.stdin, process.stdout, name
        self._line()

    def begin(self, port: int, size: int, rate: float, seconds: float) -> None:
        self._in.write(f"{port} {size} {rate} {seconds}\n")
        self._in.flush()

    def end(self) -> tuple[int, float]:
        """Waits. Datagrams, seconds."""
        sent, took = self._line().split()
        return int(sent), float(took)

    def _line(self) -> str:
        line = self._out.readline()
        if not line:
            raise RuntimeError(f"{self._name}: the sender ended")
        return line


@contextmanager
def sender(node: Node, way: Way) -> Iterator[Sender]:
    command = [sys.executable, "-m", "bench.flood", way.addresses[1]]
    process = node.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield Sender(process, way.name)
    finally:
        process.kill()
        process.communicate()


def trial(sending: Sender, sun: Node, way: Way, size: int, rate: float, seconds: float) -> Trial:
    before = [cpu_seconds(pid) for pid in way.programs]
    with Sink(sun, way.addresses[1]) as sink:
        sending.begin(sink.port, size, rate, seconds)
        time.sleep(seconds / 4)
        early, at = sink.arrived(), time.monotonic()
        sent, took = sending.end()
        late = sink.arrived()
        passed = time.monotonic() - at
        total = sink.all()
    offered = sent / took
    held = total == sent and sent - late <= offered * BACKLOG
    spent = (cpu_seconds(pid) - start for pid, start in zip(way.programs, before, strict=True))
    return Trial(offered, (late - early) / passed, held, tuple(each / max(total, 1) * 1e6 for each in spent))


class Sink:
    """A socket that counts what arrives, and is hardly ever read."""

    def __init__(self, node: Node, address: str) -> None:
        with node:
            self._socket = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # the kernel's least: a few datagrams
        self._socket.setblocking(False)
        self._socket.bind((address, 0))
        self.port: int = self._socket.getsockname()[1]
        self._read = 0

    def arrived(self) -> int:
        """So far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(1)
                self._read += 1
        return self._read + receive_drops(self._socket)

    def all(self) -> int:
        """When no more come."""
        before = -1
        while (now := self.arrived()) != before:
            before = now
            time.sleep(QUIET)
        return now

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def main() -> int:
    parser = options(__doc__, rounds=3)
    parser.add_argument("--seconds", type=float, default=0.4, help="of each trial")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="bytes of payload")
    told = parser.parse_args()
    return program(told, [datagrams(size, told.seconds) for size in told.sizes])


if __name__ == "__main__":
    sys.exit(main())
