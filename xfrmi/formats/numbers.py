"""Numbers and addresses as ip(8) reads them from a command line, which is more than Python's int() and inet_pton do.

Numbers are strtoul's with base 0: 16, 0x10, 020; "-1" wraps to the largest 64-bit number. IPv4 addresses may be
short (10.1 is 10.1.0.0), a prefix length may be a netmask, and `any`, `all`, `default` are the zero address of a
family that is known from elsewhere.
"""

from __future__ import annotations

import re
from socket import inet_pton
from typing import NamedTuple

from xfrmi.wire.address import any_address
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6, AF_UNSPEC

_NUMBER = r"[ \t-\r]*([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)"
_WILD = ("any", "all", "default")


class Prefix(NamedTuple):
    family: int
    address: bytes
    """Packed; empty when the family is AF_UNSPEC."""
    bits: int


def parse_number(text: str, bits: int) -> int | None:
    """An unsigned number of `bits` bits, or None."""
    match = re.fullmatch(_NUMBER, text)
    if match is None:
        return None
    sign, digits = match.groups()
    base = 16 if digits[:2] in ("0x", "0X") else 8 if digits[0] == "0" else 10
    value = int(digits, base) if len(digits) <= 24 else 1 << 64
    if value >> 64:
        return None
    if sign == "-":
        value = -value & 0xFFFFFFFFFFFFFFFF
    return None if value >> bits else value


def parse_ipv4(text: str) -> bytes | None:
    """One to four numbers with dots; what is left out is zero at the end, unlike inet_aton."""
    octets = [parse_number(part, 8) if part[:1].isdigit() else None for part in text.split(".")]
    if len(octets) > 4 or None in octets:
        return None
    return bytes(octet for octet in octets if octet is not None).ljust(4, b"\0")


def parse_address(text: str, family: int = AF_UNSPEC) -> Prefix | None:
    """An address of `family` (AF_UNSPEC: either); `bits` is the whole address, 0 for a wild word."""
    if text in _WILD:
        return Prefix(family, any_address(family) if family else b"", 0)
    if ":" in text:
        try:
            return Prefix(AF_INET6, inet_pton(AF_INET6, text), 128) if family != AF_INET else None
        except (OSError, ValueError):
            return None
    address = parse_ipv4(text) if family != AF_INET6 else None
    return None if address is None else Prefix(AF_INET, address, 32)


def parse_prefix(text: str, family: int = AF_UNSPEC) -> Prefix | None:
    """ADDR[/PLEN]; host bits stay as given (SPD-06)."""
    head, slash, tail = text.partition("/")
    prefix = parse_address(head, family)
    if prefix is None or not slash:
        return prefix
    bits = _prefix_length(tail)
    if bits is None or bits > len(prefix.address) * 8:
        return None
    return prefix._replace(bits=bits)


def _prefix_length(text: str) -> int | None:
    """A number, or a netmask such as 255.255.0.0."""
    bits = parse_number(text, 32)
    if bits is not None or "." not in text:
        return bits
    mask = parse_ipv4(text)
    if mask is None:
        return None
    holes = ~int.from_bytes(mask) & 0xFFFFFFFF
    return None if holes & (holes + 1) else 32 - holes.bit_length()


def lies_in(address: bytes, prefix: bytes, bits: int) -> bool:
    """Whether `address` lies in prefix/bits. Nothing given matches all; one family never matches the other."""
    if not bits:
        return True
    if len(address) != len(prefix):
        return False
    shift = len(address) * 8 - bits
    return int.from_bytes(address) >> shift == int.from_bytes(prefix) >> shift
