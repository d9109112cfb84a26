"""Engine.output of bursts in which trains, short super-packets and lone packets of several flows are mixed: what leaves
is what would leave if each came alone, but for the order between flows.

Numbers and IVs never come twice, and nothing overtakes anything of its own flow.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core.pair import GCM, INNER, KEY, NOW, OUTER, Pair, policies, raised, tunnel_state, wire
from tests.core.trains import TIMESTAMPS, ident_of, inner, super_packet
from tests.each import each
from tests.examples import examples
from xfrmi.core import Algorithm, Engine, Interface, Selector, Template
from xfrmi.core.gso import segment
from xfrmi.core.outgoing import Outgoing
from xfrmi.core.router import StaticRouter
from xfrmi.core.train import Train
from xfrmi.wire.address import pack_address
from xfrmi.wire.flow import flow_key
from xfrmi.wire.ip import split_outer
from xfrmi.wire.vnet import Packet, SuperPacket
from xfrmi.wire.xfrm_const import STATE_AF_UNSPEC, STATE_ESN, XFRM_INF, Dir, XfrmStat
from xfrmi.wire.xfrm_types import Encap, Limits, PolicyInfo, Replay, ReplayEsn

SLOW = settings(deadline=None, max_examples=examples(200), suppress_health_check=[HealthCheck.too_slow])


class Sender:
    """An engine that draws the same random numbers each time, with one tunnel and `states` that fit it."""

    def __init__(self, outer: int = 4, mtu: int = 1500, states: int = 1, **fields: Any) -> None:
        random_ = random.Random(1)
        local = {pack_address(INNER[version][0]) for version in INNER}
        self.engine = Engine(StaticRouter(mtu, local), random=random_.randbytes)
        self.interface: Interface = self.engine.add_interface("xfrm0", 42)
        self.src, self.dst = OUTER[outer]
        later = {name: value for name, value in fields.items() if name not in ("replay", "replay_esn")}
        if "replay_esn" in fields:
            later["replay_esn"] = ReplayEsn((0,), replay_window=32)
        for number in range(states):
            made = tunnel_state(self.src, self.dst, 0x1000 + number, **(later if number else fields))
            self.engine.add_state(made, NOW)
        for info in policies(self.src, self.dst, out=True):
            self.engine.add_policy(info, NOW)

    def send(self, packets: list[Packet], now: float = NOW) -> tuple[list[Outgoing], list[bytes]]:
        outgoing, replies = self.engine.output(self.interface, packets, now)
        for one in outgoing:
            assert len(one.inner) == len(one.packets)
        return outgoing, [bytes(reply) for reply in replies]

    def counted(self) -> tuple[Any, ...]:
        states = [(state.spi, state.km, state.dying, state.snapshot()) for state in self.engine.sad.dump()]
        policies_ = [policy.use_time for policy in self.engine.spd.dump()]
        return self.engine.stats, raised(self.interface), states, policies_


class Flow:
    """What a socket sends: numbers that go on from packet to packet."""

    def __init__(self, port: int, version: int, udp: bool, size: int, start: int = 1, options: bytes = b"") -> None:
        self.fixed: dict[str, Any] = {"port": port, "version": version, "udp": udp, "options": options}
        self.size, self.seq, self.ident = size, start, start & 0xFFFF

    def super(self, segments: int, short: int = 0, **fields: Any) -> SuperPacket:
        fields = self.fixed | {"seq": self.seq, "ident": self.ident, "seed": segments} | fields
        packet = super_packet(self.size, max(segments * self.size - short, 0), **fields)
        self.seq, self.ident = self.seq + segments * self.size, ident_of(packet) + segments & 0xFFFF
        return packet

    def lone(self, length: int = 0) -> bytes:
        (packet,) = segment(super_packet(max(length, 1), length, **self.fixed, seq=self.seq, ident=self.ident))
        return bytes(packet)


@st.composite
def bursts(draw: st.DrawFn, most_flows: int) -> list[list[Packet]]:
    """A few bursts out of one TUN."""
    flows = [
        Flow(
            80 + number, draw(st.sampled_from([4, 6])), draw(st.sampled_from([False, False, True])),
            draw(st.sampled_from([2, 60, 61, 536, 1200])), draw(st.sampled_from([1, 0xFFFFFF00 + number])),
            draw(st.sampled_from([b"", TIMESTAMPS])),
        )
        for number in range(draw(st.integers(1, most_flows)))
    ]  # fmt: skip
    made: list[list[Packet]] = []
    for _ in range(draw(st.integers(1, 3))):
        burst: list[Packet] = []
        for _ in range(draw(st.sampled_from([1, 2, 3, 6, 12, 20]))):
            flow = draw(st.sampled_from(flows))
            kind = draw(st.sampled_from(["super", "super", "small", "lone", "lone", "odd"]))
            if kind == "super":
                segments = draw(st.sampled_from([5, 6, 12, 40, 45]))
                short = draw(st.sampled_from([0, 0, 0, 1, flow.size - 1]))
                burst.append(flow.super(segments, short, flags=draw(st.sampled_from([0x10, 0x10, 0x18, 0x91, 0xD9]))))
            elif kind == "small":
                burst.append(flow.super(draw(st.integers(1, 4)), draw(st.sampled_from([0, 1]))))
            elif kind == "lone":
                burst += [flow.lone(draw(st.sampled_from([0, 0, 5, 100])))] * draw(st.sampled_from([1, 1, 14]))
            else:
                burst.append(draw(st.sampled_from([
                    flow.super(6, tos=0x20), flow.super(5, df=False), flow.lone(1480), b"", bytes(40),
                    inner(bytes(20), port=9), flow.super(8, alert=True),
                ])))  # fmt: skip
        made.append(burst)
    return made


@st.composite
def senders(draw: st.DrawFn, limited: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "outer": draw(st.sampled_from([4, 6])), "mtu": draw(st.sampled_from([1500, 1500, 1300])), "replay_window": 32,
        "flags": STATE_AF_UNSPEC,
    }  # fmt: skip
    if draw(st.booleans()):
        fields["encap"] = Encap()
    if draw(st.booleans()):
        fields["flags"] |= STATE_ESN
        fields |= {"replay_window": 0, "replay_esn": ReplayEsn((0,), oseq=0xFFFFFFF0, oseq_hi=2, replay_window=32)}
    elif limited:
        near = draw(st.one_of(st.just(0xFFFFFFFF), st.integers(0, 150)))
        fields["replay"] = Replay(oseq=0xFFFFFFFF - near)
    if limited:
        packets, size = st.integers(1, 150), st.integers(1, 60000)
        fields["states"] = draw(st.sampled_from([1, 2, 3]))
        fields["limits"] = draw(st.sampled_from([
            Limits(hard_packets=draw(packets)), Limits(hard_bytes=draw(size)), Limits(), Limits(soft_bytes=draw(size)),
            Limits(hard_packets=draw(packets), soft_packets=draw(packets)),
        ]))  # fmt: skip
        if fields["limits"].soft_bytes < XFRM_INF or fields["limits"].soft_packets < XFRM_INF:
            fields["states"] = 1  # a fresher one is preferred from the next burst on, not within one
    return fields


def pieces(packet: Packet) -> list[bytes]:
    return list(map(bytes, segment(packet))) if isinstance(packet, SuperPacket) else [bytes(packet)]


def one_by_one(sender: Sender, packets: list[Packet], now: float) -> tuple[list[Outgoing], list[bytes]]:
    outgoing, replies = [], []
    for packet in packets:
        went, said = sender.send([packet], now)
        outgoing += went
        replies += said
    return outgoing, replies


@SLOW
@given(fields=senders(limited=True), bursts_=bursts(most_flows=1), seed=st.integers(0, 1 << 32))
def test_one_flow_leaves_as_if_one_by_one(fields: dict[str, Any], bursts_: list[list[Packet]], seed: int) -> None:
    """Byte by byte, limits and ends of numbers within a burst, and what the host then fails to send."""
    lone, together = Sender(**fields), Sender(**fields)
    lone.engine.sad.aevents.listeners = together.engine.sad.aevents.listeners = seed & 1
    failing = random.Random(seed)
    for number, burst in enumerate(bursts_):
        now = NOW + number / 10
        # Of what is no packet of the flow only one may be there: it may be overtaken.
        burst = [packet for packet in burst if flow_of(packet) in (flow_of(bursts_[0][0]), b"")]
        expected, expected_replies = one_by_one(lone, burst, now)
        outgoing, replies = together.send(burst, now)
        assert wire(outgoing) == wire(expected)
        assert replies == expected_replies
        assert together.counted() == lone.counted()
        count = len(wire(outgoing))
        lost = sorted(failing.sample(range(count), min(count, failing.choice([0, 1, 3]))))
        for went in (outgoing, expected):
            at = 0
            for one in went:
                one.fail([position - at for position in lost if at <= position < at + len(one.packets)])
                at += len(one.packets)
        assert raised(together.interface) == raised(lone.interface)


def flow_of(packet: Packet) -> bytes:
    try:
        return flow_key(packet.data if isinstance(packet, SuperPacket) else packet)
    except ValueError:
        return b""


def opened(fields: dict[str, Any], packets: list[bytes]) -> list[bytes]:
    """What the peer gets out of them, if it has seen none of the numbers before."""
    peer = Pair(fields["outer"])
    engine = peer.right.engine
    engine.flush_states(50, NOW)
    src, dst = OUTER[fields["outer"]]
    keep = {name: fields[name] for name in ("encap", "flags") if name in fields}
    for spi in sorted({int.from_bytes(bytes(split_outer(packet)[1][:4]), "big") for packet in packets}):
        if "replay_esn" in fields:
            window = ReplayEsn((0, 0), seq=0xFFFFFFF0 if spi == 0x1000 else 0, seq_hi=2 if spi == 0x1000 else 0,
                               replay_window=64)  # fmt: skip
            keep |= {"replay_window": 0, "replay_esn": window}
        engine.add_state(tunnel_state(src, dst, spi, **keep), NOW)
    delivered = engine.input([split_outer(packet) for packet in packets], NOW)
    assert sum(engine.stats) == 0
    return [bytes(packet) for _, group in delivered for packet in group]


def spi_of(packet: bytes) -> int:
    return int.from_bytes(bytes(split_outer(packet)[1][:4]), "big")


def number_of(packet: bytes) -> int:
    return int.from_bytes(bytes(split_outer(packet)[1][4:8]), "big")


@SLOW
@given(fields=senders(limited=False), bursts_=bursts(most_flows=4))
def test_flows_are_not_reordered(fields: dict[str, Any], bursts_: list[list[Packet]]) -> None:
    """Each flow's packets leave in their order, all of them; the numbers go up by one from packet to packet."""
    lone, together = Sender(**fields), Sender(**fields)
    left: list[bytes] = []
    expected: list[bytes] = []
    for number, burst in enumerate(bursts_):
        now = NOW + number / 10
        went, expected_replies = one_by_one(lone, burst, now)
        expected += wire(went)
        outgoing, replies = together.send(burst, now)
        left += wire(outgoing)
        assert sorted(replies) == sorted(expected_replies)
        assert together.counted() == lone.counted()
    assert [number_of(packet) for packet in left] == [number_of(packet) for packet in expected]
    ivs = [bytes(split_outer(packet)[1][8:16]) for packet in left]
    assert len(set(ivs)) == len(ivs)
    assert in_flows(opened(fields, left)) == in_flows(opened(fields, expected))


