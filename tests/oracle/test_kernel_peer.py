"""xfrmi and a real kernel speak to each other: every algorithm, mode, pair of families, encapsulation, numbering."""

from __future__ import annotations

import itertools

import pytest

from tests.oracle.kernelpeer.algorithms import ALGORITHMS, OF_EACH_KIND
from tests.oracle.kernelpeer.case import MODES, Case
from tests.oracle.kernelpeer.exam import passes
from tests.oracle.kernelpeer.pair import Pair
from tests.oracle.spread import EVERYTHING
from tests.stage import on_stage

WAYS = [
    (mode, inner, outer, encap, esn)
    for mode, families in MODES.items()
    for (inner, outer), encap, esn in itertools.product(families, (False, True), (False, True))
]


def everything() -> list[Case]:
    return [
        Case(algorithm, *way, window=(32, 1024)[number % 3 == 0])
        for algorithm in ALGORITHMS
        for number, way in enumerate(WAYS)
    ]


def spread() -> list[Case]:
    """Each kind of algorithm in one way, and no way twice."""
    turns = (13 * number % len(WAYS) for number in itertools.count())
    return [
        Case(algorithm, *WAYS[turn], window=(32, 1024)[turn % 3 == 0])
        for algorithm, turn in zip(OF_EACH_KIND, turns, strict=False)
    ]


@on_stage
@pytest.mark.parametrize("case", everything() if EVERYTHING else spread(), ids=str)
def test_both_ways(kernel_pair: Pair, case: Case) -> None:
    """Echoes and TCP from either end; afterwards both have counted the same, and nothing was lost."""
    passes(kernel_pair, case)
