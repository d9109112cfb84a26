"""Putting together what belongs together, the reverse of gso.py: a TUN takes 64 KiB of one flow for the price of one.

There is one rule: packets that follow each other become a super-packet if cutting it up gives the very same packets
again. Whatever is true of segments is then true of what is put together, because gso.py makes it so:

    same in all     addresses, ports, TTL, TOS and ECN, DF, flow label, TCP acknowledgement, window, flags, options
    going up        IPv4 identification by one, TCP sequence number by the payload
    first only      CWR
    last only       FIN and PSH, and a shorter payload
    right           lengths and every checksum: a packet that was damaged before the peer sealed it stays alone, or the
                    new checksum would cover it up

Only neighbours are joined, so nothing overtakes anything. Left alone are fragments, IPv4 options, IPv6 extension
headers, TCP without payload or with SYN, RST or URG, and UDP without checksum.

    1  first     can this packet begin one; it is a super-packet of one segment, from which the others' headers follow
    2  alike     how many after it are what gso.py would make of it
    3  last      one more, with FIN or PSH, or shorter
    4  join      one header, all payloads
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from xfrmi.core.gso import TCP_FIN, TCP_PSH, Template, cut, head_rows, set_lengths, template
from xfrmi.wire.ip import (
    IPV4_HEADER_LEN,
    IPV4_PROTOCOL,
    IPV6_HEADER_LEN,
    IPV6_NEXT_HEADER,
    UDP_HEADER_LEN,
    Buffer,
)
from xfrmi.wire.vnet import (
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    TCP_CSUM_OFFSET,
    TCP_CWR,
    TCP_FLAGS,
    TCP_HEADER_LEN,
    UDP_CSUM_OFFSET,
    Packet,
    SuperPacket,
)
from xfrmi.wire.xfrm_const import IPPROTO_TCP, IPPROTO_UDP

FEW: Final = 6
"""Fewer packets are compared one by one: numpy would cost more than it saves."""

MAX_LENGTH: Final = 0xFFFF
MAX_DATAGRAMS: Final = 64
"""As many as the kernel puts together (UDP_GRO_CNT_MAX)."""

_ALONE: Final = TCP_FIN | TCP_PSH | 0x02 | 0x04 | 0x20
"""FIN, PSH, SYN, RST, URG: nothing follows a packet with one of them."""
_OF_THE_ENDS: Final = TCP_CWR | TCP_FIN | TCP_PSH
"""What a segment in the middle has not."""


def coalesce(packets: Sequence[Buffer], takes: frozenset[int]) -> list[tuple[Packet, int]]:
    """`packets` in order, those together that can be, each with the number of packets it stands for.

    `takes` are the GSO types (wire/vnet.py) that may come of it. A super-packet has memory of its own.
    """
    if not takes or len(packets) == 1:
        return [(packet, 1) for packet in packets]
    merged: list[tuple[Packet, int]] = []
    at, last = 0, len(packets) - 1
    while at <= last:
        packet = packets[at]
        if at < last and len(packets[at + 1]) <= len(packet):
            first = first_of(packet, takes)
            if first is not None:
                merged.append(_merge(first, packets, at))
                at += merged[-1][1]
                continue
        merged.append((packet, 1))
        at += 1
    return merged


def first_of(packet: Buffer, takes: frozenset[int]) -> SuperPacket | None:
    """The super-packet that `packet` may be the beginning of, so far of one segment."""
    if len(packet) < IPV4_HEADER_LEN + UDP_HEADER_LEN:
        return None
    if packet[0] == 0x45:
        if packet[6] & 0x3F or packet[7]:
            return None
        protocol, upper = packet[IPV4_PROTOCOL], IPV4_HEADER_LEN
    elif packet[0] >> 4 == 6 and len(packet) >= IPV6_HEADER_LEN + UDP_HEADER_LEN:
        protocol, upper = packet[IPV6_NEXT_HEADER], IPV6_HEADER_LEN
    else:
        return None
    if protocol == IPPROTO_TCP and len(packet) > upper + TCP_HEADER_LEN:
        gso_type = GSO_TCPV4 if upper == IPV4_HEADER_LEN else GSO_TCPV6
        header_len, offset = (packet[upper + 12] >> 4) * 4, TCP_CSUM_OFFSET
        if packet[upper + TCP_FLAGS] & _ALONE or header_len < TCP_HEADER_LEN:
            return None
    elif protocol == IPPROTO_UDP:
        gso_type, header_len, offset = GSO_UDP_L4, UDP_HEADER_LEN, UDP_CSUM_OFFSET
        if not any(packet[upper + 6 : upper + 8]):
            return None
    else:
        return None
    size = len(packet) - upper - header_len
    if size <= 0 or gso_type not in takes:
        return None
    return SuperPacket(memoryview(packet), gso_type, upper + header_len, size, upper, offset)


def most_in_one(first: SuperPacket) -> int:
    """How many segments like this one a super-packet can have."""
    most = (MAX_LENGTH - first.hdr_len) // first.gso_size
    return min(most, MAX_DATAGRAMS) if first.gso_type == GSO_UDP_L4 else most


def _merge(first: SuperPacket, packets: Sequence[Buffer], start: int) -> tuple[Packet, int]:
    """Of the packets from `start` on, of which `first` was made: as many as can be in one, and how many."""
    length, upper = len(first.data), first.csum_start
    ports = first.data[upper : upper + 4]
    stop = min(start + most_in_one(first), len(packets))
    ends = _OF_THE_ENDS if first.gso_type != GSO_UDP_L4 else 0
    flags = upper + TCP_FLAGS if ends else 0
    end = start + 1
    while end < stop and len(packets[end]) == length and not packets[end][flags] & ends:
        if end < start + FEW and packets[end][upper : upper + 4] != ports:  # further on, all are compared together
            break
        end += 1
    run = packets[start:end]
    middle = template(first, first.gso_size, _OF_THE_ENDS)
    count = _alike_rows(first, run, middle) if len(run) >= FEW else _alike(first, run, middle)
    end = start + count
    if count and end < stop and _may_be_last(first, packets[end]):
        whole = _join(first, packets[start : end + 1])
        payload = packets[end][whole.hdr_len :]
        if cut(whole, count, payload, template(whole, len(payload), TCP_CWR)) == packets[end]:
            return whole, count + 1
    if count > 1:
        return _join(first, packets[start:end]), count
    return packets[start], 1


# 2 alike


def _alike(first: SuperPacket, packets: Sequence[Buffer], middle: Template) -> int:
    """How many of `packets`, from the first one on, are segments of `first` as it goes on."""
    for index, packet in enumerate(packets):
        if cut(first, index, packet[first.hdr_len :], middle) != packet:
            return index
    return len(packets)


def _alike_rows(first: SuperPacket, packets: Sequence[Buffer], middle: Template) -> int:
    """The same, all at once."""
    rows = np.frombuffer(b"".join(packets), np.uint8).reshape(len(packets), -1)
    expected = np.empty((len(packets), first.hdr_len), np.uint8)
    head_rows(first, expected, 0, rows[:, first.hdr_len :], middle, middle)
    alike = (rows[:, : first.hdr_len] == expected).all(axis=1)
    return len(packets) if alike.all() else int(alike.argmin())


# 3 last


def _may_be_last(first: SuperPacket, packet: Buffer) -> bool:
    """Does it differ as a last segment does from those before it?"""
    if not first.hdr_len < len(packet) <= len(first.data):
        return False
    ends = first.gso_type != GSO_UDP_L4 and packet[first.csum_start + TCP_FLAGS] & (TCP_FIN | TCP_PSH)
    return len(packet) < len(first.data) or bool(ends)


# 4 join


def _join(first: SuperPacket, packets: Sequence[Buffer]) -> SuperPacket:
    """The super-packet of `packets`, with the FIN and PSH of the last."""
    header_len, upper = first.hdr_len, first.csum_start
    length = (len(packets) - 1) * first.gso_size + len(packets[-1])
    flags = 0 if first.gso_type == GSO_UDP_L4 else packets[-1][upper + TCP_FLAGS]
    header = joined_header(first, first.data, length, flags & (TCP_FIN | TCP_PSH))
    data = b"".join([header, *[packet[header_len:] for packet in packets]])
    return SuperPacket(memoryview(data), first.gso_type, header_len, first.gso_size, upper, first.csum_offset)


def joined_header(first: SuperPacket, packet: Buffer, length: int, ends: int) -> bytearray:
    """The header of a super-packet of `length` bytes that begins with `packet`, which is of the kind that `first` was
    made of; its last segment has these flags."""
    upper = first.csum_start
    header = bytearray(packet[: first.hdr_len])
    pseudo = set_lengths(header, upper, length, first.gso_type == GSO_UDP_L4)
    if ends:
        header[upper + TCP_FLAGS] |= ends
    check = upper + first.csum_offset
    partial = pseudo % 0xFFFF or 0xFFFF  # 0 would mean: none
    header[check : check + 2] = partial.to_bytes(2, "big")
    return header
