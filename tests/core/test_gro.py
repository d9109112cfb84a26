"""xfrmi.core.gro: what is put together and cut again is what came; what must not be put together is left alone."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.packets import udp
from tests.core.pair import INNER, NOW, Pair, raised
from tests.each import each
from xfrmi.core.gro import FEW, MAX_DATAGRAMS, coalesce
from xfrmi.core.gso import segment
from xfrmi.wire.ip import Buffer, checksum, ipv4_header_checksum, pseudo_header_sum, split_outer
from xfrmi.wire.vnet import (
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    NEEDS_CSUM,
    VNET_HDR_LEN,
    Packet,
    SuperPacket,
    emit,
    parse,
)

ALL = frozenset((GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4))
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80
ADDRESSES = {4: bytes((192, 0, 2, 1, 198, 51, 100, 7)), 6: bytes(range(32))}
TIMESTAMPS = bytes.fromhex("0101080a0000000100000002")


def tcp(
    version: int = 4, number: int = 0, size: int = 100, flags: int = ACK, *, length: int | None = None, port: int = 80,
    ident: int | None = None, start: int = 0xFFFFFF00, ttl: int = 64, tos: int = 2, label: int = 7, df: int = 0x40,
    options: bytes = TIMESTAMPS, ack: int = 7, window: int = 99,
) -> bytes:  # fmt: skip
    """Segment `number` of a stream cut into `size` bytes."""
    payload = random.Random(number).randbytes(size if length is None else length)
    seq = (start + number * size) & 0xFFFFFFFF
    upper = struct.pack(">HHIIBBHHH", port, 81, seq, ack, (20 + len(options)) << 2, flags, window, 0, 0)
    upper += options + payload
    total = checksum(upper, pseudo_header_sum(ADDRESSES[version], 6, len(upper)))
    upper = upper[:16] + total.to_bytes(2, "big") + upper[18:]
    return ip(version, 6, upper, (0xFFF0 + number) & 0xFFFF if ident is None else ident, ttl, tos, label, df)


def datagram(version: int = 4, number: int = 0, size: int = 100, *, check: bool = True) -> bytes:
    payload = random.Random(number).randbytes(size)
    upper = struct.pack(">HHHH", 53, 54, 8 + size, 0) + payload
    total = (checksum(upper, pseudo_header_sum(ADDRESSES[version], 17, len(upper))) or 0xFFFF) if check else 0
    return ip(version, 17, upper[:6] + total.to_bytes(2, "big") + upper[8:], number, 64, 0, 0, 0x40)


def ip(version: int, protocol: int, upper: bytes, ident: int, ttl: int, tos: int, label: int, df: int) -> bytes:
    if version == 6:
        return struct.pack(">IHBB", 6 << 28 | tos << 20 | label, len(upper), protocol, ttl) + ADDRESSES[6] + upper
    header = bytearray(struct.pack(">BBHHBBBBH", 0x45, tos, 20 + len(upper), ident, df, 0, ttl, protocol, 0))
    header += ADDRESSES[4]
    header[10:12] = ipv4_header_checksum(header).to_bytes(2, "big")
    return bytes(header) + upper


def cut_again(merged: list[tuple[Packet, int]]) -> list[bytes]:
    """As they leave the TUN on the other side: through the virtio_net_hdr and in pieces."""
    packets: list[bytes] = []
    for packet, count in merged:
        if isinstance(packet, SuperPacket):
            header = emit(packet)
            assert header[0] == NEEDS_CSUM
            read = parse(memoryview(bytearray(header + packet.data)))
            assert isinstance(read, SuperPacket) and read.hdr_len == packet.hdr_len
            assert len(header) == VNET_HDR_LEN and count == read.segments > 1
            packets += map(bytes, segment(read))
        else:
            assert count == 1
            packets.append(bytes(packet))
    return packets


def counts(packets: list[Buffer], takes: frozenset[int] = ALL) -> list[int]:
    merged = coalesce(packets, takes)
    assert cut_again(merged) == [bytes(packet) for packet in packets]
    return [count for _, count in merged]


both = pytest.mark.parametrize("version", [4, 6])
lengths = pytest.mark.parametrize("count", [2, FEW - 1, FEW, FEW + 1, 40])


# What belongs together ----------------------------------------------------------------------------------------------


@both
@lengths
@each("size", [1, 99, 100])
def test_a_stream_is_one_packet(version: int, count: int, size: int) -> None:
    """Sequence number and identification wrap on the way."""
    packets: list[Buffer] = [tcp(version, number, size) for number in range(count)]
    assert counts(packets) == [count]


@both
@lengths
def test_the_last_may_be_shorter_and_end_the_stream(version: int, count: int) -> None:
    for flags in (ACK, ACK | PSH, ACK | FIN | PSH):
        for length in (1, 99, 100):
            run: list[Buffer] = [tcp(version, number) for number in range(count - 1)]
            run.append(tcp(version, count - 1, length=length, flags=flags))
            assert counts([*run, tcp(version, count, start=5)]) == [count, 1] if flags != ACK or length < 100 else True


@both
@lengths
def test_cwr_is_the_firsts(version: int, count: int) -> None:
    run: list[Buffer] = [tcp(version, number, flags=ACK | (0 if number else CWR)) for number in range(count)]
    assert counts(run) == [count]
    (merged,) = coalesce(run, ALL)
    assert isinstance(merged[0], SuperPacket) and emit(merged[0])[1] & 0x80
    run[count - 1] = tcp(version, count - 1, flags=ACK | CWR)
    assert counts(run) == ([count - 1, 1] if count > 2 else [1, 1])


@both
@lengths
def test_datagrams(version: int, count: int) -> None:
    run: list[Buffer] = [datagram(version, number) for number in range(count)]
    assert counts(run) == [count]
    assert counts([*run, datagram(version, count, size=50), datagram(version, count + 1)]) == [count + 1, 1]


def test_no_more_than_fits() -> None:
    """64 KiB, or 64 datagrams."""
    assert counts([tcp(number=number, size=1448) for number in range(100)]) == [45, 45, 10]
    assert counts([datagram(number=number) for number in range(100)]) == [MAX_DATAGRAMS, 100 - MAX_DATAGRAMS]


# What does not ------------------------------------------------------------------------------------------------------


ODD_ONES = {
    "port": {"port": 82}, "gap": {"start": 1}, "identification": {"ident": 5}, "ttl": {"ttl": 63}, "dscp": {"tos": 6},
    "ecn": {"tos": 3}, "df": {"df": 0}, "options": {"options": TIMESTAMPS[:-1] + b"\3"}, "no options": {"options": b""},
    "ack": {"ack": 8}, "window": {"window": 98}, "ece": {"flags": ACK | ECE}, "urg": {"flags": ACK | URG},
    "syn": {"flags": ACK | SYN}, "rst": {"flags": ACK | RST}, "cwr": {"flags": ACK | CWR}, "longer": {"length": 101},
    "empty": {"length": 0},
}  # fmt: skip


@lengths
@each("what", ODD_ONES)
def test_what_differs_ends_a_packet(what: str, count: int) -> None:
    run: list[Buffer] = [tcp(number=number) for number in range(count)]
    run.append(tcp(number=count, **ODD_ONES[what]))  # type: ignore[arg-type]
    run += [tcp(number=number) for number in range(count + 1, 2 * count + 1)]
    assert counts(run)[0] == count
    assert counts(run)[-1] >= count


@lengths
def test_flow_labels_differ(count: int) -> None:
    assert counts([tcp(6, 0, label=1), *(tcp(6, number) for number in range(1, count + 1))]) == [1, count]


@both
@lengths
def test_a_damaged_packet_stays_alone(version: int, count: int) -> None:
    """Were it put together with others its wrong checksum would be gone."""
    for damaged in range(count):
        run: list[Buffer] = [tcp(version, number) for number in range(count)]
        run[damaged] = bytes(run[damaged][:-1]) + bytes((run[damaged][-1] ^ 1,))
        assert 1 in counts(run)
        assert sum(counts(run)) == count


def test_in_ipv4_the_header_too() -> None:
    for at in (8, 10):
        run = [bytearray(tcp(number=number)) for number in range(FEW + 2)]
        run[3][at] ^= 1
        assert counts(list(run)) == [3, 1, FEW - 2]


def test_left_alone() -> None:
    fragment = bytearray(tcp())
    fragment[6] |= 0x20
    fragment[10:12] = ipv4_header_checksum(fragment[:20]).to_bytes(2, "big")
    for packet in (
        datagram(check=False), bytes(fragment), tcp(length=0), tcp(flags=ACK | SYN), tcp() + b"\0", b"", b"\x45" * 20,
        b"\x60" * 60, tcp(6)[:50], tcp()[:39],
    ):  # fmt: skip
        assert counts([packet] * 20) == [1] * 20


@both
def test_only_what_the_device_takes(version: int) -> None:
    run: list[Buffer] = [tcp(version, number) for number in range(20)]
    own = GSO_TCPV4 if version == 4 else GSO_TCPV6
    assert counts(run, frozenset()) == counts(run, ALL - {own}) == [1] * 20
    assert counts(run, frozenset({own})) == [20]


# Anything -----------------------------------------------------------------------------------------------------------


@st.composite
def bursts(draw: st.DrawFn) -> list[Buffer]:
    """Streams of both families and kinds, one after the other, with things in between."""
    packets: list[Buffer] = []
    for _ in range(draw(st.integers(1, 4))):
        version, size = draw(st.sampled_from([4, 6])), draw(st.sampled_from([1, 2, 33]))
        count = draw(st.sampled_from([1, 2, 3, FEW, FEW + 2, 20]))
        if draw(st.booleans()):
            run = [tcp(version, number, size) for number in range(count)]
            if draw(st.booleans()):
                run[-1] = tcp(version, count - 1, size, draw(st.integers(0, 255)), length=draw(st.integers(0, size)))
        else:
            run = [datagram(version, number, size) for number in range(count)]
        for _ in range(draw(st.integers(0, 2))):
            at = draw(st.integers(0, len(run) - 1))
            damaged = bytearray(run[at])
            damaged[draw(st.integers(0, len(damaged) - 1))] = draw(st.integers(0, 255))
            run[at] = bytes(damaged)
        packets += map(draw(st.sampled_from([bytes, bytearray, memoryview])), run)
    return packets


@given(bursts())
def test_cutting_gives_the_same_packets(packets: list[Buffer]) -> None:
    counts(packets)


# In the engine ------------------------------------------------------------------------------------------------------


def test_the_device_counts_packets_whatever_they_become() -> None:
    packets = [udp(*INNER[4], bytes((number,)) * 100) for number in range(20)]
    apart, together = Pair(), Pair()
    together.xfrm_right.takes = ALL
    for pair in (apart, together):
        sealed = [split_outer(packet) for packet in pair.emit(*packets)]
        delivered = pair.right.engine.input(sealed, NOW)
        assert [bytes(p) for _, group in delivered for p in cut(group)] == packets
    assert raised(apart.xfrm_right) == raised(together.xfrm_right)


def cut(group: list[Packet]) -> list[Buffer]:
    return [piece for packet in group for piece in (segment(packet) if isinstance(packet, SuperPacket) else [packet])]


@pytest.mark.parametrize("away", [False, True])
def test_every_refusal_counts(away: bool) -> None:
    numbers = []
    for takes in (frozenset[int](), ALL):
        pair = Pair()
        pair.xfrm_right.takes = takes
        pair.xfrm_right.away = away
        run = [tcp(number=number) for number in range(20)]
        sealed = [split_outer(packet) for packet in pair.emit(*run)]
        pair.right.engine.flush_policies(0, NOW)
        assert pair.right.engine.input(sealed, NOW) == []
        numbers.append((raised(pair.xfrm_right), pair.right.moved()))
    assert numbers[0] == numbers[1]
    assert 20 in numbers[0][1].values()
