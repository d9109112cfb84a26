"""End to end: how long an ICMP echo takes, on an idle tunnel, and beside one TCP stream through the same tunnel.

    python -m bench.latency [--quick] [--rounds 5] [--seconds 1.5] [--json FILE] [name ...]

Echoes leave at their time, whether or not earlier ones have come back (ping.py), and a lost one counts as infinitely
late: where one in a hundred is lost there is no 99th percentile to be told, and none is.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from functools import partial
from typing import NamedTuple

from bench.cable import Way
from bench.figures import Figure, percentile
from bench.program import program
from bench.rounds import Measurement, Suits, every, options
from bench.throughput import stream
from xfrmi.lab.topology import Node

IDLE_INTERVAL, LOADED_INTERVAL = 0.005, 0.005
"""Seconds from echo to echo, on average."""
RAMP = 0.4
"""Seconds that the stream has to fill the tunnel before the first echo."""
SLACK = 1.0
"""Seconds that the stream goes on when all echoes should have left: it takes a moment to start a program."""


class Latency(NamedTuple):
    """Microseconds; infinite where too many echoes were lost."""

    idle: float
    idle_p99: float
    loaded: float
    loaded_p99: float
    idle_lost: float
    """Per cent."""
    loaded_lost: float
    mbits: float
    """Of the stream beside the echoes."""
    echoes: int
    """Sent on the idle tunnel."""


FIGURES = [
    Figure[Latency]("idle, median", lambda told: told.idle, larger=False, unit="us"),
    Figure[Latency]("idle, 99th", lambda told: told.idle_p99, larger=False, unit="us"),
    Figure[Latency]("loaded, median", lambda told: told.loaded, larger=False, unit="us"),
    Figure[Latency]("loaded, 99th", lambda told: told.loaded_p99, larger=False, unit="us"),
    Figure[Latency]("lost, idle", lambda told: told.idle_lost, larger=False, unit="%", digits=1, goal=False),
    Figure[Latency]("lost, loaded", lambda told: told.loaded_lost, larger=False, unit="%", digits=1, goal=False),
    Figure[Latency]("the stream", lambda told: told.mbits, unit="Mbit/s", goal=False),
]


def latency(seconds: float, suits: Suits = every) -> Measurement[Latency]:
    return Measurement("latency", partial(measure, seconds), FIGURES, suits)


def measure(seconds: float, moon: Node, sun: Node, way: Way) -> Latency:
    idle = ping(moon, way, seconds, IDLE_INTERVAL)
    with stream(moon, sun, way, RAMP + seconds + SLACK, "cubic") as rate:
        time.sleep(RAMP)
        loaded = ping(moon, way, seconds, LOADED_INTERVAL)
    return Latency(
        percentile(idle, 50), percentile(idle, 99), percentile(loaded, 50), percentile(loaded, 99),
        lost(idle), lost(loaded), rate[0], len(idle),
    )  # fmt: skip


def ping(source: Node, way: Way, seconds: float, interval: float) -> list[float]:
    """Microseconds for each echo sent, infinite for those that never came back."""
    command = [sys.executable, "-m", "bench.ping", way.addresses[1], str(seconds), str(interval)]
    asking = source.popen(command, stdout=subprocess.PIPE)
    answer, _ = asking.communicate()
    if asking.returncode:
        raise RuntimeError(f"{way.name}: {command[2]} failed")
    return [float(word) for word in answer.split()]


def lost(echoes: list[float]) -> float:
    return sum(map(math.isinf, echoes)) / len(echoes) * 100


def main() -> int:
    parser = options(__doc__, rounds=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of echoes, idle and loaded each")
    told = parser.parse_args()
    return program(told, [latency(told.seconds)])


if __name__ == "__main__":
    sys.exit(main())
