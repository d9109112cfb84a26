"""xfrmi and a real kernel speak to each other: every algorithm, mode, pair of families, encapsulation, numbering."""

from __future__ import annotations

import itertools

import pytest

from tests.oracle.kernelpeer.algorithms import ALGORITHMS
from tests.oracle.kernelpeer.case import MODES, Case
from tests.oracle.kernelpeer.exam import passes
from tests.oracle.kernelpeer.pair import Pair
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


@on_stage
@pytest.mark.parametrize("case", everything(), ids=str)
def test_both_ways(kernel_pair: Pair, case: Case) -> None:
    """Echoes and TCP from either end; afterwards both have counted the same, and nothing was lost."""
    passes(kernel_pair, case)
