"""xfrmi and a real kernel speak to each other: every algorithm, mode, pair of families, encapsulation, numbering."""

from __future__ import annotations

import itertools
import os

import pytest

from tests.oracle.kernelpeer.algorithms import ALGORITHMS
from tests.oracle.kernelpeer.case import MODES, Case
from tests.oracle.kernelpeer.exam import passes
from tests.oracle.kernelpeer.pair import Pair
from tests.stage import on_stage

EVERYTHING = bool(os.environ.get("XFRMI_INTEROP"))
"""`make interop`. Otherwise each algorithm meets each mode, and these take turns in families, encapsulation, ESN."""


def cases() -> list[Case]:
    chosen = []
    for mode, families in MODES.items():
        ways = list(itertools.product(families, (False, True), (False, True)))
        for number, algorithm in enumerate(ALGORITHMS):
            for turn, ((inner, outer), encap, esn) in enumerate(ways):
                if EVERYTHING or turn == number * 5 % len(ways):
                    chosen.append(Case(algorithm, mode, inner, outer, encap, esn, window=(32, 1024)[turn % 3 == 0]))
    return chosen


@on_stage
@pytest.mark.parametrize("case", cases(), ids=str)
def test_both_ways(kernel_pair: Pair, case: Case) -> None:
    """Echoes and TCP from either end; afterwards both have counted the same, and nothing was lost."""
    passes(kernel_pair, case)
