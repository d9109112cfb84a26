"""ICMP errors about a packet that came out of the TUN and cannot go on: what its sender has to know.

They go back into the same TUN, so the source is the packet's own destination by default: an error from an address
of this host would be dropped as martian (PMTU-01, PMTU-02). Every function returns the complete IP packet, or None
where RFC 1812 4.3.2.7 or RFC 4443 2.4 (e) forbid an answer. ValueError if the packet has no intact IP header.

Shapes as the kernel's: IPv4 precedence "internetwork control", TTL 64, at most 576 bytes; IPv6 hop limit 64, at
most 1280 bytes.
"""

from __future__ import annotations

import struct
from typing import Final

from xfrmi.wire.ip import (
    IPV4_DADDR,
    IPV4_HEADER_LEN,
    IPV4_SADDR,
    IPV4_TOS,
    IPV6_DADDR,
    IPV6_HEADER_LEN,
    IPV6_MIN_MTU,
    IPV6_SADDR,
    Buffer,
    checksum,
    ipv4_header_checksum,
    pseudo_header_sum,
    upper_layer,
)
from xfrmi.wire.xfrm_const import IPPROTO_ICMP, IPPROTO_ICMPV6

ICMP_DEST_UNREACH: Final = 3
ICMP_HOST_UNREACH: Final = 1
ICMP_ADMIN_PROHIBITED: Final = 13
ICMP_FRAG_NEEDED: Final = 4
ICMP_QUERIES: Final = frozenset((0, 8, 13, 14, 15, 16, 17, 18))
"""Echo, timestamp, information and address mask: the types that are no errors. The kernel takes unknown types for
errors, to be safe."""

ICMPV6_DEST_UNREACH: Final = 1
ICMPV6_ADDR_UNREACH: Final = 3
ICMPV6_ADMIN_PROHIBITED: Final = 1
ICMPV6_PKT_TOOBIG: Final = 2
ICMPV6_INFORMATIONAL: Final = 0x80
"""Types from here on are no errors (RFC 4443 2.1)."""

ICMP_HEADER_LEN: Final = 8
ICMPV4_MAX_LEN: Final = 576
"""The error and all it quotes, with its IP header (RFC 1812 4.3.2.3)."""
TTL: Final = 64

_TOS_MASK: Final = 0x1E
_PREC_INTERNETCONTROL: Final = 0xC0

_IPV4 = struct.Struct(">BBHHHBBH")
_IPV6 = struct.Struct(">IHBB")
_ICMP = struct.Struct(">BBHI")


def frag_needed(packet: Buffer, mtu: int, source: bytes = b"") -> bytes | None:
    """ICMP 3/4 with next-hop MTU `mtu` (RFC 1191; TX-12b: it may be below 552)."""
    return _icmpv4(packet, ICMP_FRAG_NEEDED, min(mtu, 0xFFFF), source)


def host_unreachable(packet: Buffer, source: bytes = b"") -> bytes | None:
    """ICMP 3/1 (TX-09)."""
    return _icmpv4(packet, ICMP_HOST_UNREACH, 0, source)


def prohibited(packet: Buffer, source: bytes = b"") -> bytes | None:
    """ICMP 3/13, ICMPv6 1/1: forbidden by an administrator."""
    if packet[0] >> 4 == 4:
        return _icmpv4(packet, ICMP_ADMIN_PROHIBITED, 0, source)
    return _icmpv6(packet, ICMPV6_DEST_UNREACH, ICMPV6_ADMIN_PROHIBITED, 0, source)


def packet_too_big(packet: Buffer, mtu: int, source: bytes = b"", *, least: int = IPV6_MIN_MTU) -> bytes | None:
    """ICMPv6 type 2. The MTU told is never below 1280: a smaller one would be ignored (TX-12a, PMTU-05)."""
    return _icmpv6(packet, ICMPV6_PKT_TOOBIG, 0, max(mtu, least), source)


def address_unreachable(packet: Buffer, source: bytes = b"") -> bytes | None:
    """ICMPv6 1/3 (TX-09)."""
    return _icmpv6(packet, ICMPV6_DEST_UNREACH, ICMPV6_ADDR_UNREACH, 0, source)


def _icmpv4(packet: Buffer, code: int, rest: int, source: bytes) -> bytes | None:
    protocol, offset, fragment = upper_layer(packet)
    if packet[0] >> 4 != 4:
        raise ValueError("an ICMP error is about an IPv4 packet")
    saddr, daddr = bytes(packet[IPV4_SADDR]), bytes(packet[IPV4_DADDR])
    if fragment > 0 or not _is_unicast4(saddr) or not _is_unicast4(daddr):
        return None
    if protocol == IPPROTO_ICMP and (offset >= len(packet) or packet[offset] not in ICMP_QUERIES):
        return None
    quoted = packet[: ICMPV4_MAX_LEN - IPV4_HEADER_LEN - ICMP_HEADER_LEN]
    length = IPV4_HEADER_LEN + ICMP_HEADER_LEN + len(quoted)
    tos = packet[IPV4_TOS] & _TOS_MASK | _PREC_INTERNETCONTROL
    header = _IPV4.pack(0x45, tos, length, 0, 0, TTL, IPPROTO_ICMP, 0) + (source or daddr) + saddr
    header = header[:10] + ipv4_header_checksum(header).to_bytes(2, "big") + header[12:]
    initial = (ICMP_DEST_UNREACH << 8 | code) + rest
    return b"".join((header, _ICMP.pack(ICMP_DEST_UNREACH, code, checksum(quoted, initial), rest), quoted))


def _icmpv6(packet: Buffer, kind: int, code: int, rest: int, source: bytes) -> bytes | None:
    protocol, offset, fragment = upper_layer(packet)
    if packet[0] >> 4 != 6:
        raise ValueError("an ICMPv6 error is about an IPv6 packet")
    saddr, daddr = bytes(packet[IPV6_SADDR]), bytes(packet[IPV6_DADDR])
    if not any(saddr) or saddr[0] == 0xFF:
        return None
    if daddr[0] == 0xFF and (kind != ICMPV6_PKT_TOOBIG or not source):
        return None  # only Packet Too Big may answer multicast, and it needs an address to come from
    # RFC 4443 has no rule against answering later fragments: only their upper layer is not to be seen.
    inner_type = packet[offset] if offset < len(packet) else 0
    if protocol == IPPROTO_ICMPV6 and fragment <= 0 and not inner_type & ICMPV6_INFORMATIONAL:
        return None
    quoted = packet[: IPV6_MIN_MTU - IPV6_HEADER_LEN - ICMP_HEADER_LEN]
    length = ICMP_HEADER_LEN + len(quoted)
    addresses = (source or daddr) + saddr
    header = _IPV6.pack(6 << 28, length, IPPROTO_ICMPV6, TTL) + addresses
    initial = pseudo_header_sum(addresses, IPPROTO_ICMPV6, length) + (kind << 8 | code) + rest
    return b"".join((header, _ICMP.pack(kind, code, checksum(quoted, initial), rest), quoted))


def _is_unicast4(address: bytes) -> bool:
    """Neither "this network" (0/8), nor multicast, nor the limited broadcast: an address an error may be about."""
    return address[0] != 0 and not 224 <= address[0] < 240 and address != b"\xff\xff\xff\xff"
