"""Fragmentation of IP packets (RFC 791 3.2, RFC 8200 4.5), in the order and with the sizes of the kernel.

Outer packets are fragmented after ESP: the peer reassembles before it opens them (TX-12b, 5.3, 5.4).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from xfrmi.wire.ip import (
    IP_MF,
    IP_OFFSET_MASK,
    IPV4_CHECKSUM,
    IPV4_FRAG_OFF,
    IPV4_HEADER_LEN,
    IPV4_ID,
    IPV4_TOTAL_LENGTH,
    IPV6_HEADER_LEN,
    IPV6_PAYLOAD_LENGTH,
    Buffer,
    ipv4_header_checksum,
    ipv6_transport_offset,
    trim,
    upper_layer,
)
from xfrmi.wire.xfrm_const import IPPROTO_FRAGMENT

FRAGMENT_HEADER_LEN: Final = 8
_FRAGMENT: Final = struct.Struct(">BBHI")
"""Next header, reserved, offset in bytes (a multiple of 8) with the more-fragments bit lowest, identification."""

_OPTION_COPIED = 0x80
"""Option types with this bit go into every fragment, the others only into the first (RFC 791 3.1)."""
_OPTION_END = 0
_OPTION_NOP = 1


def fragment_ipv4(packet: Buffer, mtu: int, ident: int) -> list[Buffer]:
    """`packet` in pieces of at most `mtu` bytes, all with identification `ident` and DF clear; [packet] unchanged if
    it fits. Whether DF allows this is the caller's question. A fragment can be fragmented further.

    ValueError if the packet is malformed or `mtu` has no room for 8 bytes of payload.
    """
    packet = trim(packet)
    if len(packet) <= mtu:
        return [packet]
    if packet[0] >> 4 != 4:
        raise ValueError("no IPv4 packet")
    header_len = upper_layer(packet)[1]
    flags = int.from_bytes(packet[IPV4_FRAG_OFF], "big")
    header = bytearray(packet[:header_len])
    header[IPV4_ID] = ident.to_bytes(2, "big")
    fragments: list[Buffer] = []
    for start, end in _pieces(len(packet) - header_len, mtu - header_len):
        payload = packet[header_len + start : header_len + end]
        more = IP_MF if header_len + end < len(packet) else flags & IP_MF
        offset = (flags & IP_OFFSET_MASK) + start // 8
        header[IPV4_TOTAL_LENGTH] = (header_len + len(payload)).to_bytes(2, "big")
        header[IPV4_FRAG_OFF] = (more | offset & IP_OFFSET_MASK).to_bytes(2, "big")
        header[IPV4_CHECKSUM] = ipv4_header_checksum(header).to_bytes(2, "big")
        fragments.append(b"".join((header, payload)))
        if start == 0:
            _blank_options(header)
    return fragments


def _blank_options(header: bytearray) -> None:
    """Overwrite with NOPs, in place, the options that only the first fragment carries (as ip_options_fragment)."""
    at = IPV4_HEADER_LEN
    while at < len(header) and header[at] != _OPTION_END:
        if header[at] == _OPTION_NOP:
            at += 1
            continue
        length = header[at + 1] if at + 1 < len(header) else 0
        if length < 2 or at + length > len(header):
            return
        if not header[at] & _OPTION_COPIED:
            header[at : at + length] = bytes((_OPTION_NOP,)) * length
        at += length


def fragment_ipv6(packet: Buffer, mtu: int, ident: int) -> list[Buffer]:
    """`packet` in pieces of at most `mtu` bytes behind a Fragment header with the 32-bit `ident`; [packet] unchanged
    if it fits. The Fragment header stands where ESP would in transport mode (`ipv6_transport_offset`).

    ValueError if the packet is malformed or `mtu` has no room for 8 bytes of payload.
    """
    packet = trim(packet)
    if len(packet) <= mtu:
        return [packet]
    if packet[0] >> 4 != 6:
        raise ValueError("no IPv6 packet")
    split, previous = ipv6_transport_offset(packet)
    header = bytearray(packet[:split])
    protocol, header[previous] = header[previous], IPPROTO_FRAGMENT
    fragments: list[Buffer] = []
    for start, end in _pieces(len(packet) - split, mtu - split - FRAGMENT_HEADER_LEN):
        payload = packet[split + start : split + end]
        more = int(split + end < len(packet))
        length = split - IPV6_HEADER_LEN + FRAGMENT_HEADER_LEN + len(payload)
        header[IPV6_PAYLOAD_LENGTH] = length.to_bytes(2, "big")
        fragments.append(b"".join((header, _FRAGMENT.pack(protocol, 0, start | more, ident), payload)))
    return fragments


def _pieces(length: int, room: int) -> Iterator[tuple[int, int]]:
    """(start, end) of pieces of at most `room` bytes, multiples of 8 but for the last, which may fill all of it."""
    step = room & ~7
    if step <= 0:
        raise ValueError("no room for 8 bytes of payload in a fragment")
    start = 0
    while length - start > room:
        yield start, start + step
        start += step
    yield start, length
