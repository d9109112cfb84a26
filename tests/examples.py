"""How much is tried of what could be: a share in `make test`, all of it and more in `make properties`.

    @settings(max_examples=examples(200))

    @thinned
    def test_every_combination_of_flags() -> None:
        for flags in some(range(256)): ...

hypothesis tries other examples in each run, so what one run does not find another does; but for CI, where it tries the
same each time, and `make properties` all of them. What is gone through from one end to the other is thinned evenly,
always the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeVar

import pytest

SHARE = 0.4
"""Of what a test would like to have."""
PERIOD, TAKEN = 5, (0, 2)
"""The same share. Five has no factor in common with the bits of a byte and of a field of flags."""

T = TypeVar("T")

thinned = pytest.mark.thinned
"""For each test that has fewer cases in `make test`: `make properties` goes by it, and by hypothesis's own mark."""


def examples(count: int) -> int:
    """`count` times $XFRMI_EXAMPLES, and SHARE of it where that is not set."""
    return max(round(count * float(os.environ.get("XFRMI_EXAMPLES", SHARE))), 1)


def some(cases: Iterable[T]) -> list[T]:
    """All of them where $XFRMI_EXAMPLES asks for it, else SHARE of them."""
    everything = float(os.environ.get("XFRMI_EXAMPLES", SHARE)) >= 1
    return [case for at, case in enumerate(cases) if everything or at % PERIOD in TAKEN]
