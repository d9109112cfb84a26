"""Packet rates: the search for the highest without a loss, and that what was sent is what is counted."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable

import pytest

from bench.cable import OUTER, Way, cable
from bench.datagrams import Sink, Trial, search, sender, trial
from bench.flood import BATCH, flood
from tests.netns import in_netns, sysctl

Attempt = Callable[[float], Trial]


def tunnel(capacity: float, sender: float = math.inf, hiccup: int = -1) -> tuple[list[float], Attempt]:
    """What holds every rate up to `capacity`, but for one time; asked by a program that sends no more than `sender`."""
    asked: list[float] = []

    def attempt(rate: float) -> Trial:
        asked.append(rate)
        offered = min(rate, sender)
        return Trial(offered, min(offered, capacity), offered <= capacity and len(asked) - 1 != hiccup, ())

    return asked, attempt


@pytest.mark.parametrize("start", [2_000.0, 9_000.0, 10_000.0, 12_345.0, 30_000.0])
def test_the_highest_rate_without_a_loss_is_found(start: float) -> None:
    asked, attempt = tunnel(10_000)
    best = search(attempt, start)
    assert best is not None and 9_500 < best.offered <= 10_000
    assert len(asked) <= 20


def test_a_hiccup_is_no_limit() -> None:
    _, attempt = tunnel(10_000, hiccup=1)
    best = search(attempt, 8_000)
    assert best is not None and best.offered > 9_500


def test_a_sender_that_can_do_no_more_ends_the_search() -> None:
    asked, attempt = tunnel(10_000, sender=5_000)
    best = search(attempt, 4_000)
    assert best is not None and best.offered == 5_000 and len(asked) <= 3


def test_where_every_rate_loses_there_is_none() -> None:
    _, attempt = tunnel(0)
    assert search(attempt, 1_000) is None


@in_netns
def test_every_datagram_is_counted_once() -> None:
    """Far more than the socket holds, and nobody reads."""
    with cable() as (moon, sun), Sink(sun, OUTER[4][1]) as sink:
        with moon:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            sock.connect((OUTER[4][1], sink.port))
            sent, took = flood(sock, bytes(64), math.inf, 0.05)
        assert took >= 0.05 and sent >= BATCH
        assert sink.arrived() == sink.all() == sent


@in_netns
def test_a_trial_tells_whether_all_arrived() -> None:
    with cable() as (moon, sun):
        way = Way("plain veth", 4, OUTER[4])
        with sun:
            sysctl("net.ipv4.ipfrag_low_thresh", 0)
            sysctl("net.ipv4.ipfrag_high_thresh", 0)  # what comes in pieces is lost here
        with sender(moon, way) as sending:
            whole = trial(sending, sun, way, 512, 1_000, 0.1)
            pieces = trial(sending, sun, way, 3_000, 1_000, 0.1)
    assert whole.held and whole.rate > 0 and 0 < whole.offered <= 1_100
    assert not pieces.held and pieces.rate == 0
    assert whole.spent == ()
