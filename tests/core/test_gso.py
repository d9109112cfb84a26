"""xfrmi.core.gso: super-packets in pieces, against scapy, and one way against the other."""

from __future__ import annotations

import random
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.each import each
from xfrmi.core import gso
from xfrmi.wire.ip import checksum, pseudo_header_sum
from xfrmi.wire.vnet import GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VNET_HDR, SuperPacket, parse

FIN, PSH, ACK, CWR = 0x01, 0x08, 0x10, 0x80


def super_packet(packet: bytes, gso_type: int, gso_size: int) -> SuperPacket:
    """As the TUN hands it over: the checksum field holds the sum of the pseudo-header."""
    start, addresses = (packet[0] & 15) * 4 if packet[0] >> 4 == 4 else 40, packet[12:20]
    if packet[0] >> 4 == 6:
        start, addresses = (48 if packet[6] == 60 else 40), packet[8:40]
    protocol, offset = (17, 6) if gso_type == GSO_UDP_L4 else (6, 16)
    data = bytearray(VNET_HDR.pack(NEEDS_CSUM, gso_type, 0, gso_size, start, offset) + packet)
    field = 10 + start + offset
    data[field : field + 2] = (pseudo_header_sum(addresses, protocol, len(packet) - start) % 0xFFFF).to_bytes(2, "big")
    read = parse(memoryview(data))
    assert isinstance(read, SuperPacket)
    return read


def one_by_one(packet: SuperPacket) -> list[bytes]:
    return [bytes(cut) for cut in gso._segment_few(packet, packet.segments)]


def in_rows(packet: SuperPacket, column: int = 0, spare: int = 0) -> list[bytes]:
    rows = np.full((packet.segments + spare, column + packet.segment_len + spare), 0xAA, np.uint8)
    last_len = gso.segment_rows(packet, rows, column)
    lengths = [packet.segment_len] * (packet.segments - 1) + [last_len]
    assert (rows[:, :column] == 0xAA).all(), "what lies left of the packets stays"
    assert (rows[:, column + packet.segment_len :] == 0xAA).all(), "and right of them"
    assert (rows[packet.segments :] == 0xAA).all(), "and below"
    return [rows[index, column : column + length].tobytes() for index, length in enumerate(lengths)]


def payload(length: int) -> bytes:
    return random.Random(length).randbytes(length)


LENGTHS = [0, 1, 100, 101, 299, 300, 301, 345, 399, 400, 401, 4500, 4501, 4599]
"""With a size of 100: from nothing to one segment, then a few with and without a short last one, then 45 and 46."""


