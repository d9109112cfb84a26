"""core.aevents: 3.7, what a state has counted is told to whoever listens on group AEVENTS."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.packets import udp
from tests.core.pair import INNER, NOW, OUTER, Pair, receive
from xfrmi.core import StateInfo
from xfrmi.core.events import Event, StateReplayed
from xfrmi.wire.xfrm_event_msg import AE_CAUSE_REPLAY, AE_CAUSE_TIMER, AE_CAUSE_UPDATE
from xfrmi.wire.xfrm_types import Replay, StateId

PACKET = udp(*INNER[4])
SENDING = StateId(OUTER[4][1], 0x1000)


class Heard(Pair):
    """A Pair, and what the aevents of both ends said: (cause, last number sent, highest received)."""

    def __init__(self, listeners: int = 1, **fields: Any) -> None:
        super().__init__(**fields)
        self._heard: list[Event] = []
        for host in (self.left, self.right):
            host.engine.sad.aevents.listeners = listeners
            host.engine.subscribe(self._heard.append)

    def heard(self) -> list[tuple[int, int, int]]:
        told = [(event.cause, *_numbers(event.info)) for event in self._heard if isinstance(event, StateReplayed)]
        self._heard.clear()
        return told


def _numbers(info: StateInfo) -> tuple[int, int]:
    assert info.replay is not None
    return info.replay.oseq, info.replay.seq


def test_the_default_is_two_packets_or_a_second() -> None:
    pair = Heard()
    pair.emit(PACKET)
    assert pair.heard() == [], "one packet: less than the threshold"
    pair.emit(PACKET)
    assert pair.heard() == [(AE_CAUSE_REPLAY, 2, 0)]
    pair.emit(PACKET)
    assert pair.heard() == []
    assert pair.left.engine.next_deadline() == NOW + 1
    pair.left.engine.tick(NOW + 1)
    assert pair.heard() == [(AE_CAUSE_TIMER, 3, 0)]


def test_a_receiver_tells_what_it_has_received() -> None:
    pair = Heard()
    outer = pair.emit(*[PACKET] * 5)
    assert pair.heard() == [(AE_CAUSE_REPLAY, 5, 0)]
    receive(pair.right.engine, outer)
    assert pair.heard() == [(AE_CAUSE_REPLAY, 0, 5)]


def test_after_a_quiet_time_the_first_packet_tells() -> None:
    pair = Heard()
    pair.emit(PACKET, PACKET)
    pair.left.engine.tick(NOW + 1)
    assert pair.heard() == [(AE_CAUSE_REPLAY, 2, 0)], "nothing has moved in that second"
    assert pair.left.engine.next_deadline() != NOW + 2
    pair.emit(PACKET, now=NOW + 30)
    assert pair.heard() == [(AE_CAUSE_TIMER, 3, 0)]


def test_a_packet_out_of_order_has_moved_something_too() -> None:
    pair = Heard(replay_thresh=1)
    first, second = pair.emit(PACKET), pair.emit(PACKET)
    pair.heard()
    receive(pair.right.engine, second)
    assert pair.heard() == [(AE_CAUSE_REPLAY, 0, 2)]
    receive(pair.right.engine, first)
    assert pair.heard() == []
    pair.right.engine.tick(NOW + 1)
    assert pair.heard() == [(AE_CAUSE_TIMER, 0, 2)]


def test_thresholds_of_its_own() -> None:
    pair = Heard(replay_thresh=4, etimer_thresh=50)
    pair.emit(PACKET, PACKET, PACKET)
    pair.left.engine.tick(NOW + 4.9)
    assert pair.heard() == []
    pair.left.engine.tick(NOW + 5)
    assert pair.heard() == [(AE_CAUSE_TIMER, 3, 0)]
    pair.left.engine.sad.set_replay(SENDING, replay_thresh=1)
    assert pair.heard() == [(AE_CAUSE_UPDATE, 3, 0)]
    pair.emit(PACKET)
    assert pair.heard() == [(AE_CAUSE_REPLAY, 4, 0)]


def test_no_timer_no_telling_because_of_time() -> None:
    pair = Heard(etimer_thresh=0)
    pair.emit(PACKET)
    pair.left.engine.tick(NOW + 100)
    assert pair.heard() == []


@pytest.mark.parametrize("replay", [Replay(oseq=100), Replay(oseq=2)])
def test_numbers_that_are_set_have_not_moved(replay: Replay) -> None:
    """NEWAE tells by itself, once."""
    pair = Heard()
    pair.emit(PACKET, PACKET)
    pair.left.engine.sad.set_replay(SENDING, replay=replay)
    pair.heard()
    pair.left.engine.tick(NOW + 1)
    assert pair.heard() == []


def test_nobody_listens() -> None:
    pair = Heard(listeners=0)
    pair.send(*[PACKET] * 9)
    pair.left.engine.tick(NOW + 1)
    assert pair.heard() == []


def test_a_state_that_is_gone_says_nothing() -> None:
    pair = Heard()
    pair.emit(PACKET)
    pair.left.engine.delete_state(SENDING, NOW)
    pair.left.engine.tick(NOW + 1)
    assert pair.heard() == []
