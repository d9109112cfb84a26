"""Inner packets for tests: small, whole, with right checksums."""

from __future__ import annotations

import struct

from xfrmi.wire.address import pack_address
from xfrmi.wire.ip import checksum, ipv4_header_checksum, pseudo_header_sum
from xfrmi.wire.xfrm_const import IPPROTO_UDP


def udp(
    src: str,
    dst: str,
    payload: bytes = b"hello",
    *,
    sport: int = 1111,
    dport: int = 2222,
    df: bool = True,
    ttl: int = 64,
    tos: int = 0,
) -> bytes:
    """A UDP datagram in IPv4 or IPv6, as the addresses say."""
    saddr, daddr = pack_address(src), pack_address(dst)
    length = 8 + len(payload)
    head = struct.pack("!HHHH", sport, dport, length, 0)
    total = checksum(head + payload, pseudo_header_sum(saddr + daddr, IPPROTO_UDP, length)) or 0xFFFF
    body = head[:6] + total.to_bytes(2, "big") + payload
    if len(saddr) == 16:
        return struct.pack("!IHBB", 6 << 28 | tos << 20, length, IPPROTO_UDP, ttl) + saddr + daddr + body
    header = struct.pack("!BBHHHBBH", 0x45, tos, 20 + length, 0x1234, 0x4000 if df else 0, ttl, IPPROTO_UDP, 0)
    header += saddr + daddr
    return header[:10] + ipv4_header_checksum(header).to_bytes(2, "big") + header[12:] + body