def scapy_tcp(layer: Any, data: bytes, size: int, *, options: list[Any], flags: int) -> tuple[bytes, list[bytes]]:
    """(the packet as a whole, its segments), every one of them built from scratch."""
    from scapy.layers.inet import TCP

    count = max(1, -(-len(data) // size))
    whole = bytes(layer(0) / TCP(sport=80, dport=81, seq=0xFFFFFF00, ack=7, flags=flags, window=99, options=options))
    segments = []
    for index in range(count):
        kept = flags & ~((FIN | PSH if index < count - 1 else 0) | (CWR if index else 0))
        seq = (0xFFFFFF00 + index * size) & 0xFFFFFFFF
        head = TCP(sport=80, dport=81, seq=seq, ack=7, flags=kept, window=99, options=options)
        segments.append(bytes(layer(index) / head / data[index * size : (index + 1) * size]))
    return lengthen(whole, data), segments


def scapy_udp(layer: Any, data: bytes, size: int, *, checked: bool = True) -> tuple[bytes, list[bytes]]:
    from scapy.layers.inet import UDP

    check = {} if checked else {"chksum": 0}
    count = max(1, -(-len(data) // size))
    whole = bytes(layer(0) / UDP(sport=53, dport=54, len=8 + len(data), chksum=0))
    segments = [
        bytes(layer(index) / UDP(sport=53, dport=54, **check) / data[index * size : (index + 1) * size])
        for index in range(count)
    ]
    return lengthen(whole, data), segments


def lengthen(header: bytes, data: bytes) -> bytes:
    """A header built without payload, with payload: only its IP length changes."""
    if header[0] >> 4 == 4:
        return header[:2] + (len(header) + len(data)).to_bytes(2, "big") + header[4:] + data
    return header[:4] + (len(header) + len(data) - 40).to_bytes(2, "big") + header[6:] + data


def layers() -> dict[str, Any]:
    from scapy.layers.inet import IP, IPOption_NOP
    from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt

    def v4(index: int) -> Any:
        return IP(src="192.0.2.1", dst="198.51.100.7", id=(0xFFFE + index) & 0xFFFF, flags="DF", ttl=33, tos=0x2A)

    def v4_options(index: int) -> Any:
        return IP(src="192.0.2.1", dst="198.51.100.7", id=index, options=[IPOption_NOP()] * 4)

    def v6(index: int) -> Any:
        return IPv6(src="2001:db8::1", dst="2001:db8::2", fl=0xABCDE, tc=0x2A, hlim=7)

    def v6_options(index: int) -> Any:
        return v6(index) / IPv6ExtHdrDestOpt()

    return {"v4": v4, "v4 options": v4_options, "v6": v6, "v6 options": v6_options}


TIMESTAMPS = [("NOP", None), ("NOP", None), ("Timestamp", (123456, 654321))]


FLAGS = {"ack": ACK, "fin psh": ACK | FIN | PSH, "cwr": ACK | CWR, "all": 0xFF}
NAMES = ["v4", "v4 options", "v6", "v6 options"]


@each(
    ("name", "options", "flags"),
    [
        pytest.param(name, [[], TIMESTAMPS][(row + column) % 2], flags, id=f"{name}-{word}")
        for row, name in enumerate(NAMES)
        for column, (word, flags) in enumerate(FLAGS.items())
    ],
)
def test_tcp_segments_are_scapys(name: str, options: list[Any], flags: int) -> None:
    """Identification and sequence number wrap; the last segment is short or not; odd sizes too. TCP options or none:
    with each of the headers and with each of the flags."""
    gso_type = GSO_TCPV4 if name.startswith("v4") else GSO_TCPV6
    for length, size in [(length, 100) for length in LENGTHS[:12]] + [(1000, 77)]:
        whole, expected = scapy_tcp(layers()[name], payload(length), size, options=options, flags=flags)
        packet = super_packet(whole, gso_type, size)
        assert one_by_one(packet) == expected
        assert in_rows(packet) == expected


@pytest.mark.parametrize("name", NAMES)
def test_udp_segments_are_scapys(name: str) -> None:
    for length, size in [(length, 100) for length in LENGTHS] + [(1000, 77)]:
        whole, expected = scapy_udp(layers()[name], payload(length), size)
        packet = super_packet(whole, GSO_UDP_L4, size)
        assert one_by_one(packet) == expected
        assert in_rows(packet) == expected


def test_udp_without_checksum_stays_without() -> None:
    whole, expected = scapy_udp(layers()["v4"], payload(950), 100, checked=False)
    assert whole[26:28] == b"\0\0"
    data = memoryview(bytearray(VNET_HDR.pack(0, GSO_UDP_L4, 0, 100, 0, 0) + whole))
    packet = parse(data)
    assert isinstance(packet, SuperPacket)
    assert one_by_one(packet) == in_rows(packet) == expected


def test_a_udp_checksum_of_zero_is_written_as_ones() -> None:
    """Ten datagrams whose words sum to 0xffff: 0 would mean "no checksum" (RFC 768)."""
    whole, _ = scapy_udp(layers()["v6"], bytes(100), 10)
    probe = one_by_one(super_packet(whole, GSO_UDP_L4, 10))[0]
    data = (probe[46:48] + bytes(8)) * 10
    packet = super_packet(whole[:48] + data, GSO_UDP_L4, 10)
    assert {cut[46:48] for cut in one_by_one(packet)} == {b"\xff\xff"}
    assert in_rows(packet) == one_by_one(packet)


def test_a_tcp_checksum_of_zero_stays_zero() -> None:
    """gso_make_checksum folds and no more: 0 is an ordinary value in TCP."""
    whole, _ = scapy_tcp(layers()["v6"], bytes(100), 10, options=[], flags=ACK)
    for index, probe in enumerate(one_by_one(super_packet(whole, GSO_TCPV6, 10))):
        data = bytearray(100)
        data[index * 10 : index * 10 + 2] = probe[56:58]
        packet = super_packet(whole[:60] + data, GSO_TCPV6, 10)
        assert one_by_one(packet)[index][56:58] == in_rows(packet)[index][56:58] == b"\0\0"


@given(st.data())
def test_both_ways_lead_to_the_same_bytes(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 1500), "size")
    length = data.draw(st.integers(0, min(65000, size * 60)), "length")
    version = data.draw(st.sampled_from((4, 6)), "version")
    seed = data.draw(st.integers(0, 1 << 32), "seed")
    rng = random.Random(seed)
    is_udp = rng.random() < 0.5
    upper_len = 8 if is_udp else 20 + 4 * rng.randrange(11)
    upper = bytearray(rng.randbytes(upper_len))
    if not is_udp:
        upper[12] = upper_len << 2
    if version == 4:
        ident, tos = rng.randrange(1 << 16), rng.randrange(256)
        length = min(length, 0xFFFF - 20 - upper_len)
        fixed = (20 + upper_len + length, ident, 0x4000, 64, 17 if is_udp else 6, 0)
        header = struct.pack(">BBHHHBBH", 0x45, tos, *fixed) + rng.randbytes(8)
    else:
        fixed6 = (upper_len + length, 17 if is_udp else 6, 64)
        header = struct.pack(">IHBB", 6 << 28 | rng.randrange(1 << 28), *fixed6) + rng.randbytes(32)
    whole = header + bytes(upper) + rng.randbytes(length)
    packet = super_packet(whole, GSO_UDP_L4 if is_udp else GSO_TCPV4 if version == 4 else GSO_TCPV6, size)

    cut = one_by_one(packet)
    assert cut == in_rows(packet, column=rng.randrange(64), spare=rng.randrange(3))
    assert cut == [bytes(piece) for piece in gso.segment(packet)]
    assert b"".join(piece[packet.hdr_len :] for piece in cut) == whole[packet.hdr_len :]
    addresses = slice(12, 20) if version == 4 else slice(8, 40)
    for piece in cut:
        pseudo = pseudo_header_sum(piece[addresses], 17 if is_udp else 6, len(piece) - packet.csum_start)
        assert checksum(piece[packet.csum_start :], pseudo) == 0
        assert version == 6 or checksum(piece[:20]) == 0


@pytest.mark.parametrize("count", [1, gso.FEW - 1, gso.FEW, 45])
def test_segments_are_their_own_memory(count: int) -> None:
    whole, _ = scapy_tcp(layers()["v4"], payload(100 * count), 100, options=[], flags=ACK)
    packet = super_packet(whole, GSO_TCPV4, 100)
    first, second = gso.segment(packet), gso.segment(packet)
    kept = [bytes(piece) for piece in first]
    packet.data[:] = bytes(len(packet.data))
    for piece in second:
        piece[:] = bytes(len(piece))
    assert [bytes(piece) for piece in first] == kept
