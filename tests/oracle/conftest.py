"""What tests against foreign implementations share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.oracle.kernelpeer.machine import BOOT_SECONDS
from tests.oracle.kernelpeer.pair import Pair, clean, last_words, pair
from tests.stage import SECONDS, Stage


@pytest.fixture(scope="session")
def kernel_pair() -> Iterator[Stage[Pair]]:
    """xfrmi and a kernel; it boots with the first test that asks."""
    with Stage(pair, clean, last_words, seconds=BOOT_SECONDS + SECONDS) as stage:
        yield stage
