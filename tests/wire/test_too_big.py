"""xfrmi.wire.too_big: ICMP errors about packets of ours, whole, cut short, damaged and forged."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xfrmi.wire.ip import checksum
from xfrmi.wire.too_big import TooBig, read_too_big
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6, IPPROTO_ESP

SRC4, DST4 = bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2))
SRC6, DST6 = bytes.fromhex("20010db8") + bytes(11) + b"\1", bytes.fromhex("20010db8") + bytes(11) + b"\2"
ESP = bytes.fromhex("00001000 00000007") + bytes(range(60))

QUOTED4 = struct.pack(">BBHHHBBH", 0x45, 0, 1460, 0, 0x4000, 60, IPPROTO_ESP, 0) + SRC4 + DST4 + ESP
QUOTED6 = struct.pack(">IHBB", 6 << 28, 1420, IPPROTO_ESP, 60) + SRC6 + DST6 + ESP


def icmp4(quote: bytes, mtu: int = 1300, kind: int = 3, code: int = 4) -> bytes:
    message = bytearray(struct.pack(">BBHHH", kind, code, 0, 0, mtu) + quote)
    message[2:4] = checksum(message).to_bytes(2, "big")
    return bytes(message)


def icmp6(quote: bytes, mtu: int = 1300, kind: int = 2, code: int = 0) -> bytes:
    return struct.pack(">BBHI", kind, code, 0xBEEF, mtu) + quote


def test_what_is_told() -> None:
    assert read_too_big(AF_INET, icmp4(QUOTED4)) == TooBig(1300, DST4, IPPROTO_ESP, ESP)
    assert read_too_big(AF_INET6, icmp6(QUOTED6, 70000)) == TooBig(70000, DST6, IPPROTO_ESP, ESP)
    assert read_too_big(AF_INET6, icmp6(QUOTED6, code=9)) is not None, "RFC 4443 3.2: the code is ignored"


def test_eight_bytes_are_enough() -> None:
    """RFC 792, RFC 1812 4.3.2.3: nobody has to quote more. The kernel reads nothing that has less."""
    for family, make, quote, header_len in ((AF_INET, icmp4, QUOTED4, 20), (AF_INET6, icmp6, QUOTED6, 40)):
        told = read_too_big(family, make(quote[: header_len + 8]))
        assert told is not None and told.upper == ESP[:8]
        assert read_too_big(family, make(quote[: header_len + 7])) is None


def test_options_and_extension_headers_are_stepped_over() -> None:
    options = b"\x46" + QUOTED4[1:20] + bytes((1, 1, 1, 0)) + ESP
    assert read_too_big(AF_INET, icmp4(options)) == TooBig(1300, DST4, IPPROTO_ESP, ESP)
    destination = bytes((IPPROTO_ESP, 0, 1, 4, 0, 0, 0, 0))
    extended = QUOTED6[:6] + b"\x3c" + QUOTED6[7:40] + destination + ESP
    assert read_too_big(AF_INET6, icmp6(extended)) == TooBig(1300, DST6, IPPROTO_ESP, ESP)


@pytest.mark.parametrize("kind, code", [(3, 0), (3, 1), (3, 3), (3, 13), (4, 0), (5, 1), (11, 0), (12, 0), (0, 4)])
def test_other_icmp_is_nothing(kind: int, code: int) -> None:
    """1.7: redirects, unreachable hosts and ports, exceeded times."""
    assert read_too_big(AF_INET, icmp4(QUOTED4, kind=kind, code=code)) is None


@pytest.mark.parametrize("kind", [1, 3, 4, 128, 137])
def test_other_icmpv6_is_nothing(kind: int) -> None:
    assert read_too_big(AF_INET6, icmp6(QUOTED6, kind=kind)) is None


def test_a_damaged_one_is_nothing() -> None:
    message = bytearray(icmp4(QUOTED4))
    message[30] ^= 1
    assert read_too_big(AF_INET, message) is None


def test_a_later_fragment_says_nothing() -> None:
    """What stands where the SPI would be is ciphertext."""
    assert read_too_big(AF_INET, icmp4(QUOTED4[:6] + b"\0\xb9" + QUOTED4[8:])) is None
    fragment = bytes((IPPROTO_ESP, 0, 5, 200, 0, 0, 0, 1))
    assert read_too_big(AF_INET6, icmp6(QUOTED6[:6] + b"\x2c" + QUOTED6[7:40] + fragment + ESP)) is None
    first = bytes((IPPROTO_ESP, 0, 0, 1, 0, 0, 0, 1))
    told = read_too_big(AF_INET6, icmp6(QUOTED6[:6] + b"\x2c" + QUOTED6[7:40] + first + ESP))
    assert told is not None and told.upper == ESP


def test_one_family_does_not_quote_the_other() -> None:
    assert read_too_big(AF_INET, icmp4(QUOTED6)) is None
    assert read_too_big(AF_INET6, icmp6(QUOTED4)) is None


@given(st.sampled_from([AF_INET, AF_INET6]), st.binary(max_size=90))
def test_whatever_comes(family: int, quote: bytes) -> None:
    make = icmp4 if family == AF_INET else icmp6
    told = read_too_big(family, make(quote))
    assert told is None or (len(told.upper) >= 8 and len(told.daddr) == (4 if family == AF_INET else 16))
    read_too_big(family, quote)
