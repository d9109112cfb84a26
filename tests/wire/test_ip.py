"""xfrmi.wire.ip: checksums, lengths, the way to the upper layer, outer packets."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.each import each
from xfrmi.wire import ip

V4 = bytes.fromhex("4500002000010000401100000a0000010a000002")
"""20 + 12 bytes, UDP."""
V6 = struct.pack(">IHBB", 6 << 28, 12, 17, 64) + bytes(15) + b"\1" + bytes(15) + b"\2"


def word_sum(data: bytes) -> int:
    """RFC 1071 as written: add 16-bit words, fold the carries, complement."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ipv6(first: int, *headers: bytes) -> bytes:
    """An IPv6 packet whose first next-header byte is `first`."""
    payload = b"".join(headers)
    return struct.pack(">IHBB", 6 << 28, len(payload), first, 64) + bytes(15) + b"\1" + bytes(15) + b"\2" + payload


def option(following: int, units: int = 0) -> bytes:
    """An options or routing header of 8 * (units + 1) bytes."""
    return bytes((following, units)) + bytes(6 + 8 * units)


def fragment(following: int, offset: int, more: int = 0, ident: int = 7) -> bytes:
    return struct.pack(">BBHI", following, 0, offset | more, ident)


@given(st.binary(max_size=200), st.binary(max_size=40).map(lambda data: data + b"\0" * (len(data) % 2)))
def test_checksum_is_rfc_1071(data: bytes, before: bytes) -> None:
    assert ip.checksum(data) == word_sum(data)
    assert ip.checksum(memoryview(data)) == word_sum(data)
    # words in front of the data count as an initial sum, however wide they are added up
    assert ip.checksum(data, int.from_bytes(before, "big")) == word_sum(before + data)


@given(st.binary(min_size=2, max_size=100).filter(any))
def test_data_with_its_own_checksum_sums_to_zero(data: bytes) -> None:
    data += bytes(len(data) % 2)
    assert ip.checksum(data + ip.checksum(data).to_bytes(2, "big")) == 0


@pytest.mark.parametrize("data, value", [(b"", 0xFFFF), (b"\0\0", 0xFFFF), (b"\xff\xff", 0), (b"\x01", 0xFEFF)])
def test_checksum_of_the_two_zeros(data: bytes, value: int) -> None:
    assert ip.checksum(data) == value


@given(st.binary(min_size=20, max_size=60))
def test_header_checksum_ignores_the_field(data: bytes) -> None:
    header = b"\x45" + data[1 : len(data) // 4 * 4]
    clean = header[:10] + b"\0\0" + header[12:]
    assert ip.ipv4_header_checksum(header) == ip.ipv4_header_checksum(memoryview(header)) == word_sum(clean)


def test_checksums_agree_with_scapy() -> None:
    from scapy.layers.inet import IP, TCP, UDP
    from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6

    for layer in (TCP(sport=1, dport=2), UDP(sport=3, dport=4), UDP(sport=3, dport=4) / b"odd"):
        packet = bytes(IP(src="192.0.2.1", dst="198.51.100.7", ttl=9) / layer)
        assert ip.ipv4_header_checksum(packet[:20]) == int.from_bytes(packet[10:12], "big")
        assert ip.checksum(packet[:20]) == 0
        assert ip.checksum(packet[20:], ip.pseudo_header_sum(packet[12:20], packet[9], len(packet) - 20)) == 0
    packet = bytes(IPv6(src="2001:db8::1", dst="2001:db8::2") / ICMPv6EchoRequest(data=b"12345"))
    assert ip.checksum(packet[40:], ip.pseudo_header_sum(packet[8:40], 58, len(packet) - 40)) == 0


def test_finish_checksum_completes_a_partial_one() -> None:
    from scapy.layers.inet import IP, UDP

    whole = bytes(IP(src="192.0.2.1", dst="198.51.100.7") / UDP(sport=3, dport=4) / b"payload")
    partial = bytearray(whole)
    pseudo = ip.pseudo_header_sum(whole[12:20], 17, len(whole) - 20) % 0xFFFF
    partial[26:28] = pseudo.to_bytes(2, "big")
    ip.finish_checksum(memoryview(partial), 20, 6)
    assert partial == whole


def test_finished_checksum_is_never_zero() -> None:
    packet = bytearray(b"\xff\xff\0\0")
    ip.finish_checksum(packet, 0, 2)
    assert packet == b"\xff\xff\xff\xff"


def test_finish_checksum_stays_inside_the_packet() -> None:
    packet = bytearray(20)
    with pytest.raises(ValueError):
        ip.finish_checksum(packet, 10, 9)
    assert packet == bytes(20)


@pytest.mark.parametrize("packet", [V4 + bytes(12), V6 + bytes(12)], ids=["v4", "v6"])
def test_trim_cuts_padding_and_nothing_else(packet: bytes) -> None:
    assert ip.trim(packet) is packet
    assert ip.trim(packet + b"TFC") == packet
    with pytest.raises(ValueError):
        ip.trim(packet[:-1])


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\x45",
        V4[:19],
        V6[:39],
        b"\x55" + V4[1:] + bytes(12),
        b"\x44" + V4[1:] + bytes(12),
        V4[:2] + b"\0\x13" + V4[4:] + bytes(12),
        b"\x46" + V4[1:2] + b"\0\x14" + V4[4:] + bytes(12),
    ],
    ids=["empty", "one byte", "v4 short", "v6 short", "version 5", "ihl 4", "total 19", "total below ihl"],
)
def test_trim_refuses_what_is_no_packet(packet: bytes) -> None:
    with pytest.raises(ValueError):
        ip.trim(packet)


