"""IPv4 and IPv6 headers: where the fields are, checksums, lengths, and the way to the upper layer.

A packet is a buffer from the version nibble on. Everything here reads hostile bytes: what cannot be read raises
ValueError and nothing else. Sources: RFC 791, RFC 8200, RFC 1071.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from xfrmi.wire.xfrm_const import (
    IPPROTO_DSTOPTS,
    IPPROTO_ESP,
    IPPROTO_FRAGMENT,
    IPPROTO_HOPOPTS,
    IPPROTO_ICMPV6,
    IPPROTO_ROUTING,
    IPPROTO_TCP,
    IPPROTO_UDP,
)

Buffer: TypeAlias = bytes | bytearray | memoryview

IPV4_HEADER_LEN: Final = 20
"""Without options."""
IPV4_TOS: Final = 1
IPV4_TOTAL_LENGTH: Final = slice(2, 4)
IPV4_ID: Final = slice(4, 6)
IPV4_FRAG_OFF: Final = slice(6, 8)
IPV4_TTL: Final = 8
IPV4_PROTOCOL: Final = 9
IPV4_CHECKSUM: Final = slice(10, 12)
IPV4_SADDR: Final = slice(12, 16)
IPV4_DADDR: Final = slice(16, 20)
IPV4_ADDRESSES: Final = slice(12, 20)

IP_DF: Final = 0x4000
IP_MF: Final = 0x2000
IP_OFFSET_MASK: Final = 0x1FFF
"""Fragment offset in units of 8 bytes, within the 16-bit field that also holds the flags."""

IPV6_HEADER_LEN: Final = 40
IPV6_PAYLOAD_LENGTH: Final = slice(4, 6)
IPV6_NEXT_HEADER: Final = 6
IPV6_HOP_LIMIT: Final = 7
IPV6_SADDR: Final = slice(8, 24)
IPV6_DADDR: Final = slice(24, 40)
IPV6_ADDRESSES: Final = slice(8, 40)
IPV6_MIN_MTU: Final = 1280

UDP_HEADER_LEN: Final = 8
MAX_EXTENSION_HEADERS: Final = 15
"""How many the kernel's flow dissector steps over before it gives up (MAX_FLOW_DISSECT_HDRS)."""


_CHECKSUM_AT: Final = {(4, IPPROTO_TCP): 16, (4, IPPROTO_UDP): 6, (6, IPPROTO_TCP): 16, (6, IPPROTO_UDP): 6,
                       (6, IPPROTO_ICMPV6): 2}  # fmt: skip
"""(version, protocol) -> where a checksum that covers the addresses is in the upper layer's header."""


def checksum(data: Buffer, initial: int = 0) -> int:
    """The Internet checksum (RFC 1071) of `data`, ready to be stored: 16 bits, 0 where data that includes its own
    checksum is intact. `initial` is a sum to start from, for instance `pseudo_header_sum`.

    One's complement addition of 16-bit words is arithmetic modulo 65535, and 65536 is 1 there: the whole buffer
    read as one number has the same residue as the sum of its words. An odd last byte counts as the high half.
    """
    total = int.from_bytes(data, "big")
    if len(data) & 1:
        total <<= 8
    total += initial
    return -total % 0xFFFF if total else 0xFFFF


def ipv4_header_checksum(header: Buffer) -> int:
    """Checksum of an IPv4 header (20 to 60 bytes) whatever its checksum field holds now."""
    total = int.from_bytes(header, "big") - int.from_bytes(header[IPV4_CHECKSUM], "big")
    # Words align from the front, so with an even length the field weighs 65536 ** k, which is 1 modulo 65535.
    return -total % 0xFFFF


def pseudo_header_sum(addresses: Buffer, protocol: int, length: int) -> int:
    """`initial` for the checksum of TCP, UDP, ICMPv6: source and destination address in one piece (8 or 32 bytes),
    the upper-layer protocol and the upper-layer length in bytes. Same for both families (RFC 8200 8.1)."""
    return int.from_bytes(addresses, "big") + protocol + length


