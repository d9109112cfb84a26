"""What is made of many results: columns, medians, spread, percentiles, how many times better than whom."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from bench.cable import Way

T = TypeVar("T")
OURS, CABLE, BARE = "xfrmi", "plain veth", "no crypto"
"""Contenders, or how their names begin. The latter two are floors: what no tunnel here can be better than."""


class Spread(NamedTuple):
    """Of one figure over the rounds."""

    median: float
    low: float
    high: float


class Figure(Generic[T]):
    """One column: how to take it from a result, and whether large is good."""

    def __init__(
        self, title: str, take: Callable[[T], float], *, larger: bool = True, digits: int = 0, unit: str = "",
        goal: bool = True,
    ) -> None:  # fmt: skip
        """`goal`: xfrmi is compared with its peers by it."""
        self.title, self.take, self.larger, self.digits, self.unit = title, take, larger, digits, unit
        self.goal = goal

    def median(self, results: Iterable[T]) -> float:
        return self.spread(results).median

    def spread(self, results: Iterable[T]) -> Spread:
        return spread(list(map(self.take, results)))

    def text(self, value: float) -> str:
        """'-' for what does not apply, 'lost' for what never arrived."""
        if math.isnan(value):
            return "-"
        return f"{value:,.{self.digits}f}" if math.isfinite(value) else "lost"


Results = dict[Way, list[T]]
"""Of one measurement: a result for each round."""


def spread(values: Sequence[float]) -> Spread:
    """What is not a number is left out; nothing but such: that is the median, too."""
    real = [value for value in values if not math.isnan(value)]
    if not real:
        return Spread(math.nan, math.nan, math.nan)
    return Spread(statistics.median(real), min(real), max(real))


def percentile(values: Sequence[float], percent: float) -> float:
    """By nearest rank: the smallest value that so many per cent of all do not exceed. NaN if there is none."""
    if not values:
        return math.nan
    rank = math.ceil(len(values) * percent / 100)
    return sorted(values)[max(rank, 1) - 1]


class Comparison(NamedTuple):
    ours: str
    peer: str
    times: list[float]
    """For each figure, how many times better we are, of medians; NaN where that cannot be said."""


def compare(results: Results[T], figures: Sequence[Figure[T]]) -> list[Comparison]:
    """Each way of ours with each peer that has the same family inside."""
    found = []
    for ours, mine in results.items():
        for peer, theirs in results.items():
            if not is_ours(ours) or is_ours(peer) or peer.contender in (CABLE, BARE) or ours.family != peer.family:
                continue
            times = [better(figure, figure.median(mine), figure.median(theirs)) for figure in figures]
            found.append(Comparison(ours.name, peer.contender, times))
    return found


def is_ours(way: Way) -> bool:
    return way.contender.startswith(OURS)


def better(figure: Figure[Any], mine: float, theirs: float) -> float:
    above, below = (mine, theirs) if figure.larger else (theirs, mine)
    return above / below if below and math.isfinite(below) and math.isfinite(above) else math.nan
