"""The virtio_net_hdr in front of every packet of a TUN opened with IFF_VNET_HDR (linux/virtio_net.h, VIRTIO 1.2
section 5.1.6): what the kernel has left undone, a checksum or the cutting of a super-packet into segments.

    flags 1 | gso_type 1 | hdr_len 2 | gso_size 2 | csum_start 2 | csum_offset 2       in host byte order

`parse` turns a frame (header and IP packet) into a Packet, `emit` makes the header for one.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, TypeAlias

from xfrmi.wire.ip import UDP_HEADER_LEN, Buffer, finish_checksum, upper_layer
from xfrmi.wire.xfrm_const import IPPROTO_TCP, IPPROTO_UDP

VNET_HDR_LEN: Final = 10
VNET_HDR: Final = struct.Struct("=BBHHHH")

NEEDS_CSUM: Final = 1
"""The field at csum_start + csum_offset holds the pseudo-header sum; the rest from csum_start on is not added yet."""
DATA_VALID: Final = 2
"""The checksum has been verified by somebody and need not be again."""

GSO_NONE: Final = 0
GSO_TCPV4: Final = 1
GSO_UDP: Final = 3
"""UFO, one datagram to be cut into IP fragments: only seen by who asks for it (TUN_F_UFO), and we do not."""
GSO_TCPV6: Final = 4
GSO_UDP_L4: Final = 5
"""USO: one datagram for each gso_size bytes."""
GSO_ECN: Final = 0x80
"""Or-ed to a TCP type: CWR is set, and belongs to the first segment only."""

NO_OFFLOAD: Final = bytes(VNET_HDR_LEN)
"""The header of a finished packet."""

TCP_HEADER_LEN: Final = 20
TCP_FLAGS: Final = 13
"""Offset of the flags byte in the TCP header."""
TCP_CWR: Final = 0x80
TCP_CSUM_OFFSET: Final = 16
UDP_CSUM_OFFSET: Final = 6


class SuperPacket:
    """Up to 64 KiB of one flow under one header, standing for several packets of at most `segment_len` bytes.

    `data` is the whole IP packet; its upper-layer checksum field holds what the sender put there: the sum of the
    pseudo-header, or, in a datagram without UDP checksum, 0. `gso_type` is without the ECN flag: segmentation
    gives CWR to the first segment in any case.
    """

    __slots__ = ("csum_offset", "csum_start", "data", "gso_size", "gso_type", "hdr_len", "segment_len", "segments")

    def __init__(
        self, data: memoryview, gso_type: int, hdr_len: int, gso_size: int, csum_start: int, csum_offset: int
    ) -> None:
        self.data = data
        self.gso_type = gso_type
        self.hdr_len = hdr_len
        """Bytes of IP and upper-layer header together, options included."""
        self.gso_size = gso_size
        """Payload bytes of each segment but the last, which may have fewer."""
        self.csum_start = csum_start
        """Offset of the TCP or UDP header."""
        self.csum_offset = csum_offset
        """Offset of the checksum within it."""
        length = len(data)
        self.segments = -(-(length - hdr_len) // gso_size) or 1
        """How many packets this stands for, at least 1."""
        self.segment_len = min(length, hdr_len + gso_size)
        """Length of its longest segment as an IP packet: what is compared with an MTU (TX-12)."""

    def pieces(self) -> Sequence[Buffer]:
        """`data`, perhaps in pieces, the first of which has the header."""
        return (self.data,)

    def __repr__(self) -> str:
        return f"<SuperPacket type {self.gso_type}, {len(self.data)} bytes, {self.segments} of {self.segment_len}>"


class Gathered(SuperPacket):
    """A super-packet in pieces, on its way into a TUN, which takes it as it is; `data` puts them together."""

    __slots__ = ("header", "payloads")

    def __init__(
        self,
        header: bytearray,
        payloads: Sequence[Buffer],
        gso_type: int,
        gso_size: int,
        csum_start: int,
        csum_offset: int,
    ) -> None:
        self.header = header
        self.payloads = payloads
        self.gso_type = gso_type
        self.hdr_len = len(header)
        self.gso_size = gso_size
        self.csum_start = csum_start
        self.csum_offset = csum_offset
        self.segments = len(payloads)
        self.segment_len = len(header) + gso_size

    @property
    def data(self) -> memoryview:  # type: ignore[override]
        return memoryview(b"".join((self.header, *self.payloads)))

    def pieces(self) -> Sequence[Buffer]:
        return (self.header, *self.payloads)


Packet: TypeAlias = Buffer | SuperPacket


def parse(frame: memoryview) -> Packet:
    """A frame read from the TUN -> the IP packet as a view into it, or a SuperPacket on it.

    A partial checksum is finished in place, so `frame` is writable. ValueError if the header contradicts the
    packet, or asks for what was never offered to the kernel.
    """
    if len(frame) < VNET_HDR_LEN:
        raise ValueError("truncated virtio_net_hdr")
    flags, gso_type, _, gso_size, csum_start, csum_offset = VNET_HDR.unpack_from(frame)
    packet = frame[VNET_HDR_LEN:]
    if gso_type == GSO_NONE:
        if flags & NEEDS_CSUM:
            finish_checksum(packet, csum_start, csum_offset)
        return packet
    return _super_packet(packet, gso_type & ~GSO_ECN, gso_size, csum_start if flags & NEEDS_CSUM else None)


def _super_packet(packet: memoryview, gso_type: int, gso_size: int, csum_start: int | None) -> SuperPacket:
    """hdr_len of the virtio header is no use: the kernel gives what happens to lie in the linear part of its
    buffer. So the header length is read from the packet."""
    if gso_type == GSO_TCPV4 and csum_start == 20 and gso_size and len(packet) > 80 and packet[0] == 0x45:
        # The lean path, for most of them: TCP without anything between it and the IPv4 header.
        header_len = 20 + (packet[32] >> 2 & 0x3C)
        if packet[9] == IPPROTO_TCP and not packet[6] & 0x3F and not packet[7] and header_len >= 40:
            return SuperPacket(packet, gso_type, header_len, gso_size, 20, TCP_CSUM_OFFSET)
    protocol, offset, fragment = upper_layer(packet)
    if gso_type == (GSO_TCPV4 if packet[0] >> 4 == 4 else GSO_TCPV6):
        wanted, shortest, csum_offset = IPPROTO_TCP, TCP_HEADER_LEN, TCP_CSUM_OFFSET
    elif gso_type == GSO_UDP_L4:
        wanted, shortest, csum_offset = IPPROTO_UDP, UDP_HEADER_LEN, UDP_CSUM_OFFSET
    else:
        raise ValueError(f"GSO type {gso_type} was not asked for")
    if protocol != wanted or fragment != -1 or gso_size == 0 or csum_start not in (None, offset):
        raise ValueError("virtio_net_hdr and packet contradict each other")
    if offset + shortest > len(packet):
        raise ValueError("truncated upper-layer header")
    header_len = (packet[offset + 12] >> 4) * 4 if protocol == IPPROTO_TCP else UDP_HEADER_LEN
    if header_len < shortest or offset + header_len > len(packet):
        raise ValueError("malformed upper-layer header")
    return SuperPacket(packet, gso_type, offset + header_len, gso_size, offset, csum_offset)


def emit(packet: Packet) -> bytes:
    """The virtio_net_hdr to write in front of `packet`. A SuperPacket's checksum field holds the pseudo-header sum;
    the kernel finishes it only if the packet leaves the machine."""
    if not isinstance(packet, SuperPacket):
        return NO_OFFLOAD
    gso_type = packet.gso_type
    if gso_type != GSO_UDP_L4 and packet.pieces()[0][packet.csum_start + TCP_FLAGS] & TCP_CWR:
        gso_type |= GSO_ECN
    return VNET_HDR.pack(NEEDS_CSUM, gso_type, packet.hdr_len, packet.gso_size, packet.csum_start, packet.csum_offset)
