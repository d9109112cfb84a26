"""core.lone and the engine's shorter way for few packets: nothing may tell them from the long way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core import test_burst as burst
from tests.core.packets import udp
from tests.core.pair import INNER, NOW, Pair, raised, tunnel_state
from tests.examples import examples
from xfrmi.core import PolicyInfo, Selector, esp
from xfrmi.core import input as inbound
from xfrmi.core import output as outbound
from xfrmi.core.lone import opener, sealer
from xfrmi.core.state import State
from xfrmi.errors import Drop
from xfrmi.wire.flow import flow_key, trimmed_key
from xfrmi.wire.ip import Buffer, split_outer, trim
from xfrmi.wire.xfrm_const import Action, Dir
from xfrmi.wire.xfrm_types import Encap, Limits


def seal(state: State, packet: Buffer, now: float) -> Buffer:
    return sealer(state)(state, packet, now)


def open_(state: State, header: Buffer, packet: Buffer, now: float) -> Buffer:
    return opener(state)(state, header, packet, now)


@settings(burst.SLOW, max_examples=examples(80))
@given(fields=burst.senders(), packets=burst.BURSTS, kind=burst.KINDS)
def test_sealing_is_the_scalar_path(fields: dict[str, Any], packets: list[bytes], kind: Any) -> None:
    items = [(kind(packet),) for packet in packets]
    slow, quick = burst.make(**fields), burst.make(**fields)
    expected = burst.observe(slow, lambda: burst.one_by_one(esp.seal, slow, items))
    assert burst.observe(quick, lambda: burst.one_by_one(seal, quick, items)) == expected


@settings(burst.SLOW, max_examples=examples(80))
@given(reception=burst.receptions(), kind=burst.KINDS)
def test_opening_is_the_scalar_path(reception: tuple[dict[str, Any], list[Any]], kind: Any) -> None:
    fields, datagrams = reception
    items = [(kind(header), kind(packet)) for header, packet in datagrams]
    slow, quick = burst.make(**fields), burst.make(**fields)
    expected = burst.observe(slow, lambda: burst.one_by_one(esp.open, slow, items))
    assert burst.observe(quick, lambda: burst.one_by_one(open_, quick, items)) == expected


def test_what_changes_of_a_state_counts_at_once() -> None:
    """TTL, ports, limits, numbers: on both sides, between packets of the same kind."""

    def use(step: Any, back: Any) -> list[bytes]:
        state, peer = burst.make(encap=Encap(sport=4500, dport=4501)), burst.make(encap=Encap(sport=4500, dport=4501))
        moved: list[int] = []
        peer.on_mapping = lambda state, address, port: moved.append(port)
        seen = []

        def exchange() -> None:
            for _ in range(3):
                outer = bytes(step(state, burst.ipv4(100), NOW))
                seen.extend((outer, bytes(back(peer, *split_outer(outer), NOW))))

        exchange()
        state.set_ttl(9)
        exchange()
        for one in (state, peer):
            one.update(tunnel_info(encap=Encap(sport=7, dport=8)))
        exchange()
        state.update(tunnel_info(encap=Encap(sport=9, dport=8)))
        exchange()
        assert moved == [9] * 3
        state.update(tunnel_info(encap=Encap(sport=9, dport=8), limits=Limits(hard_packets=state.packets + 1)))
        step(state, burst.ipv4(100), NOW)
        with pytest.raises(Drop):
            step(state, burst.ipv4(100), NOW)
        return seen

    def tunnel_info(**fields: Any) -> Any:
        return tunnel_state(*burst.V4, 0x1001, **fields)

    assert use(seal, open_) == use(esp.seal, esp.open)


@given(packet=burst.PACKETS, more=st.binary(max_size=9))
def test_the_key_of_a_packet_without_its_padding(packet: bytes, more: bytes) -> None:
    def key(work: Any) -> bytes | None:
        try:
            return bytes(work())
        except ValueError:
            return None

    assert key(lambda: trimmed_key(packet + more)) == key(lambda: flow_key(trim(packet + more)))


# The engine -------------------------------------------------------------------------------------------------------

ICMP = burst.ipv4(60)[:9] + b"\x01" + burst.ipv4(60)[10:]
PACKETS = [
    udp(*INNER[4], b"x" * 40), udp(*INNER[4], b"y" * 40), udp(*INNER[6], b"x" * 40), udp(*INNER[4], b""),
    udp(*INNER[4], b"big" * 600), ICMP, b"\x45", udp("198.51.100.1", "198.51.100.77", b"to another"),
]  # fmt: skip
STEPS = st.lists(
    st.tuples(
        st.lists(st.sampled_from(PACKETS), min_size=1, max_size=4),
        st.sampled_from(["", "", "", "replay", "touch", "cut", "down", "block", "listen", "away", "expire"]),
    ),
    max_size=8,
)


def story(steps: list[tuple[list[bytes], str]], outer: int, fields: dict[str, Any]) -> list[Any]:
    """All that can be seen of two engines while this happens."""
    pair = Pair(outer, **fields)
    left, right = pair.left.engine, pair.right.engine
    random = iter(range(1 << 30))
    for engine in (left, right):
        for state in engine.states():
            state.iv_salt = next(random)
    blocked = ends = False
    seen: list[Any] = []
    told: list[str] = []
    for engine in (left, right):
        engine.subscribe(lambda event: told.append(type(event).__name__))
    now = NOW
    for packets, change in steps:
        now += 0.4
        if change == "block" and not blocked:
            left.add_policy(PolicyInfo(Selector.parse("198.51.100.0/24"), Dir.IN, 42, action=Action.BLOCK), now)
            right.add_policy(PolicyInfo(Selector.parse("198.51.100.77/32"), Dir.FWD, 42, action=Action.BLOCK), now)
            blocked = True
        elif change == "listen":
            left.sad.aevents.listeners = right.sad.aevents.listeners = 1
        elif change == "expire":
            for engine in (left, right):
                for state in list(engine.states()):
                    limits = Limits(hard_packets=state.packets + 2)
                    engine.update_state(replace(state.info, limits=limits), now)
        pair.xfrm_right.up = change != "down"
        pair.xfrm_right.away = change == "away"
        ends = ends or change == "expire"
        # In company the flows of all are looked up before the first is sealed, and so before a state ends by it.
        outgoing, replies = left.output(pair.xfrm_left, packets[:1] if ends else packets, now)
        seen.append([bytes(reply) for reply in replies])
        for group in outgoing:
            assert len(group.inner) == len(group.packets)
            seen.append((group.path, [bytes(inner) for inner in group.inner if isinstance(inner, bytes)]))
        wire = [bytes(packet) for group in outgoing for packet in group.packets]
        seen.append(wire)
        datagrams: list[Any] = [split_outer(packet) for packet in wire]
        if datagrams and change == "replay":
            datagrams.append(datagrams[0])
        if datagrams and change == "touch":
            datagrams[0] = datagrams[0][0], burst.touch(datagrams[0][1], 30)
        if datagrams and change == "cut":
            datagrams[0] = datagrams[0][0], datagrams[0][1][:5]
        for datagram in datagrams:
            seen.append([(i.name, [bytes(p) for p in got]) for i, got in right.input([datagram], now)])
        for host, interface in ((pair.left, pair.xfrm_left), (pair.right, pair.xfrm_right)):
            seen.append((host.moved(), raised(interface)))
            seen.extend(state.snapshot() for state in host.engine.states())
            seen.extend((policy.info, policy.use_time) for policy in host.engine.policies())
    return [*seen, told]


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("fields", [{}, {"encap": Encap(sport=4500, dport=4500)}], ids=["raw", "udp"])
@settings(burst.SLOW, max_examples=examples(30))
@given(steps=STEPS)
def test_the_shorter_way_is_the_long_way(outer: int, fields: dict[str, Any], steps: list[Any]) -> None:
    quick = story(steps, outer, fields)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbound, "_send_lone", lambda *_: False)
        patch.setattr(inbound, "_receive_lone", lambda *_: False)
        assert story(steps, outer, fields) == quick


def test_the_shorter_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    packet = udp(*INNER[4], b"x")
    assert pair.send(packet) == [packet]
    monkeypatch.setattr(outbound, "_walk", None)
    monkeypatch.setattr(inbound, "_walk", None)
    monkeypatch.setattr(inbound, "_after_run", None)
    monkeypatch.setattr(esp, "open", None)
    assert pair.send(packet) == [packet]
