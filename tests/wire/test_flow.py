"""xfrmi.wire.flow: the flow of a packet as policies see it (2.1)."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.each import each
from xfrmi.wire.flow import Flow, flow_key, flow_of, flow_of_key
from xfrmi.wire.ip import Buffer

A4, B4 = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
A6, B6 = bytes(15) + b"\1", bytes(15) + b"\2"
PORTS = struct.pack(">HH", 1234, 80)


def v4(protocol: int, payload: bytes, *, flags: int = 0, options: bytes = b"", tos: int = 0, ttl: int = 64) -> bytes:
    first = 0x45 + len(options) // 4
    length = 20 + len(options) + len(payload)
    header = struct.pack(">BBHHHBBH", first, tos, length, 7, flags, ttl, protocol, 0xBEEF)
    return header + A4 + B4 + options + payload


def v6(protocol: int, payload: bytes, *, tclass: int = 0) -> bytes:
    return struct.pack(">IHBB", 6 << 28 | tclass << 20, len(payload), protocol, 64) + A6 + B6 + payload


def f4(protocol: int, sport: int = 0, dport: int = 0, known: bool = True) -> Flow:
    return Flow(2, A4, B4, protocol, sport, dport, known)


def f6(protocol: int, sport: int = 0, dport: int = 0, known: bool = True) -> Flow:
    return Flow(10, A6, B6, protocol, sport, dport, known)


GRE_WITH_KEY = bytes.fromhex("20000800") + bytes.fromhex("00010203")
GRE_WITH_CSUM_AND_KEY = bytes.fromhex("a0000800") + bytes.fromhex("cafe0000") + bytes.fromhex("00010203")

CASES = [
    ("tcp", v4(6, PORTS + bytes(16)), f4(6, 1234, 80)),
    ("udp with DF", v4(17, PORTS + bytes(4), flags=0x4000), f4(17, 1234, 80)),
    ("udplite", v4(136, PORTS + bytes(4)), f4(136, 1234, 80)),
    ("sctp", v4(132, PORTS + bytes(8)), f4(132, 1234, 80)),
    ("dccp", v4(33, PORTS + bytes(8)), f4(33, 1234, 80)),
    ("options", v4(6, PORTS + bytes(16), options=b"\1\1\1\0"), f4(6, 1234, 80)),
    ("reserved flag", v4(6, PORTS + bytes(16), flags=0x8000), f4(6, 1234, 80)),
    ("icmp: type and code", v4(1, bytes((8, 3)) + bytes(6)), f4(1, 8, 3)),
    ("gre without key", v4(47, bytes(4)), f4(47, known=False)),
    ("gre key", v4(47, GRE_WITH_KEY), f4(47, 0x0001, 0x0203)),
    ("gre checksum and key", v4(47, GRE_WITH_CSUM_AND_KEY), f4(47, 0x0001, 0x0203)),
    ("gre with routing", v4(47, b"\x60\0\x08\0" + bytes(12)), f4(47, known=False)),
    ("gre version 2", v4(47, b"\x20\x02\x08\0" + bytes(12)), f4(47, known=False)),
    ("other protocol", v4(89, PORTS + bytes(16)), f4(89, known=False)),
    ("first fragment", v4(17, PORTS + bytes(4), flags=0x2000), f4(17, known=False)),
    ("later fragment", v4(17, PORTS + bytes(4), flags=0x0001), f4(17, known=False)),
    ("truncated ports", v4(6, PORTS[:3]), f4(6, known=False)),
    ("truncated icmp", v4(1, b"\x08"), f4(1, known=False)),
    ("v6 tcp", v6(6, PORTS + bytes(16)), f6(6, 1234, 80)),
    ("v6 icmp", v6(58, bytes((128, 1)) + bytes(6)), f6(58, 128, 1)),
    ("v6 options", v6(0, b"\x2b\0" + bytes(6) + b"\x3c\0" + bytes(6) + b"\x06\1" + bytes(14) + PORTS), f6(6, 1234, 80)),
    ("v6 mobility: type", v6(135, bytes((59, 1, 5, 0)) + bytes(12)), f6(135, 5, 0)),
    ("v6 first fragment", v6(44, b"\x11\0\0\1" + bytes(4) + PORTS), f6(17, known=False)),
    ("v6 later fragment", v6(44, b"\x11\0\5\xa8" + bytes(4) + PORTS), f6(17, known=False)),
    ("v6 nothing", v6(59, b""), f6(59, known=False)),
    ("esp in esp", v4(50, bytes(20)), f4(50, known=False)),
]


@each("packet, flow", [case[1:] for case in CASES], ids=[case[0] for case in CASES])
@each("kind", [bytes, bytearray, memoryview])
def test_flow(packet: bytes, flow: Flow, kind: type[Buffer]) -> None:
    assert flow_of(kind(packet)) == flow
    key = flow_key(kind(packet))
    assert type(key) is bytes and flow_of_key(key) == flow


def test_keys_differ_where_flows_do() -> None:
    keys = {flow_key(packet): flow for _, packet, flow in CASES}
    assert len(keys) == len({flow for _, _, flow in CASES})


def test_key_knows_nothing_but_the_flow() -> None:
    plain = flow_key(v4(6, PORTS + bytes(16)))
    assert plain == flow_key(v4(6, PORTS + b"other payload...", tos=0xFC, ttl=3))
    assert plain == flow_key(v4(6, PORTS + bytes(16), options=b"\1\1\1\0")), "the lean path and the other one agree"
    assert flow_key(v6(6, PORTS)) == flow_key(v6(6, PORTS, tclass=0xB8))


def test_all_fragments_of_a_datagram_are_one_flow() -> None:
    """No fragment has ports, so port selectors match none of them (2.1)."""
    first = v4(17, PORTS + bytes(4), flags=0x2000)
    assert flow_key(first) == flow_key(v4(17, bytes(8), flags=0x00B9))


@pytest.mark.parametrize(
    "packet",
    [b"", b"\x45", v4(6, PORTS)[:19], v6(6, PORTS)[:39], b"\x35" + v4(6, PORTS)[1:], v6(0, b"\6\1" + bytes(6))],
)
def test_flow_refuses_what_is_no_packet(packet: bytes) -> None:
    with pytest.raises(ValueError):
        flow_key(packet)


@given(st.one_of(st.binary(max_size=100), st.binary(max_size=100).map(lambda tail: b"\x45" + tail)))
def test_hostile_bytes_raise_nothing_but_value_error(packet: bytes) -> None:
    try:
        key = flow_key(packet)
    except ValueError:
        return
    assert len(key) in (9, 13, 33, 37)
    assert flow_of_key(key) == flow_of(memoryview(packet))
