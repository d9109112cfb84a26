"""Packets handed on from worker to worker: the last word of a hold comes behind all of them."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.core.packets import udp
from xfrmi.core import Engine, Interface
from xfrmi.daemon.worker_relay import PACKETS_A_TURN, RelayIn, RelayOut, relay

KEY = 5


class Two:
    def __init__(self) -> None:
        self.sending, self.receiving = relay()
        self.stop, self.parent = socket.socketpair()
        self.interface: Interface = Engine().add_interface("xfrm0", if_id=1)
        self.out = RelayOut(self.sending, lambda interface: KEY)
        self.into = RelayIn(self.receiving, {KEY: self.interface})
        self.taken: list[bytes] = []

    def send(self, count: int) -> None:
        for number in range(count):
            self.out.send(self.interface, udp("192.0.2.1", "192.0.2.2", b"%d" % number))

    def take(self) -> None:
        self.taken += [bytes(packet)[28:] for _, packet in self.into.receive()]  # type: ignore[arg-type]


@pytest.fixture
def two() -> Iterator[Two]:
    two = Two()
    yield two
    for sock in (two.sending, two.receiving, two.stop, two.parent):
        sock.close()


def test_all_that_was_sent_before_the_last_word_has_come(two: Two) -> None:
    count = 2 * PACKETS_A_TURN + 3
    two.send(1)
    two.out.end(7)
    two.send(count)
    two.out.end(8)
    two.into.drain(two.take, 8, two.stop)
    assert two.taken == [b"0", *(b"%d" % number for number in range(count))]
    two.send(1)
    two.take()
    assert len(two.taken) == count + 2, "it goes on as if nothing had been"


def test_who_is_told_to_go_on_does_not_wait_for_it(two: Two) -> None:
    two.send(3)
    two.out.end(7)
    two.parent.send(b"go on")
    two.into.drain(two.take, 8, two.stop)
    assert len(two.taken) == 3
    assert two.stop.recv(100) == b"go on"
