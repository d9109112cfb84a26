"""What several workers tell a listener: by time, bounded, and from their successors too. Without processes."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.daemon.loop import turn
from xfrmi.core.interface import Interfaces
from xfrmi.daemon import worker_traces
from xfrmi.daemon.loop import Loop
from xfrmi.daemon.worker_channel import Down, TraceWanted
from xfrmi.daemon.worker_traces import HOLD, Traces
from xfrmi.errors import XfrmError

NOW = 1000.0


class World:
    """Two workers that are asked."""

    def __init__(self) -> None:
        self.now = NOW
        self.loop = Loop()
        self.loop.clock = lambda: self.now
        interfaces = Interfaces()
        interfaces.add("xfrm0", 42)
        self.workers: dict[int, socket.socket] = {}
        self.woken = self.settled = 0
        self.asked: list[tuple[int, Mapping[str, Any]]] = []
        self.traces = Traces(2, interfaces, self.loop, self._send, self._settle)

    def _send(self, number: int, message: Down, fds: Sequence[int]) -> None:
        assert isinstance(message, TraceWanted)
        self.asked.append((number, message.request))
        self.workers[number] = socket.socket(fileno=os.dup(fds[0]))

    def _settle(self) -> None:
        self.settled += 1

    def wake(self) -> None:
        self.woken += 1

    def tell(self, number: int, *times: float) -> None:
        lines = [json.dumps({"time": when, "by": number}, separators=(",", ":")) for when in times]
        self.workers[number].sendall("".join(f"{line}\n" for line in lines).encode())
        turn(self.loop)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.traces.tick(self.now)


def told(data: bytes) -> list[tuple[float, int]]:
    return [(line["time"], line["by"]) for line in map(json.loads, data.splitlines())]


def test_each_worker_is_asked_what_the_listener_asked() -> None:
    world = World()
    request = {"interface": "xfrm0", "dir": "in"}
    world.traces.subscribe(request, world.wake)
    assert world.asked == [(0, request), (1, request)] and world.settled == 1
    with pytest.raises(XfrmError, match="no xfrm interface"):
        world.traces.subscribe({"interface": "eth9"}, world.wake)


def test_by_time_and_no_later_than_need_be() -> None:
    world = World()
    stream = world.traces.subscribe({}, world.wake)
    world.workers[0].sendall(b'{"time":')
    turn(world.loop)
    assert world.traces.next_deadline() is None
    world.workers[0].sendall(b"%f,\"by\":0}\n" % (NOW - 0.03))
    world.tell(1, NOW - 0.04, NOW - 0.01)
    world.tell(0, NOW - 0.02)
    assert stream.take() == b"", "who knows what a worker is about to tell"
    deadline = world.traces.next_deadline()
    assert deadline is not None and deadline <= NOW + HOLD
    world.pass_time(HOLD)
    assert world.woken == 1
    assert told(stream.take()) == [(NOW - 0.04, 1), (NOW - 0.03, 0), (NOW - 0.02, 0), (NOW - 0.01, 1)]
    assert stream.take() == b"" and world.traces.next_deadline() is None


def test_a_clock_that_is_set_back_holds_nothing_up() -> None:
    world = World()
    stream = world.traces.subscribe({}, world.wake)
    world.tell(0, NOW)
    world.now -= 3600
    assert told(stream.take()) == [(NOW, 0)]


def test_a_successor_is_asked_too() -> None:
    world = World()
    stream = world.traces.subscribe({}, world.wake)
    world.tell(1, NOW)
    world.workers[1].close()
    turn(world.loop)
    world.traces.begin(1)
    world.tell(1, NOW + 1)
    world.pass_time(HOLD + 1)
    assert told(stream.take()) == [(NOW, 1), (NOW + 1, 1)]


def test_nobody_is_asked_any_more_when_the_listener_has_gone() -> None:
    world = World()
    stream = world.traces.subscribe({}, world.wake)
    stream.close()
    for worker in world.workers.values():
        assert worker.recv(1000) == b""
    world.traces.begin(0)
    world.traces.tick(NOW)
    assert world.traces.next_deadline() is None


def test_what_the_listener_does_not_take_stays_with_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_traces, "MAX_QUEUED", 1000)
    world = World()
    stream = world.traces.subscribe({}, world.wake)
    world.tell(0, *[NOW] * 60)
    world.workers[0].setblocking(False)
    sent = 0
    with pytest.raises(BlockingIOError):
        while sent < 1 << 22:
            sent += world.workers[0].send(b"x" * 10000)
            turn(world.loop)
    world.now += HOLD
    assert len(told(stream.take())) == 60
    turn(world.loop)
    assert world.workers[0].send(b"x"), "and now they are heard again"
