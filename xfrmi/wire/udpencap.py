"""ESP in UDP (RFC 3948): what a datagram on an encapsulation port is, and the layout of the header in front of it."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

from xfrmi.wire.ip import Buffer

NON_ESP_MARKER: Final = bytes(4)
"""In front of an IKE message, where ESP would have its SPI (RFC 3948 2.2)."""
KEEPALIVE: Final = b"\xff"
"""The whole payload of a NAT keepalive (RFC 3948 2.3)."""

UDP_HEADER: Final = struct.Struct(">HHHH")
"""Source port, destination port, length, checksum: 0 over IPv4, computed and never 0 over IPv6 (5.10)."""


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