def finish_checksum(packet: bytearray | memoryview, csum_start: int, csum_offset: int) -> None:
    """Complete a partial checksum in place: the field at csum_start + csum_offset holds the pseudo-header sum.

    A result of 0 is stored as 0xffff, as the kernel's skb_checksum_help does for every protocol. ValueError if the
    field is outside the packet.
    """
    field = csum_start + csum_offset
    if field + 2 > len(packet):
        raise ValueError("checksum field outside the packet")
    # checksum(), without the calls: this is once for each datagram that a TUN hands over.
    total = int.from_bytes(packet[csum_start:], "big")
    if len(packet) - csum_start & 1:
        total <<= 8
    packet[field : field + 2] = (-total % 0xFFFF or 0xFFFF).to_bytes(2, "big")


def trim(packet: Buffer) -> Buffer:
    """The packet cut to the length its header gives: what follows is link padding or TFC padding (5.1, 5.5).

    ValueError if the header is malformed or promises more than there is.
    """
    version = packet[0] >> 4 if len(packet) else 0
    if version == 4 and len(packet) >= IPV4_HEADER_LEN:
        length = int.from_bytes(packet[IPV4_TOTAL_LENGTH], "big")
        header_len = (packet[0] & 15) * 4
        if header_len < IPV4_HEADER_LEN or length < header_len:
            raise ValueError("malformed IPv4 header")
    elif version == 6 and len(packet) >= IPV6_HEADER_LEN:
        length = IPV6_HEADER_LEN + int.from_bytes(packet[IPV6_PAYLOAD_LENGTH], "big")
    else:
        raise ValueError("no IP header")
    if length > len(packet):
        raise ValueError("truncated IP packet")
    return packet if length == len(packet) else packet[:length]


def upper_layer(packet: Buffer) -> tuple[int, int, int]:
    """(protocol, offset of its header, fragment): past IPv4 options, or past Hop-by-Hop, Routing and Destination
    Options headers. `fragment` is -1 for a whole datagram, otherwise the fragment's offset in bytes; the walk ends
    behind an IPv6 Fragment header. AH and everything else count as upper layer, as for the kernel's dissector.

    The offset may lie at or past the end of the packet: nothing of the upper layer has been looked at. ValueError
    if an IP header is truncated or malformed.
    """
    version = packet[0] >> 4 if len(packet) else 0
    if version == 4 and len(packet) >= IPV4_HEADER_LEN:
        offset = (packet[0] & 15) * 4
        if offset < IPV4_HEADER_LEN or offset > len(packet):
            raise ValueError("malformed IPv4 header")
        flags = int.from_bytes(packet[IPV4_FRAG_OFF], "big")
        fragment = (flags & IP_OFFSET_MASK) * 8 if flags & (IP_MF | IP_OFFSET_MASK) else -1
        return packet[IPV4_PROTOCOL], offset, fragment
    if version != 6 or len(packet) < IPV6_HEADER_LEN:
        raise ValueError("no IP header")
    protocol, offset = packet[IPV6_NEXT_HEADER], IPV6_HEADER_LEN
    for _ in range(MAX_EXTENSION_HEADERS):
        if protocol in (IPPROTO_HOPOPTS, IPPROTO_ROUTING, IPPROTO_DSTOPTS):
            protocol, offset = extension_header(packet, offset)
        elif protocol == IPPROTO_FRAGMENT:
            if offset + 8 > len(packet):
                raise ValueError("truncated IPv6 Fragment header")
            return packet[offset], offset + 8, int.from_bytes(packet[offset + 2 : offset + 4], "big") & 0xFFF8
        else:
            return protocol, offset, -1
    raise ValueError("too many IPv6 extension headers")


def extension_header(packet: Buffer, offset: int) -> tuple[int, int]:
    """(next header, offset behind it) of the options or routing header at `offset`. ValueError if truncated."""
    if offset + 8 > len(packet):
        raise ValueError("truncated IPv6 extension header")
    end = offset + 8 + packet[offset + 1] * 8
    if end > len(packet):
        raise ValueError("truncated IPv6 extension header")
    return packet[offset], end


