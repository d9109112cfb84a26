"""Which flow a packet belongs to: the key of the policy cache, and the values that selectors compare (2.1).

The key is made of slices of the packet, so the cache costs one join and one dict lookup a packet:

    protocol (1) | source (4 or 16) | destination (4 or 16) | ports (4), left out when the packet shows none

All four lengths differ (9, 13, 33, 37), so the length tells the family and whether ports are known. "Ports" are
what xfrm compares as ports: ICMP type and code, the halves of a GRE key, the type of a Mobility Header.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from xfrmi.wire.ip import IPV4_ADDRESSES, IPV6_ADDRESSES, Buffer, trim, upper_layer
from xfrmi.wire.xfrm_const import (
    AF_INET,
    AF_INET6,
    IPPROTO_DCCP,
    IPPROTO_GRE,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_MH,
    IPPROTO_SCTP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPPROTO_UDPLITE,
)

PORT_PROTOCOLS: Final = frozenset((IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE, IPPROTO_SCTP, IPPROTO_DCCP))

GRE_CSUM: Final = 0x80
GRE_ROUTING: Final = 0x40
GRE_KEY: Final = 0x20
"""Flags in the first byte of a GRE header (RFC 2890); the version is in the low three bits of the second."""

_LEAN: Final = (IPPROTO_TCP, IPPROTO_UDP)
_join = b"".join
_look: Final = Struct(">BxHxxHxB").unpack_from
"""Version and header length, total length, flags and fragment offset, protocol of an IPv4 packet."""


class Flow(NamedTuple):
    """One direction of a conversation, as policies see it. Addresses packed; ports 0 where there are none."""

    family: int
    saddr: bytes
    daddr: bytes
    proto: int
    sport: int
    """Source port; ICMP type; upper half of a GRE key; Mobility Header type."""
    dport: int
    """Destination port; ICMP code; lower half of a GRE key."""
    sport_known: bool
    """False for a fragment and for a protocol without ports: both ports are then 0."""


def flow_key(packet: Buffer) -> bytes:
    """A compact hashable key, equal for two packets of one flow (layout above). The packet is trimmed to its own
    length (`ip.trim`), or ports may be read from padding.

    No fragment has ports, not even the first: so the whole datagram takes one way (the kernel's dissector, without
    FLOW_DISSECTOR_F_PARSE_1ST_FRAG). A truncated upper layer has no ports either. ValueError if the IP header or an
    extension header is truncated or malformed.
    """
    # The lean path: IPv4 without options, neither MF nor fragment offset, TCP or UDP. Nothing but slices.
    if len(packet) >= 24 and packet[0] == 0x45 and not packet[6] & 0x3F and not packet[7] and packet[9] in _LEAN:
        return _join((packet[9:10], packet[12:24]))
    if len(packet) >= 44 and packet[0] >> 4 == 6 and packet[6] in _LEAN:  # the same for IPv6 without extension headers
        return _join((packet[6:7], packet[8:44]))
    protocol, offset, fragment = upper_layer(packet)
    addresses = packet[IPV4_ADDRESSES] if packet[0] >> 4 == 4 else packet[IPV6_ADDRESSES]
    ports = b"" if fragment != -1 else _ports(protocol, packet[offset : offset + 12])
    return _join((protocol.to_bytes(1, "big"), addresses, ports))


def trimmed_key(packet: Buffer) -> bytes:
    """flow_key(trim(packet)), in one look at a whole IPv4 packet; ValueError as both."""
    length = len(packet)
    if length >= 24:
        first, total, fragment, protocol = _look(packet)
        if first == 0x45 and total == length and not fragment & 0x3FFF and protocol in _LEAN:
            return _join((packet[9:10], packet[12:24]))
    return flow_key(trim(packet))


def _ports(protocol: int, head: Buffer) -> Buffer:
    """Four bytes that xfrm compares as ports, or none, from the first (up to 12) bytes of the upper layer."""
    if protocol in PORT_PROTOCOLS:
        return head[:4] if len(head) >= 4 else b""
    if protocol in (IPPROTO_ICMP, IPPROTO_ICMPV6):
        return bytes((0, head[0], 0, head[1])) if len(head) >= 2 else b""
    if protocol == IPPROTO_GRE and len(head) >= 4 and head[0] & (GRE_KEY | GRE_ROUTING) == GRE_KEY and head[1] & 7 < 2:
        start = 8 if head[0] & GRE_CSUM else 4
        return head[start : start + 4] if len(head) >= start + 4 else b""
    if protocol == IPPROTO_MH:
        return bytes((0, head[2], 0, 0)) if len(head) >= 3 else b""
    return b""


def flow_of_key(key: bytes) -> Flow:
    """The flow that a `flow_key` stands for."""
    size, family = (4, AF_INET) if len(key) < 33 else (16, AF_INET6)
    ports = key[1 + 2 * size :]
    return Flow(
        family,
        key[1 : 1 + size],
        key[1 + size : 1 + 2 * size],
        key[0],
        int.from_bytes(ports[:2], "big"),
        int.from_bytes(ports[2:], "big"),
        bool(ports),
    )


def flow_of(packet: Buffer) -> Flow:
    """The flow of a packet; ValueError as flow_key."""
    return flow_of_key(flow_key(packet))
