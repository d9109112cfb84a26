"""The echoes of bench/latency.py over the loopback device: each is counted once, and the lost ones are."""

from __future__ import annotations

import math

import pytest

from bench.ping import HEAD, NUMBER, ask, echo, numbered
from tests.netns import in_netns, sysctl

TOKEN = b"whatever"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@in_netns
def test_every_echo_is_answered(address: str) -> None:
    took = ask(address, seconds=0.2, interval=0.01)
    assert 10 <= len(took) <= 41
    assert all(0 < each < math.inf for each in took)


@pytest.mark.parametrize(("address", "knob"), [
    ("127.0.0.1", "net.ipv4.icmp_echo_ignore_all"), ("::1", "net.ipv6.icmp.echo_ignore_all"),
])  # fmt: skip
@in_netns
def test_what_nobody_answers_is_lost(address: str, knob: str) -> None:
    sysctl(knob, 1)
    took = ask(address, seconds=0.05, interval=0.01)
    assert took and all(map(math.isinf, took))


def test_only_replies_to_our_own_requests_count() -> None:
    reply = HEAD.pack(129, 0, 0, 1, 7) + TOKEN + NUMBER.pack(7)
    assert numbered(reply, 129, TOKEN) == 7
    assert numbered(b"\x46" + bytes(23) + b"\0" + reply[1:], 0, TOKEN) == 7  # IPv4, with an option in its header
    assert numbered(echo(128, 1, 7, TOKEN), 129, TOKEN) is None
    assert numbered(reply, 129, b"otherone") is None
    assert numbered(reply[:-1], 129, TOKEN) is None
