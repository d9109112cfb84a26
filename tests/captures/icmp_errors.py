"""ICMP errors of a capture beside ours."""

from __future__ import annotations

from tests.captures.host import addresses
from xfrmi.wire.ip import checksum, ipv4_header_checksum, pseudo_header_sum, upper_layer
from xfrmi.wire.xfrm_const import IPPROTO_ICMPV6, IPPROTO_UDP

CUT = 128
"""Of a captured ICMP error to the machine itself there are so many bytes."""


def said(error: bytes, made_up: bool = False) -> bytes:
    """An ICMP error as far as captured, without what listed.NOT_REPRODUCIBLE names. `made_up`: it is about a packet of
    the machine's own, with an identification or a flow label and a port that nobody can know."""
    if error[0] >> 4 == 4:
        icmp = error[20:24] if not made_up else error[20:22]
        return error[:4] + error[6:10] + error[16:20] + icmp + error[24:28] + about(error, made_up)
    icmp = error[40:42]
    return error[:1] + error[4:8] + error[24:40] + icmp + error[44:48] + about(error, made_up)


def about(error: bytes, made_up: bool) -> bytes:
    quote = quoted(error)[: CUT - (28 if error[0] >> 4 == 4 else 48)]
    return as_sent(quote) if made_up else quote


def quoted(error: bytes) -> bytes:
    return error[28:] if error[0] >> 4 == 4 else error[48:]


def mtu_told(error: bytes) -> int:
    return int.from_bytes(error[26:28] if error[0] >> 4 == 4 else error[44:48], "big")


def as_sent(packet: bytes) -> bytes:
    """A packet of a UDP socket without what its host makes up: identification, flow label, port, and checksums."""
    masked = bytearray(packet)
    version = packet[0] >> 4
    if version == 4:
        masked[4:6] = masked[10:12] = bytes(2)
    else:
        masked[1:4] = bytes((masked[1] & 0xF0, 0, 0))
    protocol, offset, fragment = upper_layer(packet)
    if fragment != -1 and version == 6:
        masked[offset - 4 : offset] = bytes(4)
    if protocol == IPPROTO_UDP and fragment <= 0:
        masked[offset : offset + 2] = masked[offset + 6 : offset + 8] = bytes(2)
    return bytes(masked)


def is_from_where_it_was_going(error: bytes) -> bool:
    """PMTU-02: the kernel answers from an address of its own, xfrmi from the destination of the packet."""
    return addresses(error)[0] == addresses(quoted(error))[1]


def checksums_right(error: bytes) -> bool:
    if error[0] >> 4 == 6:
        return checksum(error[40:], pseudo_header_sum(error[8:40], IPPROTO_ICMPV6, len(error) - 40)) == 0
    return checksum(error[20:]) == 0 and ipv4_header_checksum(error[:20]).to_bytes(2, "big") == error[10:12]
