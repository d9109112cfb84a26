"""Numbers and addresses as iproute2 reads them (strtoul with base 0, get_addr, get_prefix)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from tests.each import each
from xfrmi.formats.numbers import parse_address, parse_ipv4, parse_number, parse_prefix
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6

NUMBERS = [
    ("0", 8, 0),
    ("10", 8, 10),
    ("0x10", 8, 16),
    ("0XfF", 8, 255),
    ("010", 8, 8),
    (" 7", 8, 7),
    ("+7", 8, 7),
    ("256", 8, None),
    ("65536", 16, None),
    ("4294967295", 32, 0xFFFFFFFF),
    ("4294967296", 32, None),
    ("-1", 64, 0xFFFFFFFFFFFFFFFF),
    ("-1", 32, None),
    ("-18446744073709551615", 8, 1),
    ("18446744073709551615", 64, 0xFFFFFFFFFFFFFFFF),
    ("18446744073709551616", 64, None),
    ("9" * 5000, 64, None),
    ("08", 8, None),
    ("0x", 8, None),
    ("0b1", 8, None),
    ("1_0", 8, None),
    ("1 ", 8, None),
    ("", 8, None),
    ("-", 8, None),
    ("five", 8, None),
    ("\u0663", 8, None),
]


@each(("text", "bits", "value"), NUMBERS)
def test_number(text: str, bits: int, value: int | None) -> None:
    assert parse_number(text, bits) == value


@given(st.integers(0, 2**32 - 1))
def test_every_number_reads_back(number: int) -> None:
    for text in (str(number), hex(number), f"0{number:o}"):
        assert parse_number(text, 32) == number


PREFIXES = [
    ("192.0.2.1", 0, (AF_INET, "192.0.2.1", 32)),
    ("192.0.2.1/24", 0, (AF_INET, "192.0.2.1", 24)),
    ("10/8", 0, (AF_INET, "10.0.0.0", 8)),
    ("10.1", 0, (AF_INET, "10.1.0.0", 32)),
    ("0x0a.1/8", 0, (AF_INET, "10.1.0.0", 8)),
    ("1.2.3.4/255.255.0.0", 0, (AF_INET, "1.2.3.4", 16)),
    ("1.2.3.4/0.0.0.0", 0, (AF_INET, "1.2.3.4", 0)),
    ("1.2.3.4/0x18", 0, (AF_INET, "1.2.3.4", 24)),
    ("2001:db8::/32", 0, (AF_INET6, "2001:db8::", 32)),
    ("::", AF_INET6, (AF_INET6, "::", 128)),
    ("any", AF_INET, (AF_INET, "0.0.0.0", 0)),
    ("default", AF_INET6, (AF_INET6, "::", 0)),
]


@each(("text", "family", "expected"), PREFIXES)
def test_prefix(text: str, family: int, expected: tuple[int, str, int]) -> None:
    kind, address, bits = expected
    packed = (IPv6Address if kind == AF_INET6 else IPv4Address)(address).packed
    assert parse_prefix(text, family) == (kind, packed, bits)


def test_a_wild_word_has_no_address_without_a_family() -> None:
    assert parse_prefix("any") == (0, b"", 0)
    assert parse_prefix("any/8") is None


@each(
    "text",
    ["", "/", "/8", "foo", "1.2.3.256", "1.2.3.4.5", "1..2", ".1", "1.", "-1.2.3.4", "1.2.3.4/", "1.2.3.4/33",
     "1.2.3.4/-1", "1.2.3.4/255.0.255.0", "::/129", "::1/x", "1::2::3", "fe80::1%eth0", "1:2", "::\0"],
)  # fmt: skip
def test_no_prefix(text: str) -> None:
    assert parse_prefix(text) is None


def test_a_family_bars_the_other() -> None:
    assert parse_address("1.2.3.4", AF_INET6) is None
    assert parse_address("::1", AF_INET) is None


@given(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))
def test_every_address_reads_back(four: bytes, sixteen: bytes) -> None:
    assert parse_ipv4(str(IPv4Address(four))) == four
    assert parse_address(str(IPv6Address(sixteen))) == (AF_INET6, sixteen, 128)


@given(st.text(max_size=30))
def test_nonsense_is_none_or_an_address(text: str) -> None:
    prefix = parse_prefix(text)
    assert prefix is None or prefix.bits <= len(prefix.address) * 8