def ipv6_transport_offset(packet: Buffer) -> tuple[int, int]:
    """(offset, previous): where ESP goes in transport mode, and where the next-header byte is that names it (5.2).

    After Hop-by-Hop, after Destination Options until a Routing header has been seen, and after Routing; before a
    Fragment header, later Destination Options and the upper layer: the order of the kernel's ip6_find_1stfragopt,
    which also ends the unfragmentable part. ValueError on truncated or hostile headers.
    """
    if len(packet) < IPV6_HEADER_LEN or packet[0] >> 4 != 6:
        raise ValueError("no IPv6 header")
    offset, previous, routed = IPV6_HEADER_LEN, IPV6_NEXT_HEADER, False
    while True:
        protocol = packet[previous]
        if protocol == IPPROTO_ROUTING:
            routed = True
        elif protocol != IPPROTO_HOPOPTS and (protocol != IPPROTO_DSTOPTS or routed):
            return offset, previous
        previous = offset
        offset = extension_header(packet, offset)[1]


def renew_checksum(packet: bytearray) -> None:
    """Make the checksum of TCP, UDP or ICMPv6 right for the addresses the packet has now, in place.

    A datagram without one (UDP, 0) stays without. Fragments are left alone, they do not show all that is covered, and
    so is whatever cannot be read.
    """
    try:
        protocol, offset, fragment = upper_layer(packet)
    except ValueError:
        return
    version = packet[0] >> 4
    at = _CHECKSUM_AT.get((version, protocol))
    if at is None or fragment != -1 or offset + at + 2 > len(packet):
        return
    end = len(packet)
    if protocol == IPPROTO_UDP:
        end = min(offset + int.from_bytes(packet[offset + 4 : offset + 6], "big"), end)
        if not any(packet[offset + 6 : offset + 8]) or end < offset + UDP_HEADER_LEN:
            return
    packet[offset + at : offset + at + 2] = bytes(2)
    addresses = packet[IPV4_ADDRESSES if version == 4 else IPV6_ADDRESSES]
    right = checksum(packet[offset:end], pseudo_header_sum(addresses, protocol, end - offset))
    packet[offset + at : offset + at + 2] = (right or 0xFFFF).to_bytes(2, "big")


def destination_of(packet: Buffer) -> bytes:
    """Of an IP packet, or of its header alone."""
    return bytes(packet[16:20] if packet[0] >> 4 == 4 else packet[24:40])


def addresses_of(packet: Buffer) -> tuple[bytes, bytes]:
    """(source, destination) of an IP packet, or of its header alone."""
    both = bytes(packet[IPV4_ADDRESSES if packet[0] >> 4 == 4 else IPV6_ADDRESSES])
    return both[: len(both) // 2], both[len(both) // 2 :]


def split_outer(packet: Buffer) -> tuple[Buffer, Buffer]:
    """(header, esp) of a received outer packet: header is the IP header with options or extension headers, plus the
    UDP header when encapsulated; esp begins at the SPI. Padding behind the packet is cut off.

    ValueError if it is a fragment or holds neither ESP nor UDP-encapsulated ESP (UDP-03, UDP-05: more than 8 bytes,
    the first four not all zero); a UDP packet is not judged by its ports.
    """
    packet = trim(packet)
    protocol, offset, fragment = upper_layer(packet)
    if fragment != -1:
        raise ValueError("fragment of an outer packet")
    if protocol == IPPROTO_ESP:
        return packet[:offset], packet[offset:]
    if protocol != IPPROTO_UDP:
        raise ValueError("neither ESP nor UDP")
    start = offset + UDP_HEADER_LEN
    end = offset + int.from_bytes(packet[offset + 4 : offset + 6], "big")
    if not start + 8 < end <= len(packet) or not any(packet[start : start + 4]):
        raise ValueError("no ESP in UDP")
    return packet[:start], packet[start:end]