def in_flows(packets: list[bytes]) -> dict[bytes, list[bytes]]:
    flows: dict[bytes, list[bytes]] = {}
    for packet in packets:
        flows.setdefault(flow_of(packet), []).append(packet)
    return flows


@SLOW
@given(fields=senders(limited=True), bursts_=bursts(most_flows=3))
def test_nothing_is_lost_uncounted_where_states_end(fields: dict[str, Any], bursts_: list[list[Packet]]) -> None:
    """Several flows, and states that reach their ends among them: who is hit differs, but each is counted once, and no
    number or IV is used twice."""
    sender = Sender(**fields)
    left: list[bytes] = []
    offered = 0
    for number, burst in enumerate(bursts_):
        outgoing, _ = sender.send(burst, NOW + number / 10)
        offered += len(burst)
        left += wire(outgoing)
    sent = raised(sender.interface)
    assert sent.get("tx_packets", 0) + sent.get("tx_errors", 0) == offered
    numbers = [(spi_of(packet), number_of(packet)) for packet in left]
    assert len(set(numbers)) == len(numbers)
    ivs = [(spi_of(packet), bytes(split_outer(packet)[1][8:16])) for packet in left]
    assert len(set(ivs)) == len(ivs)
    for spi in {spi for spi, _ in numbers}:
        of_state = [number for one, number in numbers if one == spi]
        assert [(number - of_state[0]) & 0xFFFFFFFF for number in of_state] == list(range(len(of_state)))
    came = [piece for burst in bursts_ for packet in burst for piece in pieces(packet) if flow_of(piece)]
    for flow, packets in in_flows(opened(fields, left)).items():
        rest = iter([packet for packet in came if flow_of(packet) == flow])
        assert all(packet in rest for packet in packets), "out of order"


