"""The hosts that the conformance tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.stage import Stage


@pytest.fixture(scope="package")
def hosts() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()
