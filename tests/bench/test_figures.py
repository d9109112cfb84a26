"""The arithmetic of the bench: medians, spread, percentiles, comparisons."""

from __future__ import annotations

import math
from typing import NamedTuple

from bench.cable import Way
from bench.everything import DIFFERENCES
from bench.figures import Figure, compare, percentile, spread
from bench.ratios import opening, sealing
from bench.rounds import plain_results


class Result(NamedTuple):
    rate: float
    delay: float


RATE = Figure[Result]("rate", lambda told: told.rate)
DELAY = Figure[Result]("delay", lambda told: told.delay, larger=False)


def way(contender: str, family: int = 4) -> Way:
    return Way(contender, family, ("", ""))


def test_percentile_is_by_nearest_rank() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert percentile(values, 50) == 50
    assert percentile(values, 99) == 99
    assert percentile(values, 100) == 100
    assert percentile([7.0], 1) == 7
    assert math.isnan(percentile([], 50))


def test_what_was_lost_moves_the_percentile_not_the_median() -> None:
    echoes = [1.0] * 98 + [math.inf] * 2
    assert percentile(echoes, 50) == 1
    assert percentile(echoes, 98) == 1
    assert percentile(echoes, 99) == math.inf


def test_spread() -> None:
    assert spread([3.0, 1.0, 2.0]) == (2, 1, 3)
    assert spread([3.0, math.nan, 1.0]) == (2, 1, 3)
    assert all(map(math.isnan, spread([math.nan])))
    assert spread([1.0, math.inf, 2.0]) == (2, 1, math.inf)


def test_comparison_is_with_peers_of_the_same_family_and_a_better_figure_is_above_1() -> None:
    results = {
        way("plain veth"): [Result(1000, 1)],
        way("no crypto"): [Result(500, 2)],
        way("xfrmi UDP"): [Result(80, 5), Result(100, 10), Result(300, 20)],
        way("xfrmi raw", 6): [Result(7, 7)],
        way("wireguard-go"): [Result(50, 30)],
    }
    (only,) = compare(results, [RATE, DELAY])
    assert (only.ours, only.peer, only.times) == (way("xfrmi UDP").name, "wireguard-go", [2, 3])


def test_comparison_with_what_never_arrived_says_nothing() -> None:
    results = {way("xfrmi UDP"): [Result(10, 5)], way("wireguard-go"): [Result(0, math.inf)]}
    (only,) = compare(results, [RATE, DELAY])
    assert all(map(math.isnan, only.times)) and len(only.times) == 2


def test_json_knows_no_infinity() -> None:
    results = {way("plain veth"): [Result(math.inf, math.nan), Result(1, 2)]}
    assert plain_results(results) == {"plain veth, IPv4": [{"rate": None, "delay": None}, {"rate": 1, "delay": 2}]}


def test_differences_are_between_rows_that_there_are() -> None:
    rows = {**sealing(200), **opening(200)}
    assert all(more in rows and (not less or less in rows) for _, more, less in DIFFERENCES)
