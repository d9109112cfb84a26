"""ESP in UDP (RFC 3948): what a datagram on port 4500 is, and the UDP header of ours."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

from xfrmi.wire.ip import UDP_HEADER_LEN, Buffer, checksum, pseudo_header_sum
from xfrmi.wire.xfrm_const import IPPROTO_UDP

NAT_T_PORT: Final = 4500
NON_ESP_MARKER: Final = bytes(4)
"""In front of an IKE message, where ESP would have its SPI (RFC 3948 2.2)."""
KEEPALIVE: Final = b"\xff"
"""The whole payload of a NAT keepalive (RFC 3948 2.3)."""

UDP_HEADER: Final = struct.Struct(">HHHH")
"""Source port, destination port, length, checksum."""

MAX_ESP_LEN: Final = 0xFFFF - UDP_HEADER_LEN
"""Bytes of ESP that one UDP header can announce; more is EMSGSIZE in the kernel (5.10)."""


class Payload(IntEnum):
    """What a datagram on an encapsulation port holds."""

    ESP = 0
    IKE = 1
    KEEPALIVE = 2


def classify(payload: Buffer) -> Payload:
    """The kernel's order (UDP-03 to UDP-05): a single 0xff is a keepalive; more than 8 bytes whose first four are
    not all zero are ESP; everything else belongs to whoever owns the socket, the IKE daemon."""
    if len(payload) > 8:
        return Payload.ESP if payload[:4] != NON_ESP_MARKER else Payload.IKE
    return Payload.KEEPALIVE if payload == KEEPALIVE else Payload.IKE


def udp_header(sport: int, dport: int, addresses: Buffer, esp: Buffer) -> bytes:
    """The 8 bytes between the outer IP header and `esp`. `addresses` is source and destination in one piece.

    Over IPv4 the checksum is 0 (RFC 3948 2.1), over IPv6 it is computed and never 0 (5.10). ValueError if `esp` is
    longer than UDP can carry.
    """
    length = UDP_HEADER_LEN + len(esp)
    if length > 0xFFFF:
        raise ValueError("ESP packet too long for a UDP header")
    if len(addresses) == 8:
        return UDP_HEADER.pack(sport, dport, length, 0)
    initial = pseudo_header_sum(addresses, IPPROTO_UDP, length) + sport + dport + length
    return UDP_HEADER.pack(sport, dport, length, checksum(esp, initial) or 0xFFFF)
