"""daemon.standing_queue: when a packet is lost on purpose, and from which flow."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

from xfrmi.core.interface import Interface
from xfrmi.daemon.data_path import DataPath
from xfrmi.daemon.standing_queue import INTERVAL, StandingQueue
from xfrmi.wire.vnet import GSO_TCPV4, SuperPacket

NOW = 1_700_000_000.0


def test_a_burst_loses_nothing() -> None:
    queue = StandingQueue()
    assert not any(queue.sheds(False, NOW + at * INTERVAL / 10) for at in range(10))


def test_a_queue_that_gets_empty_in_between_loses_nothing() -> None:
    queue = StandingQueue()
    assert not any(queue.sheds(at % 9 == 8, NOW + at * INTERVAL / 10) for at in range(100))


def test_a_standing_queue_loses_packets_and_more_the_longer_it_stands() -> None:
    queue, step = StandingQueue(), INTERVAL / 1000
    times = [at * step for at in range(5000) if queue.sheds(False, NOW + at * step)]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert abs(times[0] - INTERVAL) <= 2 * step
    for number, gap in enumerate(gaps, 2):
        assert abs(gap - INTERVAL / number**0.5) <= 3 * step


def test_once_empty_it_begins_anew() -> None:
    queue = StandingQueue()
    queue.sheds(False, NOW)
    assert queue.sheds(False, NOW + INTERVAL)
    assert not queue.sheds(True, NOW + INTERVAL)
    assert not queue.sheds(False, NOW + INTERVAL + 0.001)
    assert not queue.sheds(False, NOW + 1.9 * INTERVAL)


def test_only_streams_lose_and_the_device_tells() -> None:
    path: Any = DataPath.__new__(DataPath)
    path.shed = 0
    device: Any = SimpleNamespace(interface=Interface("xfrm0", 42))
    stream = SuperPacket(memoryview(bytes(3000)), GSO_TCPV4, 40, 1000, 20, 16)
    packets: list[Any] = [b"echo", stream, b"another", stream]
    path._shed(device, packets)
    assert packets == [b"echo", b"another", stream]
    for _ in range(2):
        path._shed(device, packets)
        assert packets == [b"echo", b"another"]
    assert device.interface.tx_dropped == path.shed == 2