UPPER_LAYERS = [
    ("plain v4", V4, (17, 20, -1)),
    ("v4 options", b"\x46" + V4[1:] + b"\1\1\1\0", (17, 24, -1)),
    ("v4 DF is no fragment", V4[:6] + b"\x40\0" + V4[8:], (17, 20, -1)),
    ("v4 first fragment", V4[:6] + b"\x20\0" + V4[8:], (17, 20, 0)),
    ("v4 last fragment", V4[:6] + b"\x00\x02" + V4[8:], (17, 20, 16)),
    ("plain v6", ipv6(6), (6, 40, -1)),
    ("v6 options", ipv6(0, option(60), option(43, 1), option(17)), (17, 72, -1)),
    ("v6 AH is upper layer", ipv6(51, bytes(24)), (51, 40, -1)),
    ("v6 ends at the fragment header", ipv6(0, option(44), fragment(60, 0, 1), option(17)), (60, 56, 0)),
    ("v6 atomic fragment", ipv6(44, fragment(6, 0)), (6, 48, 0)),
    ("v6 later fragment", ipv6(44, fragment(6, 1448)), (6, 48, 1448)),
    ("v6 no next header", ipv6(59), (59, 40, -1)),
]


@each("packet, found", [case[1:] for case in UPPER_LAYERS], ids=[case[0] for case in UPPER_LAYERS])
def test_upper_layer(packet: bytes, found: tuple[int, int, int]) -> None:
    assert ip.upper_layer(packet) == found
    assert ip.upper_layer(memoryview(packet)) == found


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        V4[:19],
        b"\x4f" + V4[1:],
        V6[:39],
        ipv6(0),
        ipv6(60, option(6, 1)[:15]),
        ipv6(44, fragment(6, 0)[:7]),
        ipv6(60, *(option(60) for _ in range(20))),
    ],
    ids=["empty", "v4 short", "v4 options short", "v6 short", "no ext", "ext short", "frag short", "ext chain"],
)
def test_upper_layer_refuses(packet: bytes) -> None:
    with pytest.raises(ValueError):
        ip.upper_layer(packet)


