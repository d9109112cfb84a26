"""xfrmi.wire.vnet: the virtio_net_hdr, checksums it leaves open, super-packets."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.each import each
from xfrmi.wire.ip import checksum, pseudo_header_sum
from xfrmi.wire.vnet import (
    DATA_VALID,
    GSO_ECN,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP,
    GSO_UDP_L4,
    NEEDS_CSUM,
    NO_OFFLOAD,
    VNET_HDR,
    VNET_HDR_LEN,
    SuperPacket,
    emit,
    parse,
)

ADDRESSES4 = bytes((10, 0, 0, 1, 10, 0, 0, 2))
ADDRESSES6 = bytes(15) + b"\1" + bytes(15) + b"\2"


def ip_packet(version: int, protocol: int, upper: bytes, options: bytes = b"") -> bytes:
    if version == 4:
        length = 20 + len(options) + len(upper)
        head = struct.pack(">BBHHHBBH", 0x45 + len(options) // 4, 0, length, 1, 0x4000, 64, protocol, 0)
        return head + ADDRESSES4 + options + upper
    first = 60 if options else protocol
    head = struct.pack(">IHBB", 6 << 28, len(options) + len(upper), first, 64)
    return head + ADDRESSES6 + options + upper


def tcp(payload: bytes, *, flags: int = 0x10, options: bytes = b"", check: int = 0) -> bytes:
    words = 5 + len(options) // 4
    return struct.pack(">HHIIBBHHH", 80, 81, 1000, 2000, words << 4, flags, 512, check, 0) + options + payload


def udp(payload: bytes, check: int = 0) -> bytes:
    return struct.pack(">HHHH", 53, 54, 8 + len(payload), check) + payload


def frame(header: tuple[int, ...], packet: bytes) -> memoryview:
    """header: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset."""
    return memoryview(bytearray(VNET_HDR.pack(*header) + packet))


def test_finished_packet_is_a_view() -> None:
    read = frame((0, GSO_NONE, 0, 0, 0, 0), b"packet")
    packet = parse(read)
    assert packet == b"packet"
    read[VNET_HDR_LEN] = ord("P")
    assert packet == b"Packet"


def test_data_valid_asks_for_nothing() -> None:
    assert parse(frame((DATA_VALID, GSO_NONE, 0, 0, 0, 0), b"packet")) == b"packet"


@pytest.mark.parametrize("version", [4, 6])
def test_partial_checksum_is_finished(version: int) -> None:
    addresses = ADDRESSES4 if version == 4 else ADDRESSES6
    offset = 20 if version == 4 else 40
    partial = pseudo_header_sum(addresses, 17, 13) % 0xFFFF
    read = frame((NEEDS_CSUM, GSO_NONE, 0, 0, offset, 6), ip_packet(version, 17, udp(b"hello", partial)))
    packet = parse(read)
    assert checksum(packet[offset:], pseudo_header_sum(addresses, 17, 13)) == 0


SUPER = [
    ("tcp4", GSO_TCPV4, ip_packet(4, 6, tcp(bytes(3000))), 40, 20, 16),
    ("tcp4 timestamps", GSO_TCPV4, ip_packet(4, 6, tcp(bytes(3000), options=bytes(12))), 52, 20, 16),
    ("tcp4 IP options", GSO_TCPV4, ip_packet(4, 6, tcp(bytes(3000)), b"\1\1\1\0"), 44, 24, 16),
    ("tcp4 CWR", GSO_TCPV4 | GSO_ECN, ip_packet(4, 6, tcp(bytes(3000), flags=0x90)), 40, 20, 16),
    ("tcp6", GSO_TCPV6, ip_packet(6, 6, tcp(bytes(3000))), 60, 40, 16),
    ("tcp6 options", GSO_TCPV6, ip_packet(6, 6, tcp(bytes(3000)), b"\6\0" + bytes(6)), 68, 48, 16),
    ("udp4", GSO_UDP_L4, ip_packet(4, 17, udp(bytes(3000))), 28, 20, 6),
    ("udp6", GSO_UDP_L4, ip_packet(6, 17, udp(bytes(3000))), 48, 40, 6),
]


@each("flags", [NEEDS_CSUM, 0])
@each(
    "gso_type, packet, hdr_len, start, offset", [case[1:] for case in SUPER], ids=[case[0] for case in SUPER]
)
def test_super_packet(gso_type: int, packet: bytes, hdr_len: int, start: int, offset: int, flags: int) -> None:
    """hdr_len is read from the packet: the kernel's is whatever lay in the linear part of its buffer."""
    csum = (start, offset) if flags else (0, 0)
    read = parse(frame((flags, gso_type, 999, 1400, *csum), packet))
    assert isinstance(read, SuperPacket)
    assert read.data == packet and type(read.data) is memoryview
    assert (read.gso_type, read.hdr_len, read.gso_size) == (gso_type & ~GSO_ECN, hdr_len, 1400)
    assert (read.csum_start, read.csum_offset) == (start, offset)
    assert read.segments == 3 and read.segment_len == hdr_len + 1400

    header = emit(read)
    assert header == VNET_HDR.pack(NEEDS_CSUM, gso_type, hdr_len, 1400, start, offset)
    again = parse(memoryview(bytearray(header + packet)))
    assert isinstance(again, SuperPacket) and again.data == packet and repr(again) == repr(read)