# What has to be ------------------------------------------------------------------------------------------------------


def trains(outgoing: list[Outgoing]) -> list[int]:
    """How many packets are in each train; 0 for what is none."""
    return [len(one.packets) if isinstance(one.packets, Train) else 0 for one in outgoing]


@pytest.mark.parametrize("version", [4, 6])
def test_super_packets_of_one_flow_are_one_train(version: int) -> None:
    sender, flow, other = Sender(), Flow(80, version, False, 1200), Flow(81, version, False, 1200)
    burst: list[Packet] = [flow.super(40), other.lone(), flow.super(40), other.lone(), flow.super(40, 100)]
    assert trains(sender.send(burst)[0]) == [120, 0]
    assert trains(sender.send([flow.super(40), flow.super(40, 1), flow.super(40)])[0]) == [80, 40]
    assert trains(sender.send([flow.super(40), flow.lone(), flow.super(40)])[0]) == [40, 0, 40]
    assert trains(sender.send([flow.super(40), other.super(40), flow.super(40)])[0]) == [40, 40, 40]
    many = [flow.super(40) for _ in range(10)]
    assert sum(trains(sender.send(list(many))[0])) == 400


@each("states", [1, 2])
@each("limit", range(8, 32))
def test_a_state_that_ends_inside_a_train(limit: int, states: int) -> None:
    """The super-packet in which it ends fails; those that follow it in the train are decided about anew."""
    fields = {"limits": Limits(hard_packets=limit), "states": states}
    lone, together = Sender(**fields), Sender(**fields)
    burst: list[Packet] = list(map(Flow(80, 4, False, 60).super, [10, 10, 10]))
    expected, expected_replies = one_by_one(lone, burst, NOW)
    outgoing, replies = together.send(burst)
    assert wire(outgoing) == wire(expected) and replies == expected_replies
    assert together.counted() == lone.counted()


