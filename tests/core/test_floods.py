"""Floods of what is not wanted: each packet is counted where it dies, and no table grows beyond its limit."""

from __future__ import annotations

import pytest

from tests.core.packets import udp
from tests.core.pair import GCM, INNER, NOW, OUTER, Pair, forge
from xfrmi.core import Engine, PolicyInfo, Selector, StateInfo, Template, events, sad
from xfrmi.wire.ip import split_outer
from xfrmi.wire.xfrm_const import Dir, Mode, XfrmStat

FLOOD = 2000
MAX_LARVAL, MAX_FLOWS, MAX_VERDICTS = 200, 500, 600
BURST = 128


def address(number: int) -> str:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def bursts(packets: list[bytes]) -> list[list[bytes]]:
    return [packets[at : at + BURST] for at in range(0, len(packets), BURST)]


def received(pair: Pair, packets: list[bytes]) -> int:
    """How many of these outer packets right delivers."""
    return sum(
        len(inner)
        for burst in bursts(packets)
        for _, inner in pair.right.engine.input([split_outer(packet) for packet in burst], NOW)
    )


def test_unknown_spis() -> None:
    pair = Pair()
    before = len(pair.right.engine.sad)
    assert received(pair, [forge(udp(*INNER[4]), 4, spi=0x2000 + n) for n in range(FLOOD)]) == 0
    assert pair.right.moved() == {"XfrmInNoStates": FLOOD}
    assert len(pair.right.engine.sad) == before and pair.xfrm_right.rx_errors == 0


def test_bad_icvs_move_no_window() -> None:
    pair = Pair()
    (state,) = (state for state in pair.right.engine.states() if state.spi == 0x1000)
    assert received(pair, [forge(udp(*INNER[4]), 4, seq=n + 1)[:-1] + b"\0" for n in range(FLOOD)]) < FLOOD / 100
    bad = state.stats_integrity_failed
    assert pair.right.moved() == {"XfrmInStateProtoError": bad} and pair.xfrm_right.rx_errors == bad
    assert bad + pair.xfrm_right.rx_packets == FLOOD  # one in 256 has that last byte


def test_replays() -> None:
    pair = Pair()
    packet = forge(udp(*INNER[4]), 4, seq=7)
    assert received(pair, [packet] * FLOOD) == 1
    assert pair.right.moved() == {"XfrmInStateSeqError": FLOOD - 1}
    assert pair.xfrm_right.rx_errors == FLOOD - 1


def test_icmp_errors_about_what_was_never_sent() -> None:
    pair = Pair()
    engine = pair.left.engine
    generation = engine.generation
    for number in range(FLOOD):
        quoted = forge(b"", 4, spi=0x3000 + number)[:28]
        message = bytes((3, 4, 0, 0, 0, 0, 3, 0)) + quoted
        total = -int.from_bytes(message) % 0xFFFF
        assert engine.icmp_error(2, message[:2] + total.to_bytes(2) + message[4:], NOW) == ((), 0)
    assert engine.generation == generation, "no decision is made anew for it"


def test_new_flows_in_both_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was decided about a flow is forgotten rather than kept without end."""
    monkeypatch.setattr("xfrmi.core.output.MAX_FLOWS", MAX_FLOWS)
    monkeypatch.setattr("xfrmi.core.verdict.MAX_VERDICTS", MAX_VERDICTS)
    pair = Pair()
    count = MAX_FLOWS + MAX_VERDICTS
    inner = [udp(address(number), INNER[4][1]) for number in range(count)]
    outer = [packet for burst in bursts(inner) for packet in pair.emit(*burst)]
    assert len(pair.xfrm_left.flows) <= MAX_FLOWS + BURST
    assert received(pair, outer) == count == pair.xfrm_right.rx_packets
    assert len(pair.xfrm_right.verdicts) <= MAX_VERDICTS + BURST


def test_a_storm_of_acquires(monkeypatch: pytest.MonkeyPatch) -> None:
    """In transport mode each destination is negotiated on its own. An answer makes room again, and so does time."""
    monkeypatch.setattr(sad, "MAX_LARVAL", MAX_LARVAL)
    told: list[events.Event] = []
    engine = Engine()
    engine.subscribe(told.append)
    engine.acquire_listeners = 1
    interface = engine.add_interface("xfrm0", 42)
    template = Template("0.0.0.0", "0.0.0.0", mode=Mode.TRANSPORT, reqid=1)
    engine.add_policy(PolicyInfo(Selector.parse("0.0.0.0/0"), Dir.OUT, 42, (template,)), NOW)
    told.clear()
    packets = [udp(OUTER[4][0], address(number)) for number in range(MAX_LARVAL + 10)]
    outgoing, _ = engine.output(interface, packets, NOW)
    assert not outgoing and engine.stats[XfrmStat.OUT_NO_STATES] == len(packets) == interface.tx_errors
    assert len(engine.sad) == len(told) == MAX_LARVAL
    answer = StateInfo(src=OUTER[4][0], dst=address(7), spi=7, mode=Mode.TRANSPORT, reqid=1, if_id=42, aead=GCM)
    engine.add_state(answer, NOW)
    assert len(engine.sad) == MAX_LARVAL
    engine.output(interface, [packets[-1]], NOW)
    assert len(engine.sad) == MAX_LARVAL + 1
    engine.tick(NOW + 31)
    assert [state.spi for state in engine.states()] == [7]


def test_a_storm_of_acquires_leaves_decisions_alone() -> None:
    """As in a kernel, where larval states make no route to be looked at again; nor does their end."""
    engine = Engine()
    engine.acquire_listeners = 1
    interface = engine.add_interface("xfrm0", 42)
    template = Template("0.0.0.0", "0.0.0.0", mode=Mode.TRANSPORT, reqid=1)
    engine.add_policy(PolicyInfo(Selector.parse("0.0.0.0/0"), Dir.OUT, 42, (template,)), NOW)
    state = StateInfo(src=OUTER[4][0], dst=address(7), spi=7, mode=Mode.TRANSPORT, reqid=1, if_id=42, aead=GCM)
    engine.add_state(state, NOW)
    engine.output(interface, [udp(OUTER[4][0], address(7))], NOW)
    (decision,) = interface.flows.values()
    engine.output(interface, [udp(OUTER[4][0], address(number)) for number in range(8, 20)], NOW)
    assert len(engine.sad) == 13
    engine.tick(NOW + 31)
    assert len(engine.sad) == 1
    engine.output(interface, [udp(OUTER[4][0], address(7))], NOW)
    assert decision in interface.flows.values()
