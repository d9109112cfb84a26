"""What only time brings about, through an Engine: limits, keepalives, deadlines (kernel-behaviour 3.4, 3.8)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.packets import udp
from tests.core.pair import INNER, NOW, OUTER, Host, Pair, policies, raised, receive, tunnel_state, wire
from tests.core.samples import Log
from xfrmi.core import Engine, PolicyInfo, Selector, Template
from xfrmi.core import events as ev
from xfrmi.core.outgoing import Outgoing
from xfrmi.errors import XfrmError
from xfrmi.wire.ip import checksum, pseudo_header_sum
from xfrmi.wire.udpencap import KEEPALIVE
from xfrmi.wire.xfrm_const import IPPROTO_UDP, Dir, SaDir
from xfrmi.wire.xfrm_types import Encap, Limits, Mark, PolicyId, StateId

ANY = Selector.parse("0.0.0.0/0")
PACKET = udp(*INNER[4])
LENGTH = len(PACKET)
START = float(int(NOW))


def logged(engine: Engine) -> Log:
    log = Log()
    engine.subscribe(log)
    return log


def expiries(log: Log) -> list[tuple[str, bool]]:
    """(state or policy, hard?) in order."""
    found = []
    for event in log.take():
        if isinstance(event, ev.StateExpired | ev.PolicyExpired):
            found.append((type(event).__name__.removesuffix("Expired").lower(), event.hard))
    return found


def run(engine: Engine, until: float) -> list[Outgoing]:
    """Tick at every deadline, as the daemon does."""
    sent = []
    while (deadline := engine.next_deadline()) is not None and deadline <= until:
        sent += engine.tick(deadline)
        later = engine.next_deadline()
        assert later is None or later > deadline, "a deadline that has been met is gone"
    return sent


# Limits -----------------------------------------------------------------------------------------------------------


def test_LT_03_soft_and_hard_limits_of_packets() -> None:
    pair = Pair(limits=Limits(soft_packets=2, hard_packets=4))
    log = logged(pair.left.engine)
    told = []
    for _ in range(5):
        pair.emit(PACKET)
        told.append(expiries(log))
    assert told == [[], [], [("state", False)], [], [("state", True)]]
    assert pair.left.moved() == {"XfrmOutStateExpired": 1}


def test_LT_04_limits_of_bytes_are_of_inner_packets() -> None:
    pair = Pair(limits=Limits(soft_bytes=LENGTH, hard_bytes=2 * LENGTH))
    here, there = logged(pair.left.engine), logged(pair.right.engine)
    outer = pair.emit(PACKET, PACKET, PACKET)
    assert len(outer) == 2 and expiries(here) == [("state", False), ("state", True)]
    assert receive(pair.right.engine, outer) == [PACKET] * 2
    assert expiries(there) == [("state", False)]


def test_LT_05_limits_of_time() -> None:
    pair = Pair(limits=Limits(soft_add=60, hard_add=100))
    log = logged(pair.left.engine)
    engine = pair.left.engine
    run(engine, NOW + 59)
    assert expiries(log) == []
    run(engine, NOW + 62)
    assert expiries(log) == [("state", False)] * 2
    assert len(pair.emit(PACKET, now=NOW + 62)) == 1, "dying, not dead"
    run(engine, NOW + 102)
    assert expiries(log) == [("state", True)] * 2
    assert not list(engine.states()) and engine.next_deadline() is None
    assert pair.emit(PACKET, now=NOW + 102) == [] and pair.left.moved() == {"XfrmOutNoStates": 1}


def test_LT_05_limits_of_use_begin_with_the_first_packet() -> None:
    pair = Pair(limits=Limits(hard_use=50))
    engine, log = pair.left.engine, logged(pair.left.engine)
    run(engine, NOW + 500)
    assert expiries(log) == []
    assert len(pair.emit(PACKET, now=NOW + 500)) == 1
    run(engine, NOW + 600)
    assert expiries(log) == [("state", True)]
    assert [state.spi for state in engine.states()] == [0x1001], "the one that was not used is still there"


def test_an_expired_policy_lets_nothing_out() -> None:
    pair = Pair()
    engine, log = pair.left.engine, logged(pair.left.engine)
    engine.update_policy(
        PolicyInfo(ANY, Dir.OUT, 42, (Template(*OUTER[4], reqid=1),), limits=Limits(soft_add=1, hard_add=3)), NOW
    )
    log.clear()
    assert len(pair.emit(PACKET, now=NOW)) == 1
    run(engine, NOW + 5)
    assert expiries(log) == [("policy", False), ("policy", True)]
    assert pair.emit(PACKET, now=NOW + 5) == [] and pair.left.moved() == {}


def test_subscribers_hear_everything_in_order() -> None:
    host = Host()
    first, second = logged(host.engine), logged(host.engine)
    state, (policy, *_) = tunnel_state(*OUTER[4], 0x1000), policies(*OUTER[4], out=True)
    host.engine.add_state(state, NOW)
    host.engine.update_state(state, NOW)
    host.engine.add_policy(policy, NOW)
    host.engine.update_policy(policy, NOW)
    host.engine.delete_policy(PolicyId(policy.selector, policy.dir, policy.if_id), NOW)
    host.engine.delete_state(StateId(OUTER[4][1], 0x1000), NOW)
    assert [type(event) for event in first] == [
        ev.StateAdded, ev.StateUpdated, ev.PolicyAdded, ev.PolicyUpdated, ev.PolicyDeleted, ev.StateDeleted,
    ]  # fmt: skip
    assert first == second


def test_refused_requests_say_and_change_nothing() -> None:
    host = Host()
    log = logged(host.engine)
    host.engine.add_state(tunnel_state(*OUTER[4], 0x1000, nat_keepalive_interval=20, dir=SaDir.OUT, encap=Encap(),
                                       replay_window=0), NOW)  # fmt: skip
    generation, deadline = host.engine.generation, host.engine.next_deadline()
    log.clear()
    for request in (
        lambda: host.engine.add_state(tunnel_state(*OUTER[4], 0x1000), NOW),
        lambda: host.engine.add_state(tunnel_state(*OUTER[4], 0x1001, aead=None), NOW),
        lambda: host.engine.update_state(tunnel_state(*OUTER[4], 0x1002), NOW),
        lambda: host.engine.delete_state(StateId(OUTER[4][1], 0x1003), NOW),
        lambda: host.engine.add_policy(PolicyInfo(ANY, 3, 42), NOW),
        lambda: host.engine.delete_policy(PolicyId(ANY, Dir.OUT, 42), NOW),
    ):
        with pytest.raises(XfrmError):
            request()
    assert (log, host.engine.generation, host.engine.next_deadline()) == ([], generation, deadline)
    assert len(list(host.engine.states())) == 1


# Keepalives -------------------------------------------------------------------------------------------------------


def behind_nat(outer: int = 4, **fields: object) -> Pair:
    pair = Pair(outer)
    engine = pair.left.engine
    engine.delete_state(StateId(OUTER[outer][1], 0x1000), START)
    encap = Encap(sport=4500, dport=4501)
    engine.add_state(tunnel_state(*OUTER[outer], 0x1000, replay_window=0, dir=SaDir.OUT, encap=encap, **fields), START)
    return pair


def test_3_8_the_first_keepalive_is_sent_at_once() -> None:
    """An update is no new beginning; what an update completes begins like any other."""
    pair = behind_nat(nat_keepalive_interval=20)
    engine = pair.left.engine
    assert engine.next_deadline() == START
    assert [wire([sent])[0][28:] for sent in engine.tick(START)] == [KEEPALIVE]
    nat: dict[str, Any] = {"replay_window": 0, "dir": SaDir.OUT, "nat_keepalive_interval": 20}
    nat["encap"] = Encap(sport=4500, dport=4501)
    engine.update_state(tunnel_state(*OUTER[4], 0x1000, **nat), START + 5)
    assert engine.tick(START + 19) == [] and len(engine.tick(START + 20)) == 1
    larval = engine.alloc_spi(tunnel_state(*OUTER[4], 0, dir=SaDir.OUT), 0x2000, 0x2000, START + 21)
    assert engine.tick(START + 21) == []
    engine.update_state(tunnel_state(*OUTER[4], larval.spi, **nat), START + 22)
    assert [wire([sent])[0][28:] for sent in engine.tick(START + 22)] == [KEEPALIVE]


@pytest.mark.parametrize("outer", [4, 6])
def test_3_8_a_silent_state_sends_keepalives(outer: int) -> None:
    pair = behind_nat(outer, nat_keepalive_interval=20, set_mark=Mark(7, 0xFF))
    engine = pair.left.engine
    engine.tick(START)
    assert engine.tick(START + 19.9) == [] and engine.next_deadline() == START + 20
    (sent,) = engine.tick(START + 20)
    assert sent.interface is None and (sent.path.sport, sent.path.dport, sent.path.mark) == (4500, 4501, 7)
    (packet,) = wire([sent])
    header = 20 if outer == 4 else 40
    assert packet[header : header + 6].hex() == "119411950009" and packet[header + 8 :] == KEEPALIVE
    if outer == 4:
        assert packet[26:28] == b"\0\0"
    else:
        assert checksum(packet[40:], pseudo_header_sum(packet[8:40], IPPROTO_UDP, 9)) == 0
    assert engine.next_deadline() == START + 40
    engine.send_failed(sent, [0])  # no device to charge it to
    assert raised(pair.xfrm_left) == {} and pair.left.moved() == {}


def test_traffic_puts_keepalives_off() -> None:
    pair = behind_nat(nat_keepalive_interval=20)
    engine = pair.left.engine
    for after in (5, 15, 34):
        assert len(pair.emit(PACKET, now=START + after)) == 1
    when = []
    for second in range(100):
        when += [second for _ in engine.tick(START + second)]
        if second == 60:
            pair.emit(PACKET, now=START + second)
    assert when == [54, 80]


def test_keepalives_end_with_the_state() -> None:
    pair = behind_nat(nat_keepalive_interval=20)
    engine = pair.left.engine
    engine.delete_state(StateId(OUTER[4][1], 0x1000), START + 1)
    assert run(engine, START + 100) == [] and engine.next_deadline() is None


def test_a_state_without_interval_has_no_deadline() -> None:
    pair = behind_nat()
    assert pair.left.engine.next_deadline() is None and pair.left.engine.tick(START + 1000) == []


# Deadlines --------------------------------------------------------------------------------------------------------


def test_the_next_deadline_is_the_earliest_of_all() -> None:
    host = Host()
    engine = host.engine
    assert engine.next_deadline() is None
    engine.add_state(
        tunnel_state(*OUTER[4], 0x1000, nat_keepalive_interval=20, dir=SaDir.OUT, encap=Encap(), replay_window=0), START
    )
    assert engine.next_deadline() == START
    engine.tick(START)
    assert engine.next_deadline() == START + 20
    larval = engine.alloc_spi(tunnel_state(*OUTER[4], 0), 0x100, 0x200, START - 15)
    assert engine.next_deadline() == START + 15
    engine.add_policy(PolicyInfo(ANY, Dir.OUT, 42, limits=Limits(hard_add=5)), START)
    assert engine.next_deadline() == START + 1, "the first look at new limits comes after a second, as in the kernel"
    run(engine, START + 14)
    assert list(engine.policies()) == [] and engine.next_deadline() == START + 15
    run(engine, START + 19)
    assert larval not in list(engine.states()) and engine.next_deadline() == START + 20
