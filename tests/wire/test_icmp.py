"""xfrmi.wire.icmp: errors as a kernel sends them, and silence where the RFCs ask for it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xfrmi.wire import icmp
from xfrmi.wire.ip import checksum, pseudo_header_sum


def v4(
    payload: bytes = b"\x04\x57\x08\xae\0\0\0\0",
    *,
    protocol: int = 17,
    saddr: tuple[int, ...] = (10, 0, 0, 1),
    daddr: tuple[int, ...] = (10, 0, 0, 2),
    flags: int = 0x4000,
    tos: int = 0,
) -> bytes:
    head = struct.pack(">BBHHHBBH", 0x45, tos, 20 + len(payload), 7, flags, 64, protocol, 0)
    return head + bytes(saddr) + bytes(daddr) + payload


HERE, THERE = bytes.fromhex("20010db8") + bytes(11) + b"\1", bytes.fromhex("20010db8") + bytes(11) + b"\2"
MULTICAST = bytes.fromhex("ff02") + bytes(13) + b"\1"


def v6(
    payload: bytes = b"\x04\x57\x08\xae\0\0\0\0", *, protocol: int = 17, saddr: bytes = HERE, daddr: bytes = THERE
) -> bytes:
    return struct.pack(">IHBB", 6 << 28 | 0xB8 << 20 | 5, len(payload), protocol, 64) + saddr + daddr + payload


# Captured from Linux 6.12: the packet, and what its sender was told.

UNREACHABLE4 = bytes.fromhex(
    "45c000420892000040011d00c6336401c63364010301072f00000000"
    "4500002686af400040115fadc6336401c63364028d0d00090012548e00010203040506070809"
)
UNREACHABLE6 = bytes.fromhex(
    "6005419100423a4020010db800010000000000000000000120010db8000100000000000000000001010392fc00000000"
    "600d129d0012114020010db800010000000000000000000120010db8000100000000000000000002"
    "c0cb000900125b9a00010203040506070809"
)
TOO_BIG4 = bytes.fromhex(
    "45c00240de460000400121b2cb007101cb0071020304637c00000592450005dc009940003f11cf3fcb007102c63364020009000905c88e13"
).ljust(576, b"\0")
TOO_BIG6 = bytes.fromhex(
    "6008041204d83a4020010db800020000000000000000000120010db8000200000000000000000002020026a0000005a6"
    "6000000005b4113f20010db800020000000000000000000220010db80001000000000000000000020009000905b498fb"
).ljust(1280, b"\0")


def without_ident(packet: bytes) -> bytes:
    """IPv4 without identification and the checksum over it; IPv6 without flow label: the kernel makes these up."""
    if packet[0] >> 4 == 4:
        return packet[:4] + packet[6:10] + packet[12:]
    return packet[:1] + packet[4:]


@pytest.mark.parametrize(
    "captured, made",
    [
        (UNREACHABLE4, icmp.host_unreachable(UNREACHABLE4[28:], UNREACHABLE4[12:16])),
        (UNREACHABLE6, icmp.address_unreachable(UNREACHABLE6[48:], UNREACHABLE6[8:24])),
        (TOO_BIG4, icmp.frag_needed(TOO_BIG4[28:].ljust(1500, b"\0"), 1426, TOO_BIG4[12:16])),
        (TOO_BIG6, icmp.packet_too_big(TOO_BIG6[48:].ljust(1500, b"\0"), 1446, TOO_BIG6[8:24])),
    ],
    ids=["TX-09 v4", "TX-09 v6", "TX-12b", "TX-12a"],
)
def test_same_bytes_as_a_kernel(captured: bytes, made: bytes) -> None:
    assert without_ident(made) == without_ident(captured)
    if captured[0] >> 4 == 4:
        assert checksum(made[:20]) == 0


def test_scapy_reads_the_ipv4_error() -> None:
    from scapy.layers.inet import ICMP, IP, IPerror

    packet = v4(bytes(1400))
    made = icmp.frag_needed(memoryview(packet), 1200)
    read = IP(made)
    assert (read.src, read.dst, read.ttl, read.tos, read.len) == ("10.0.0.2", "10.0.0.1", 64, 0xC0, 576)
    assert (read[ICMP].type, read[ICMP].code, read[ICMP].nexthopmtu) == (3, 4, 1200)
    assert read[IPerror].id == 7
    assert checksum(made[:20]) == checksum(made[20:]) == 0


def test_scapy_reads_the_ipv6_error() -> None:
    from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6

    made = icmp.packet_too_big(memoryview(v6(bytes(1400))), 1400)
    read = IPv6(made)
    assert (read.src, read.dst, read.hlim, read.plen) == ("2001:db8::2", "2001:db8::1", 64, 1240)
    assert read[ICMPv6PacketTooBig].mtu == 1400
    assert checksum(made[40:], pseudo_header_sum(made[8:40], 58, len(made) - 40)) == 0


def test_source_is_the_inner_destination() -> None:
    """PMTU-01, PMTU-02: an error from an address of this host is dropped as martian."""
    assert icmp.host_unreachable(v4())[12:20] == bytes((10, 0, 0, 2, 10, 0, 0, 1))
    assert icmp.address_unreachable(v6())[8:40] == THERE + HERE
    assert icmp.host_unreachable(v4(), bytes((192, 0, 2, 9)))[12:16] == bytes((192, 0, 2, 9))


@pytest.mark.parametrize("mtu, told", [(1446, 1446), (1280, 1280), (1279, 1280), (68, 1280), (0, 1280)])
def test_ipv6_is_never_told_less_than_1280(mtu: int, told: int) -> None:
    """TX-12a, PMTU-05: a smaller one would be ignored."""
    assert int.from_bytes(icmp.packet_too_big(v6(bytes(1300)), mtu)[44:48], "big") == told


@pytest.mark.parametrize("mtu, told", [(1446, 1446), (400, 400), (70000, 65535)])
def test_ipv4_is_told_the_mtu_as_it_is(mtu: int, told: int) -> None:
    """TX-12b: it may be below 552."""
    assert icmp.frag_needed(v4(bytes(1400)), mtu)[24:28] == told.to_bytes(4, "big")


@pytest.mark.parametrize("tos, answered", [(0, 0xC0), (0xB8, 0xD8), (0x03, 0xC2), (0xFF, 0xDE)])
def test_type_of_service_is_internetwork_control(tos: int, answered: int) -> None:
    assert icmp.host_unreachable(v4(tos=tos))[1] == answered


def test_traffic_class_of_the_sender_is_not_copied() -> None:
    assert icmp.address_unreachable(v6())[:4] == b"\x60\0\0\0"


SILENCE4 = [
    ("later fragment", v4(flags=0x00B9)),
    ("to multicast", v4(daddr=(224, 0, 0, 5))),
    ("to broadcast", v4(daddr=(255, 255, 255, 255))),
    ("from nowhere", v4(saddr=(0, 0, 0, 0))),
    ("from multicast", v4(saddr=(239, 1, 1, 1))),
    ("about an error", v4(b"\3\1" + bytes(6), protocol=1)),
    ("about time exceeded", v4(b"\x0b\0" + bytes(6), protocol=1)),
    ("about an unknown ICMP type", v4(b"\x29\0" + bytes(6), protocol=1)),
    ("about ICMP without a type", v4(b"", protocol=1)),
]


@pytest.mark.parametrize("packet", [case[1] for case in SILENCE4], ids=[case[0] for case in SILENCE4])
def test_ipv4_gets_no_answer(packet: bytes) -> None:
    """RFC 1812 4.3.2.7."""
    assert icmp.frag_needed(packet, 1400) is None
    assert icmp.host_unreachable(packet) is None


SILENCE6 = [
    ("to multicast", v6(daddr=MULTICAST)),
    ("from nowhere", v6(saddr=bytes(16))),
    ("from multicast", v6(saddr=MULTICAST)),
    ("about an error", v6(b"\1\0" + bytes(6), protocol=58)),
    ("about an error behind options", v6(b"\x3a\0" + bytes(6) + b"\2\0" + bytes(6), protocol=0)),
    ("about an error, first fragment", v6(b"\x3a\0\0\1" + bytes(4) + b"\1\0" + bytes(6), protocol=44)),
    ("about ICMP without a type", v6(b"", protocol=58)),
]


@pytest.mark.parametrize("packet", [case[1] for case in SILENCE6], ids=[case[0] for case in SILENCE6])
def test_ipv6_gets_no_answer(packet: bytes) -> None:
    """RFC 4443 2.4 (e)."""
    assert icmp.packet_too_big(packet, 1400) is None
    assert icmp.address_unreachable(packet) is None


@pytest.mark.parametrize(
    "made",
    [
        icmp.host_unreachable(v4(b"\x08\0" + bytes(6), protocol=1)),
        icmp.host_unreachable(v4(flags=0x2000)),
        icmp.address_unreachable(v6(b"\x80\0" + bytes(6), protocol=58)),
        icmp.packet_too_big(v6(b"\x3a\0\5\xa8" + bytes(4) + b"\1\0" + bytes(6), protocol=44), 1400),
    ],
    ids=["echo", "first fragment", "v6 echo", "later v6 fragment, whatever it holds"],
)
def test_these_do_get_an_answer(made: bytes | None) -> None:
    assert made is not None


def test_too_big_for_multicast_needs_a_source() -> None:
    """RFC 4443 2.4 (e.3): Path MTU discovery works for IPv6 multicast, but nothing comes from a group."""
    packet = v6(bytes(1400), daddr=MULTICAST)
    assert icmp.packet_too_big(packet, 1400) is None
    assert icmp.packet_too_big(packet, 1400, THERE)[8:24] == THERE
    assert icmp.address_unreachable(packet, THERE) is None


def test_each_family_is_itself() -> None:
    with pytest.raises(ValueError):
        icmp.frag_needed(v6(), 1400)
    with pytest.raises(ValueError):
        icmp.packet_too_big(v4(bytes(40)), 1400)


@given(st.one_of(st.binary(max_size=80), st.binary(max_size=80).map(lambda tail: b"\x45" + tail)))
def test_hostile_bytes_raise_nothing_but_value_error(packet: bytes) -> None:
    first = packet[0] >> 4 if packet else 4
    try:
        made = icmp.frag_needed(packet, 1400) if first == 4 else icmp.packet_too_big(packet, 1400)
    except ValueError:
        return
    assert made is None or made.endswith(packet)
