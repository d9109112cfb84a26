"""Whatever bytes come, from the TUN or off the wire: nothing is raised, and every packet is accounted for once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.core.packets import udp
from tests.core.pair import INNER, NOW, OUTER, Pair, forge, raised, tunnel_state, wire
from tests.examples import examples
from xfrmi.core import PolicyInfo, Selector, Template
from xfrmi.wire.address import pack_address
from xfrmi.wire.ip import split_outer, trim
from xfrmi.wire.xfrm_const import IPPROTO_IPIP, IPPROTO_IPV6, STATE_ICMP, Action, Dir, Mode, XfrmStat
from xfrmi.wire.xfrm_types import Encap, StateId

KINDS: dict[str, dict[str, Any]] = {
    "tunnel": {},
    "in UDP": {"encap": Encap()},
    "with TFC padding": {"tfcpad": 300},
    "over a narrow path": {"mtu": 100},
}

OUT_ROWS = {
    frozenset({"tx_packets"}): (None,),
    frozenset({"tx_errors", "tx_dropped"}): (None,),
    frozenset({"tx_errors", "tx_dropped", "tx_carrier_errors"}): (None, "XfrmOutNoStates", "XfrmOutPolBlock"),
    frozenset({"tx_errors", "tx_aborted_errors"}): ("XfrmOutStateModeError", "XfrmOutStateProtoError"),
}
"""Table 1.4: which device counters go together, and with which of xfrm_stat."""

ADDRESSES = [pack_address(a) for v in (4, 6) for a in (*INNER[v], *OUTER[v])] + [bytes(4), b"\xff" * 4, b"\xe0\0\0\1"]


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    """IP packets that are nearly right, and bytes that are not."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=100))
    version = draw(st.sampled_from([4, 6]))
    src, dst = draw(st.sampled_from([INNER[version], INNER[version][::-1], OUTER[version]]))
    payload = bytes(draw(st.integers(0, 1600)))
    packet = bytearray(udp(src, dst, payload, sport=draw(st.integers(0, 3)), df=draw(st.booleans())))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, min(len(packet), 64) - 1))
        packet[at] = draw(st.integers(0, 255))
    protocol = draw(st.sampled_from([17, 6, 1, 58, 0, 43, 44, 47, 50, 51, 60, 135]))
    packet[9 if version == 4 else 6] = protocol
    if version == 4 and draw(st.booleans()):
        packet[12:16] = draw(st.sampled_from([a for a in ADDRESSES if len(a) == 4]))
    return bytes(packet[: draw(st.sampled_from([len(packet), len(packet), 28, 20, 40, 10]))])


def counts(pair: Pair) -> dict[str, int]:
    return raised(pair.xfrm_left) | pair.left.moved()


