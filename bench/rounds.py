"""What the end-to-end programs share: options, and rounds in which each way has its turn."""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from bench.cable import Way, cable
from bench.contenders import CONTENDERS, Contender, ways
from bench.figures import Figure, Results
from bench.show import Progress
from xfrmi.lab.preflight import prepare
from xfrmi.lab.topology import Node

T = TypeVar("T", bound=NamedTuple)


Suits = Callable[[Way], bool]


def every(way: Way) -> bool:
    return True


def simplest(way: Way) -> bool:
    """IPv4 all through: one way of each kind."""
    return way.family == way.outer == 4


class Measurement(Generic[T]):
    """Something that can be measured of every way, and how it is to be shown."""

    def __init__(
        self,
        title: str,
        measure: Callable[[Node, Node, Way], T],
        figures: Sequence[Figure[T]],
        suits: Suits = every,
    ) -> None:
        """`suits`: ways that it is worth its time on."""
        self.title, self.measure, self.figures, self.suits = title, measure, figures, suits


class Told(NamedTuple):
    """What came of a run."""

    results: list[Results[Any]]
    """For each measurement."""
    absent: list[str]
    """Who is not installed, and what would help."""
    failed: list[str]
    """What was tried, and why there is no result."""
    machine: dict[str, Any]


def options(doc: str, rounds: int, quick_rounds: int = 1) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--rounds", type=int, help=f"how often each is measured; {rounds}, with --quick {quick_rounds}")
    parser.add_argument("--quick", action="store_true", help="IPv4 outside only, fewer rounds")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="start no others")
    parser.add_argument("--json", type=Path, help="write every single result here")
    parser.add_argument("names", nargs="*", metavar="name", help="only ways whose name has one of these in it")
    parser.set_defaults(usual=(quick_rounds, rounds))
    return parser


def run(
    options: argparse.Namespace,
    measurements: Sequence[Measurement[Any]],
    contenders: Mapping[str, Contender] | None = None,
) -> Told:
    """Every round measures each way once: all see the same weather. `contenders`: instead of the usual ones."""
    prepare()
    number = options.rounds or options.usual[0 if options.quick else 1]
    results: list[Results[Any]] = [{} for _ in measurements]
    before, began = os.getloadavg()[0], time.monotonic()
    with cable() as (moon, sun):
        found, absent, failed = ways(moon, sun, contenders or {name: CONTENDERS[name] for name in options.only})
        chosen = [way for way in found if wanted(way, options)]
        turns = [(m, way) for m in range(len(measurements)) for way in chosen if measurements[m].suits(way)]
        with Progress(number * len(turns)) as progress:
            for turn in range(number):
                for index, way in turns:
                    measurement = measurements[index]
                    progress.doing(f"round {turn + 1} of {number}: {measurement.title}: {way.name}")
                    try:
                        result = measurement.measure(moon, sun, way)
                    except (RuntimeError, OSError, ValueError) as error:  # of one contender: the others go on
                        failed.append(f"NOT MEASURED: {measurement.title}, {way.name}, round {turn + 1}: {error}")
                    else:
                        results[index].setdefault(way, []).append(result)
                    progress.advance()
    machine = {
        "kernel": platform.release(), "python": platform.python_version(), "cores": os.cpu_count(), "rounds": number,
        "load_before": before, "load_after": os.getloadavg()[0], "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip
    return Told(results, absent, failed, machine)


def wanted(way: Way, options: argparse.Namespace) -> bool:
    by_name = not options.names or any(part in way.name for part in options.names)
    return by_name and not (options.quick and way.outer == 6)


def plain_results(results: Results[Any]) -> dict[str, list[dict[str, float | None]]]:
    """For JSON, which knows neither infinity nor NaN: null."""
    return {way.name: [finite(result._asdict()) for result in each] for way, each in results.items()}


def finite(fields: dict[str, float]) -> dict[str, float | None]:
    return {name: value if abs(value) < float("inf") else None for name, value in fields.items()}
