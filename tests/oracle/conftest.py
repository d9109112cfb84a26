"""What tests against foreign implementations share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.oracle.kernelpeer.pair import Pair, clean, last_words, pair
from tests.stage import Stage


@pytest.fixture(scope="session")
def kernel_pair() -> Iterator[Stage[Pair]]:
    """xfrmi and a kernel; it boots with the first test that asks."""
    with Stage(pair, clean, last_words) as stage:
        yield stage