def test_no_train_for_more_than_one_state() -> None:
    """Nor through a path that is too narrow for IPv6 (let it be fragmented)."""
    sender = Sender(mtu=1280)
    assert trains(sender.send([Flow(80, 4, False, 60).super(20)])[0]) == [0]
    bundle = Sender()
    bundle.engine.flush_policies(0, NOW)
    ends = "203.0.113.1", "203.0.113.2"
    bundle.engine.add_state(tunnel_state(*ends, 0x3000, reqid=9, aead=Algorithm(GCM.name, KEY[::-1], 128)), NOW)
    templates = Template(bundle.src, bundle.dst, reqid=1, mode=1), Template(*ends, reqid=9, mode=1)
    bundle.engine.add_policy(PolicyInfo(Selector.parse("0.0.0.0/0"), Dir.OUT, 42, templates), NOW)
    outgoing, _ = bundle.send([Flow(80, 4, False, 60).super(20)])
    assert trains(outgoing) == [0] and len(outgoing[0].packets) == 20
    assert bundle.engine.stats[XfrmStat.OUT_ERROR] == 0


def test_a_super_packet_fails_once() -> None:
    """However many of its segments did not leave, and those of others in the same train are sent."""
    sender, flow = Sender(), Flow(80, 4, False, 60)
    burst = [flow.super(10), flow.super(10), flow.super(10, 7)]
    ((one,), _) = sender.send(list(burst))
    assert isinstance(one.packets, Train)
    one.fail([3, 4, 9])
    one.fail([29])
    assert raised(sender.interface) == {
        "tx_packets": 1, "tx_bytes": len(burst[1].data), "tx_errors": 2, "tx_aborted_errors": 2
    }  # fmt: skip
