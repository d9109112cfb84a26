"""Memory: what counts as growth, and that the daemon's is looked at while traffic flows."""

from __future__ import annotations

import os
from mmap import mmap

import pytest

from bench.memory import Memory, measured, resident, sections
from tests.netns import in_netns, need_tun


def looks(*moon: float) -> Memory:
    return Memory((40, 40), [(value, 50.0) for value in moon], 0, 0)


def test_growth_is_from_the_second_third_to_the_last() -> None:
    assert looks(41, 45, 47, 48, 48, 48, 48, 48, 48).growth == (0, 0)  # warming up is no growth
    assert looks(41, 42, 43, 44, 45, 46, 47, 48, 49).growth == (3, 0)
    assert looks(41).growth == (0, 0)
    assert looks(41, 43).growth == (0, 0)
    assert looks(41, 43, 44).growth == (1, 0)


def test_resident_is_that_of_the_process() -> None:
    with mmap(-1, 1 << 24) as held:
        before = resident(os.getpid())
        for _ in range(16):
            held.write(os.urandom(1 << 20))
        assert resident(os.getpid()) - before == pytest.approx(16, abs=4)


@in_netns
def test_daemons_under_many_flows() -> None:
    need_tun()
    found = measured(2.4, 20)
    assert 2 <= len(found.looks) <= 3 and all(min(look) > 10 for look in (found.before, *found.looks))
    assert 0 < found.arrived <= found.datagrams
    (section,) = sections(found, 2.4, 20)
    assert [row[0] for row in section.rows] == ["daemon on moon", "daemon on sun"]