@pytest.mark.parametrize(
    "payload_len, segments, longest", [(0, 1, 40), (1, 1, 41), (100, 1, 140), (101, 2, 140), (200, 2, 140)]
)
def test_how_many_segments(payload_len: int, segments: int, longest: int) -> None:
    read = parse(frame((NEEDS_CSUM, GSO_TCPV4, 40, 100, 20, 16), ip_packet(4, 6, tcp(bytes(payload_len)))))
    assert isinstance(read, SuperPacket)
    assert (read.segments, read.segment_len) == (segments, longest)


def test_emit_for_a_finished_packet() -> None:
    assert emit(b"packet") == NO_OFFLOAD == bytes(VNET_HDR_LEN)


TCP4 = ip_packet(4, 6, tcp(bytes(100)))


@each(
    "header, packet",
    [
        ((0, GSO_TCPV6, 0, 100, 0, 0), TCP4),
        ((0, GSO_TCPV4, 0, 100, 0, 0), ip_packet(6, 6, tcp(bytes(100)))),
        ((0, GSO_TCPV4, 0, 100, 0, 0), ip_packet(4, 17, udp(bytes(100)))),
        ((0, GSO_UDP_L4, 0, 100, 0, 0), TCP4),
        ((0, GSO_UDP, 0, 100, 0, 0), ip_packet(4, 17, udp(bytes(100)))),
        ((0, 9, 0, 100, 0, 0), TCP4),
        ((0, GSO_TCPV4, 0, 0, 0, 0), TCP4),
        ((NEEDS_CSUM, GSO_TCPV4, 0, 100, 24, 16), TCP4),
        ((0, GSO_TCPV4, 0, 100, 0, 0), TCP4[:39]),
        ((0, GSO_TCPV4, 0, 100, 0, 0), ip_packet(4, 6, tcp(b"")[:12] + b"\x40" + tcp(b"")[13:])),
        ((0, GSO_TCPV4, 0, 100, 0, 0), ip_packet(4, 6, tcp(b"")[:12] + b"\xf0" + tcp(b"")[13:])),
        ((0, GSO_TCPV4, 0, 100, 0, 0), TCP4[:6] + b"\x20\0" + TCP4[8:]),
        ((0, GSO_TCPV4, 0, 100, 0, 0), b""),
        ((NEEDS_CSUM, GSO_NONE, 0, 0, 138, 2), TCP4),
    ],
    ids=[
        "v6 type on v4", "v4 type on v6", "tcp type on udp", "udp type on tcp", "UFO", "unknown type", "size 0",
        "csum_start", "short", "data offset 4", "data offset 15", "fragment", "nothing", "checksum outside",
    ],
)  # fmt: skip
def test_header_and_packet_agree(header: tuple[int, ...], packet: bytes) -> None:
    with pytest.raises(ValueError):
        parse(frame(header, packet))


@given(st.binary(max_size=10), st.one_of(st.binary(max_size=90), st.just(TCP4[:70]), st.just(SUPER[5][2][:90])))
def test_hostile_bytes_raise_nothing_but_value_error(header: bytes, packet: bytes) -> None:
    try:
        read = parse(memoryview(bytearray(header + packet)))
    except ValueError:
        return
    data = read.data if isinstance(read, SuperPacket) else read
    assert len(data) == len(header) + len(packet) - VNET_HDR_LEN
