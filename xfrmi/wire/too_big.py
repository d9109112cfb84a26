"""What a router on the way says of a packet of ours that was too big for it: ICMP "fragmentation needed" (RFC 1191) and
ICMPv6 "packet too big" (RFC 4443 3.2), read with the beginning of the packet they quote.

Everything in here may be forged, and quotes are cut short: an IPv4 router has to quote only 8 bytes behind the header.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from xfrmi.wire.icmp import ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED, ICMP_HEADER_LEN, ICMPV6_PKT_TOOBIG
from xfrmi.wire.ip import IPV4_DADDR, IPV6_DADDR, Buffer, checksum, upper_layer
from xfrmi.wire.xfrm_const import AF_INET

_MIN_QUOTE: Final = 8
"""Bytes of the upper layer without which the kernel does not look at an error."""
_ICMP4: Final = struct.Struct(">BBxxxxH")
_ICMP6: Final = struct.Struct(">BxxxI")


class TooBig(NamedTuple):
    """The MTU that was told, and of the quoted packet: destination, protocol, and what there is of the upper layer
    (8 bytes at least)."""

    mtu: int
    daddr: bytes
    protocol: int
    upper: Buffer


def read_too_big(family: int, message: Buffer) -> TooBig | None:
    """`message` from the ICMP header on; `family` says which ICMP it is, and it quotes packets of the same family.

    None if it is any other message, damaged, or quotes too little. The checksum of ICMPv6 is not looked at: it covers
    addresses that are not here, and the socket has verified it.
    """
    if len(message) < ICMP_HEADER_LEN:
        return None
    if family == AF_INET:
        kind, code, mtu = _ICMP4.unpack_from(message)
        if (kind, code) != (ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED) or checksum(message):
            return None
        version, daddr = 4, IPV4_DADDR
    else:
        kind, mtu = _ICMP6.unpack_from(message)
        if kind != ICMPV6_PKT_TOOBIG:
            return None
        version, daddr = 6, IPV6_DADDR
    quote = message[ICMP_HEADER_LEN:]
    try:
        protocol, offset, fragment = upper_layer(quote)
    except ValueError:
        return None
    if quote[0] >> 4 != version or fragment > 0 or len(quote) < offset + _MIN_QUOTE:
        return None
    return TooBig(mtu, bytes(quote[daddr]), protocol, quote[offset:])
