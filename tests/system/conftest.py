"""The hosts that most system tests share; those that change for good what is around a tunnel build their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import xfrmi.daemon.main  # for the daemons that are forked
import xfrmi.daemon.workers  # noqa: F401
from tests.stage import Stage
from tests.system.hosts import Hosts, two_hosts
from tests.system.stage import clean, last_words


@pytest.fixture(scope="package")
def hosts() -> Iterator[Stage[Hosts]]:
    with Stage(two_hosts, clean, last_words) as stage:
        yield stage
