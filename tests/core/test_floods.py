"""Floods of what is not wanted: each packet is counted where it dies, and no table grows beyond its limit."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import pytest

from tests.core.packets import udp
from tests.core.pair import GCM, INNER, NOW, OUTER, Pair, forge
from xfrmi.core import Engine, PolicyInfo, Selector, StateInfo, Template, acquire_limit, events
from xfrmi.wire.ip import split_outer
from xfrmi.wire.xfrm_const import Dir, Mode, XfrmStat

FLOOD = 2000
FREE, MAX_LARVAL, AT_ONCE, MAX_FLOWS, MAX_VERDICTS = 100, 200, 10, 500, 600
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


class Storm:
    """An engine whose flows are each a matter of its own, and an IKE daemon that does not keep up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in (("FREE", FREE), ("MAX_LARVAL", MAX_LARVAL), ("AT_ONCE", AT_ONCE)):
            monkeypatch.setattr(acquire_limit, name, value)
        self.engine = Engine()
        self.engine.acquire_listeners = 1
        self.interface = self.engine.add_interface("xfrm0", 42)
        template = Template("0.0.0.0", "0.0.0.0", mode=Mode.TRANSPORT, reqid=1)
        self.engine.add_policy(PolicyInfo(Selector.parse("0.0.0.0/0"), Dir.OUT, 42, (template,)), NOW)
        self.told: list[events.Event] = []
        self.engine.subscribe(self.told.append)

    def packets(self, numbers: Iterable[int], now: float = NOW) -> int:
        """To these addresses. How many acquires there were for them."""
        before, dead = len(self.told), self.interface.tx_errors
        sent = [udp(OUTER[4][0], address(number)) for number in numbers]
        outgoing, _ = self.engine.output(self.interface, sent, now)
        assert not outgoing and self.interface.tx_errors == dead + len(sent)
        assert self.engine.stats[XfrmStat.OUT_NO_STATES] == self.interface.tx_errors == self.interface.tx_carrier
        return len(self.told) - before


def test_a_storm_of_acquires(monkeypatch: pytest.MonkeyPatch) -> None:
    """In transport mode each destination is negotiated on its own. Beyond FREE one has to ask twice. An answer makes
    room again, and so does time."""
    storm = Storm(monkeypatch)
    reasons: list[str] = []
    storm.engine.on_drop = lambda dropped: reasons.append(dropped.reason)
    assert storm.packets(range(FREE + 300)) == len(storm.engine.sad) == FREE
    assert set(reasons[:FREE]) == {"no state"} and all("too many flows wait" in reason for reason in reasons[FREE:])
    storm.engine.on_drop = None
    answer = StateInfo(src=OUTER[4][0], dst=address(7), spi=7, mode=Mode.TRANSPORT, reqid=1, if_id=42, aead=GCM)
    storm.engine.add_state(answer, NOW)
    storm.told.clear()
    assert storm.packets([5000]) == 1, "one has been answered"
    assert storm.packets([5001]) == 0
    storm.engine.tick(NOW + 31)
    assert [state.spi for state in storm.engine.states()] == [7]
    storm.told.clear()
    assert storm.packets(range(6000, 6000 + FREE), NOW + 31) == FREE


def test_who_asks_again_in_a_storm_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a minute of it, longer than larval states live: whoever begins in the midst of it has to try twice."""
    storm = Storm(monkeypatch)
    strangers = iter(range(100_000, 1 << 24))
    heard = 0
    for second in range(40):
        now = NOW + second
        storm.engine.tick(now)
        storm.packets(islice(strangers, 2 * FREE), now)
        waiting = len(storm.engine.sad)
        heard += storm.packets([second - 1], now) if second else 0
        assert storm.packets([second], now) in (0, 1)
        storm.packets(islice(strangers, FREE), now)
        assert waiting < MAX_LARVAL
    assert heard > 39 - 6, "of 39 who had asked a second ago; one in 200 is forgotten for another that has his place"


def test_a_storm_that_asks_twice_leaves_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then a place is a matter of luck, but there is one again and again, and the table does not fill up."""
    storm = Storm(monkeypatch)
    most = 0
    for step in range(120):
        now = NOW + step / 2
        storm.engine.tick(now)
        if step == 60:
            storm.told.clear()
        storm.packets([step * 50 + number for number in range(50)] * 2, now)
        most = max(most, len(storm.engine.sad))
    assert FREE < most <= MAX_LARVAL
    acquires = sum(isinstance(event, events.Acquire) for event in storm.told)
    assert acquires > 0.9 * (MAX_LARVAL - FREE - AT_ONCE), "in the second half minute"


def test_the_clock_may_be_set_back_in_a_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    storm = Storm(monkeypatch)
    storm.packets(range(FREE + 2 * AT_ONCE))
    assert storm.packets(range(FREE, FREE + 2 * AT_ONCE)) == AT_ONCE
    assert storm.packets([7000, 7000], NOW - 1_000_000) == 1


def test_states_with_an_spi_of_others_are_no_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    """An IKE daemon that answers a thousand peers has that many larval states of its own (ALLOCSPI)."""
    storm = Storm(monkeypatch)
    for number in range(2 * MAX_LARVAL):
        wanted = StateInfo(src=address(number), dst=OUTER[4][0], mode=Mode.TRANSPORT, reqid=number)
        storm.engine.alloc_spi(wanted, 0x1000, 0xFFFF, NOW)
    assert storm.packets([1]) == 1


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