def rose(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=examples(100), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(packet=packets())
@example(packet=b"")
@example(packet=udp(*INNER[4], bytes(65507)))
@example(packet=udp(*INNER[4], bytes(65507), df=False))
@example(packet=udp(*INNER[6], bytes(65527)))
def test_any_packet_out(kind: str, packet: bytes) -> None:
    pair = Pair(**KINDS[kind])
    blocked = Selector.parse(proto=47)
    pair.left.engine.add_policy(PolicyInfo(blocked, Dir.OUT, 42, action=Action.BLOCK), NOW)
    wanting = Selector.parse("0.0.0.0/0", proto=6)
    pair.left.engine.add_policy(PolicyInfo(wanting, Dir.OUT, 42, (Template(*OUTER[4], reqid=9),)), NOW)
    before = counts(pair)
    outgoing, replies = pair.left.engine.output(pair.xfrm_left, [packet], NOW)
    moved = rose(before, counts(pair))
    size = moved.pop("tx_bytes", 0)
    device = frozenset(name for name in moved if name.startswith("tx_"))
    stats = [name for name in moved if name not in device] or [None]
    assert set(moved.values()) == {1} and len(stats) == 1 and stats[0] in OUT_ROWS[device]
    assert bool(outgoing) == ("tx_packets" in device)
    if outgoing:
        assert size == len(packet) and len(wire(outgoing)) == 1 and not replies
    assert len(replies) <= 1
    for reply in replies:
        assert trim(reply) == reply


@settings(deadline=None, max_examples=examples(100))
@given(burst=st.lists(packets(), max_size=40))
def test_a_burst_is_the_sum_of_its_packets(burst: list[bytes]) -> None:
    """Counters and answers do not depend on what comes together."""
    apart, together = Pair(), Pair()
    told = [bytes(r) for p in burst for r in apart.left.engine.output(apart.xfrm_left, [p], NOW)[1]]
    outgoing, replies = together.left.engine.output(together.xfrm_left, burst, NOW)
    assert counts(together) == counts(apart)
    assert sorted(map(bytes, replies)) == sorted(told)
    assert together.xfrm_left.tx_packets == len(wire(outgoing))
    one, other = ([s.snapshot() for s in p.left.engine.states()] for p in (apart, together))
    assert one == other


def check_in(pair: Pair, datagram: tuple[bytes, bytes]) -> None:
    """The engine takes it, and one thing happens."""
    host, xfrm = pair.right, pair.xfrm_right
    before = raised(xfrm) | host.moved()
    delivered = pair.right.engine.input([datagram], NOW)
    moved = rose(before, raised(xfrm) | host.moved())
    moved.pop("rx_bytes", 0)
    device = {name for name in moved if name.startswith("rx_")}
    stats = set(moved) - device
    assert set(moved.values()) == {1} and len(stats) <= 1
    if delivered:
        assert device == {"rx_packets"} and not stats and len(delivered) == len(delivered[0][1]) == 1
    elif device == {"rx_packets"}:  # refused by policy, or by IP
        assert not stats or stats < {"XfrmInStateMismatch", "XfrmInNoPols", "XfrmInTmplMismatch", "XfrmInPolBlock"}
    elif device:
        assert device == {"rx_errors", "rx_dropped"} and stats
    else:
        assert stats < {"XfrmInHdrError", "XfrmInNoStates"}


@settings(deadline=None, max_examples=examples(300))
@given(
    st.sampled_from([4, 6]),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4),
    st.integers(0, 300),
)
def test_any_packet_in(outer: int, in_udp: bool, changes: list[tuple[int, int]], length: int) -> None:
    """A right one with bytes changed anywhere and the end cut off."""
    pair = Pair(outer, **({"encap": Encap()} if in_udp else {}))
    packet = bytearray(pair.emit(udp(*INNER[outer], bytes(40)))[0])
    for at, value in changes:
        packet[at % len(packet)] = value
    try:
        header, esp = split_outer(packet)
    except ValueError:
        return
    check_in(pair, (bytes(header), bytes(esp[:length])))


@settings(deadline=None, max_examples=examples(300))
@given(st.binary(max_size=80), st.binary(min_size=20, max_size=60))
def test_any_bytes_for_esp(esp: bytes, header: bytes) -> None:
    pair = Pair()
    good = bytes.fromhex("450000000000400040320000c0000201c0000202")
    check_in(pair, (good, (0x1000).to_bytes(4, "big") + esp))
    check_in(pair, (good, esp))


@pytest.mark.parametrize("mode", [Mode.TUNNEL, Mode.BEET, Mode.TRANSPORT])
@settings(deadline=None, max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    packet=packets() | st.binary(max_size=120),
    next_header=st.sampled_from([IPPROTO_IPIP, IPPROTO_IPV6, 94, 59, 17]) | st.integers(0, 255),
    pad_len=st.none() | st.integers(0, 255),
    flags=st.sampled_from([0, STATE_ICMP]),
)
def test_a_peer_with_the_key_may_send_anything(
    mode: Mode, packet: bytes, next_header: int, pad_len: int | None, flags: int
) -> None:
    pair = Pair()
    engine = pair.right.engine
    if mode != Mode.TUNNEL:
        engine.delete_state(StateId(OUTER[4][1], 0x1000), NOW)
        selector = Selector.parse(*INNER[4]) if mode == Mode.BEET else Selector.parse(*OUTER[4])
        engine.add_state(tunnel_state(*OUTER[4], 0x1000, mode=mode, flags=flags, selector=selector), NOW)
    check_in(pair, split_outer(forge(packet, next_header, pad_len=pad_len)))  # type: ignore[arg-type]


def test_every_counter_has_a_row() -> None:
    """The labels above are real ones."""
    labels = {stat.label for stat in XfrmStat}
    assert {label for row in OUT_ROWS.values() for label in row if label} < labels