TRANSPORT_OFFSETS = [
    ("plain", ipv6(17), (40, 6)),
    ("hop by hop", ipv6(0, option(17)), (48, 40)),
    ("destination options alone are passed", ipv6(60, option(17)), (48, 40)),
    ("destination options, then routing", ipv6(60, option(43), option(6)), (56, 48)),
    ("destination options after routing stay inside", ipv6(43, option(60), option(6)), (48, 40)),
    ("before the fragment header", ipv6(0, option(44), fragment(6, 0, 1)), (48, 40)),
    ("all of them", ipv6(0, option(60), option(43), option(60, 1), option(6)), (72, 56)),
]
"""5.2; the third as a kernel was seen to do it."""


@pytest.mark.parametrize(
    "packet, found", [case[1:] for case in TRANSPORT_OFFSETS], ids=[case[0] for case in TRANSPORT_OFFSETS]
)
def test_transport_offset_of_ipv6(packet: bytes, found: tuple[int, int]) -> None:
    assert ip.ipv6_transport_offset(packet) == found


@pytest.mark.parametrize("packet", [b"", V4 + bytes(20), V6[:39], ipv6(0), ipv6(0, option(17, 1)[:9])])
def test_transport_offset_refuses(packet: bytes) -> None:
    with pytest.raises(ValueError):
        ip.ipv6_transport_offset(packet)


def outer(protocol: int, payload: bytes) -> bytes:
    return V4[:2] + struct.pack(">H", 20 + len(payload)) + V4[4:9] + bytes((protocol,)) + V4[10:] + payload


ESP = bytes.fromhex("0000010000000001") + bytes(24)
NAT_T = struct.pack(">HHHH", 4500, 4500, 8 + len(ESP), 0)
OUTER = [
    ("v4", outer(50, ESP), 20),
    ("v4 options", b"\x46\0" + struct.pack(">H", 24 + len(ESP)) + outer(50, b"")[4:] + b"\1\1\1\0" + ESP, 24),
    ("v4 UDP", outer(17, NAT_T + ESP), 28),
    ("v6", ipv6(50, ESP), 40),
    ("v6 options", ipv6(0, option(60), option(50), ESP), 56),
    ("v6 UDP", ipv6(17, NAT_T + ESP), 48),
]


@pytest.mark.parametrize("packet, header_len", [case[1:] for case in OUTER], ids=[case[0] for case in OUTER])
def test_split_outer(packet: bytes, header_len: int) -> None:
    assert ip.split_outer(packet) == (packet[:header_len], ESP)
    header, esp = ip.split_outer(memoryview(packet + bytes(6)))  # Ethernet padding
    assert (bytes(header), bytes(esp)) == (packet[:header_len], ESP)


@pytest.mark.parametrize(
    "packet",
    [
        outer(6, ESP),
        outer(50, ESP)[:6] + b"\x20\0" + outer(50, ESP)[8:],
        ipv6(44, fragment(50, 0), ESP),
        outer(17, NAT_T[:4] + b"\0\x09\0\0\xff"),
        outer(17, NAT_T + bytes(4) + ESP[4:]),
        outer(17, struct.pack(">HHHH", 4500, 4500, 16, 0) + ESP),
        outer(17, struct.pack(">HHHH", 4500, 4500, 8 + len(ESP) + 1, 0) + ESP),
        outer(17, NAT_T[:5]),
        b"",
    ],
    ids=["TCP", "fragment", "v6 fragment", "keepalive", "IKE", "8 bytes", "UDP length", "UDP header", "empty"],
)
def test_split_outer_refuses(packet: bytes) -> None:
    """UDP-03 to UDP-05: what the kernel would not take for ESP."""
    with pytest.raises(ValueError):
        ip.split_outer(packet)


# Checksums that a NAT has broken -------------------------------------------------------------------------------------


def covered(packet: bytes, offset: int, protocol: int, length: int) -> bytes:
    """What the checksum is over (RFC 9293 3.1, RFC 768, RFC 4443 2.3): pseudo-header, header and data."""
    addresses = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
    return addresses + struct.pack(">II", length, protocol) + packet[offset : offset + length]


TCP_SEGMENT = struct.pack(">HHIIBBHHH", 1, 2, 3, 4, 0x50, 0x18, 5, 0xDEAD, 0)
UDP_DATAGRAM = struct.pack(">HHHH", 1, 2, 8 + 5, 0xDEAD)


