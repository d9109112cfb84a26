"""IP addresses are packed bytes everywhere inside (4 or 16 of them); text exists only at the edges.

A packed address is a slice of the packet and a dict key, so nothing is built per packet.
"""

from __future__ import annotations

from socket import inet_ntop, inet_pton

from xfrmi.wire.xfrm_const import AF_INET, AF_INET6

ANY4 = bytes(4)
ANY6 = bytes(16)


def pack_address(address: str | bytes) -> bytes:
    """'192.0.2.1', '2001:db8::1' or packed bytes -> packed bytes. ValueError names what is wrong."""
    if isinstance(address, bytes):
        if len(address) not in (4, 16):
            raise ValueError(f"a packed address has 4 or 16 bytes, not {len(address)}")
        return address
    try:
        return inet_pton(AF_INET6 if ":" in address else AF_INET, address)
    except OSError:
        raise ValueError(f'"{address}" is not an IP address') from None


def format_address(packed: bytes) -> str:
    return inet_ntop(AF_INET if len(packed) == 4 else AF_INET6, packed)


def family_of(packed: bytes) -> int:
    return AF_INET if len(packed) == 4 else AF_INET6


def any_address(family: int) -> bytes:
    return ANY6 if family == AF_INET6 else ANY4


def parse_prefix(text: str) -> tuple[bytes, int]:
    """'10.0.0.0/8' -> (packed, 8); without a length the prefix is the whole address. ValueError as above."""
    head, slash, tail = text.partition("/")
    packed = pack_address(head)
    bits = len(packed) * 8
    if not slash:
        return packed, bits
    if not tail.isascii() or not tail.isdigit() or int(tail) > bits:
        raise ValueError(f'prefix length "{tail}" of "{text}" is not in 0..{bits}')
    return packed, int(tail)
