"""What the end-to-end programs share: options, rounds in which each way has its turn, tables, ratios."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from bench.cable import Way, cable
from bench.contenders import CONTENDERS, ways
from xfrmi.lab.preflight import prepare
from xfrmi.lab.topology import Node

T = TypeVar("T", bound=NamedTuple)
NAME_WIDTH = 30
OURS, CABLE = "xfrmi", "plain"


class Figure(Generic[T]):
    """One column: how to take it from a result, and whether large is good."""

    def __init__(self, title: str, take: Callable[[T], float], *, larger: bool = True, digits: int = 0) -> None:
        self.title, self.take, self.larger, self.digits = title, take, larger, digits

    def median(self, results: Iterable[T]) -> float:
        return statistics.median(map(self.take, results))


def options(doc: str, rounds: int, quick_rounds: int = 1) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--rounds", type=int, help=f"how often each is measured; {rounds}, with --quick {quick_rounds}")
    parser.add_argument("--quick", action="store_true", help="IPv4 outside only, fewer rounds")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="start no others")
    parser.add_argument("--json", type=Path, help="write every single result here")
    parser.add_argument("names", nargs="*", metavar="name", help="only ways whose name has one of these in it")
    parser.set_defaults(usual=(quick_rounds, rounds))
    return parser


def run(options: argparse.Namespace, measure: Callable[[Node, Node, Way], T]) -> dict[Way, list[T]]:
    """Every round measures each way once, so that all see the same weather."""
    prepare()
    number = options.rounds or options.usual[0 if options.quick else 1]
    results: dict[Way, list[T]] = {}
    start = os.getloadavg()[0]
    with cable() as (moon, sun):
        chosen = [way for way in ways(moon, sun, options.only) if wanted(way, options)]
        for turn in range(number):
            for way in chosen:
                show(f"round {turn + 1} of {number}: {way.name}")
                results.setdefault(way, []).append(measure(moon, sun, way))
    show("")
    print(f"Linux {platform.release()}, Python {platform.python_version()}, {os.cpu_count()} cores, ", end="")
    print(f"{number} rounds, load average {start:.1f} before, {os.getloadavg()[0]:.1f} after")
    if options.json:
        options.json.write_text(json.dumps({way.name: [r._asdict() for r in each] for way, each in results.items()}))
    return results


def wanted(way: Way, options: argparse.Namespace) -> bool:
    by_name = not options.names or any(part in way.name for part in options.names)
    return by_name and not (options.quick and way.outer == 6)


def show(text: str) -> None:
    """Where the run is, for a person who waits."""
    if sys.stderr.isatty():
        print(f"\r  {text:60}\r", end="", file=sys.stderr, flush=True)


def table(title: str, results: dict[Way, list[T]], figures: Sequence[Figure[T]], spread: int = 1) -> None:
    """Medians; of the first `spread` figures also the smallest and the largest."""
    heads = (
        f"{fig.title:>10}" + (f"{'min':>8}{'max':>8}" if index < spread else "") for index, fig in enumerate(figures)
    )
    print(f"\n{title:{NAME_WIDTH}}{''.join(heads)}")
    for way, each in results.items():
        line = f"{way.name:{NAME_WIDTH}}"
        for index, figure in enumerate(figures):
            values = [figure.take(result) for result in each]
            cells = [statistics.median(values), *((min(values), max(values)) if index < spread else ())]
            line += "".join(f"{v:{w}.{figure.digits}f}" for v, w in zip(cells, (10, 8, 8), strict=False))
        print(line)


def ratios(results: dict[Way, list[T]], figures: Sequence[Figure[T]]) -> None:
    """How many times better than each peer xfrmi is, of medians, with the same family inside."""
    lines = []
    for ours, mine in results.items():
        for peer, theirs in results.items():
            if not ours.name.startswith(OURS) or peer.name.startswith((OURS, CABLE)) or ours.family != peer.family:
                continue
            line = f"{ours.name:{NAME_WIDTH}}{peer.contender:16}"
            for figure in figures:
                a, b = figure.median(mine), figure.median(theirs)
                better, worse = (a, b) if figure.larger else (b, a)
                line += f"{better / worse:10.2f}" if worse else f"{'-':>10}"
            lines.append(line)
    if lines:
        print(f"\n{'xfrmi, times as good as':{NAME_WIDTH + 16}}" + "".join(f"{figure.title:>10}" for figure in figures))
        print("\n".join(lines))