@each("tail", [b"hello", b"", b"even"])
@each(
    ("packet", "offset", "protocol"),
    [
        (outer(6, TCP_SEGMENT), 20, 6),
        (outer(17, UDP_DATAGRAM), 20, 17),
        (b"\x46" + outer(6, b"")[1:] + b"\1\1\1\0" + TCP_SEGMENT, 24, 6),
        (ipv6(6, TCP_SEGMENT), 40, 6),
        (ipv6(17, UDP_DATAGRAM), 40, 17),
        (ipv6(58, bytes((128, 0, 0xDE, 0xAD, 0, 1, 0, 1))), 40, 58),
        (ipv6(0, option(60), option(17), UDP_DATAGRAM), 56, 17),
    ],
    ids=["tcp", "udp", "options", "tcp6", "udp6", "icmpv6", "extension headers"],
)
def test_a_renewed_checksum_is_right(packet: bytes, offset: int, protocol: int, tail: bytes) -> None:
    whole = packet + tail
    if protocol == 17:
        length = 8 + len(tail)
        whole = whole[: offset + 4] + length.to_bytes(2, "big") + whole[offset + 6 :]
    data = bytearray(whole)
    ip.renew_checksum(data)
    assert word_sum(covered(bytes(data), offset, protocol, len(data) - offset)) == 0
    at = {6: 16, 17: 6, 58: 2}[protocol] + offset
    assert data[:at] + data[at + 2 :] == whole[:at] + whole[at + 2 :]
    once = bytes(data)
    ip.renew_checksum(data)
    assert data == once


def test_a_renewed_udp_checksum_covers_the_datagram_only() -> None:
    data = bytearray(outer(17, UDP_DATAGRAM) + b"hello, padding")
    ip.renew_checksum(data)
    assert word_sum(covered(bytes(data), 20, 17, 13)) == 0


@pytest.mark.parametrize(
    "packet",
    [
        outer(17, UDP_DATAGRAM[:6] + bytes(2) + b"hello"),  # without a checksum
        ipv6(17, UDP_DATAGRAM[:6] + bytes(2) + b"hello"),
        outer(17, struct.pack(">HHHH", 1, 2, 7, 0xDEAD)),  # a length that cannot be
        outer(17, UDP_DATAGRAM[:7]),
        outer(6, TCP_SEGMENT[:17]),
        outer(50, ESP),
        outer(58, UDP_DATAGRAM),
        outer(6, TCP_SEGMENT)[:6] + b"\x20\0" + outer(6, TCP_SEGMENT)[8:],
        ipv6(44, fragment(17, 0), UDP_DATAGRAM),
        ipv6(0, option(6)[:5]),
        b"",
    ],
    ids=["none", "none6", "length", "short", "short tcp", "esp", "icmpv6", "fragment", "fragment6", "cut", "empty"],
)
def test_checksums_that_are_left_alone(packet: bytes) -> None:
    data = bytearray(packet)
    ip.renew_checksum(data)
    assert data == packet


HOSTILE = st.one_of(
    st.binary(max_size=120),
    st.binary(max_size=100).map(lambda tail: b"\x45" + tail),
    st.tuples(st.sampled_from((0, 43, 44, 50, 60, 17, 6)), st.binary(max_size=80)).map(
        lambda parts: ipv6(parts[0], parts[1])
    ),
)


@given(HOSTILE)
def test_hostile_bytes_raise_nothing_but_value_error(packet: bytes) -> None:
    ip.renew_checksum(bytearray(packet))
    for read in (ip.trim, ip.upper_layer, ip.ipv6_transport_offset, ip.split_outer):
        try:
            result = read(packet)
        except ValueError:
            continue
        if read is ip.split_outer:
            assert packet.startswith(bytes(result[0]) + bytes(result[1]))
        elif read is ip.ipv6_transport_offset:
            assert result[1] < result[0] <= len(packet)
