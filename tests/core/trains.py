"""Super-packets as a TUN hands them over, and received datagrams as a device hands them on: what trains are made of."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from xfrmi.core.train import Arrived, Block
from xfrmi.wire.ip import Buffer, checksum, ipv4_header_checksum, pseudo_header_sum
from xfrmi.wire.vnet import GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, SuperPacket

ADDRESSES = {4: bytes((198, 51, 100, 1, 198, 51, 100, 2)), 6: bytes(range(32))}
TIMESTAMPS = bytes.fromhex("0101080a0000000100000002")
ROUTER_ALERT = {4: b"\x94\x04\0\0", 6: bytes.fromhex("0000050200000000")}
"""In IPv6 a Hop-by-Hop header; its first byte is made the protocol."""


def super_packet(
    size: int, length: int, *, version: int = 4, udp: bool = False, seq: int = 1, ident: int = 1,
    check: int | None = None, flags: int = 0x10, tos: int = 0, df: bool = True, options: bytes = b"",
    alert: bool = False, summed: bool = True, port: int = 80, seed: int = 0,
) -> SuperPacket:  # fmt: skip
    """`length` bytes of payload, to be cut into `size`. `check` asks for the identification with which the IPv4 header
    of the first segment has this checksum."""
    payload = np.random.default_rng(seed).integers(0, 256, length, np.uint8).tobytes()
    protocol = 17 if udp else 6
    between = ROUTER_ALERT[version] if alert else b""
    if version == 6 and between:
        between = bytes((protocol,)) + between[1:]
    if udp:
        upper = struct.pack(">HHHH", port, 81, 8 + length, 0)
    else:
        upper = struct.pack(">HHIIBBHHH", port, 81, seq & 0xFFFFFFFF, 7, (20 + len(options)) << 2, flags, 99, 0, 5)
        upper += options
    header_len = len(upper)
    csum_offset = 6 if udp else 16
    partial = pseudo_header_sum(ADDRESSES[version], protocol, header_len + length) % 0xFFFF or 0xFFFF
    if summed:
        upper = upper[:csum_offset] + partial.to_bytes(2, "big") + upper[csum_offset + 2 :]
    if version == 6:
        first = 6 << 28 | tos << 20 | 0xABC
        header = struct.pack(">IHBB", first, 0, 0 if between else protocol, 64) + ADDRESSES[6] + between
        header = header[:4] + (len(header) - 40 + header_len + length & 0xFFFF).to_bytes(2, "big") + header[6:]
    else:
        start = 20 + len(between)
        words = bytearray(struct.pack(">BBHHHBBH", 0x40 | start // 4, tos, start + header_len + size, ident & 0xFFFF,
                                      0x4000 if df else 0, 64, protocol, 0) + ADDRESSES[4] + between)  # fmt: skip
        if check is not None:
            words[4:6] = bytes(2)
            words[4:6] = ((ipv4_header_checksum(words) - check) % 0xFFFF).to_bytes(2, "big")
        words[2:4] = (start + header_len + length & 0xFFFF).to_bytes(2, "big")
        words[10:12] = ipv4_header_checksum(words).to_bytes(2, "big")
        header = bytes(words)
    gso_type = GSO_UDP_L4 if udp else GSO_TCPV4 if version == 4 else GSO_TCPV6
    data = memoryview(bytearray(header + upper + payload))
    return SuperPacket(data, gso_type, len(header) + header_len, size, len(header), csum_offset)


def ident_of(packet: SuperPacket) -> int:
    return int.from_bytes(packet.data[4:6], "big")


def inner(payload: bytes, *, version: int = 4, port: int = 53) -> bytes:
    """A whole datagram between the same addresses."""
    upper = struct.pack(">HHHH", port, 54, 8 + len(payload), 0) + payload
    total = checksum(upper, pseudo_header_sum(ADDRESSES[version], 17, len(upper))) or 0xFFFF
    upper = upper[:6] + total.to_bytes(2, "big") + payload
    if version == 6:
        return struct.pack(">IHBB", 6 << 28, len(upper), 17, 64) + ADDRESSES[6] + upper
    header = bytearray(struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(upper), 1, 0x4000, 64, 17, 0) + ADDRESSES[4])
    header[10:12] = ipv4_header_checksum(header).to_bytes(2, "big")
    return bytes(header) + upper


class Memory:
    """A device's rows: `lead` bytes of something else in front of each packet, `gap` behind."""

    def __init__(self, rows: int, length: int, lead: int = 0, gap: int = 0) -> None:
        width = lead + length + gap
        self.array = np.full((rows, width), 0xEE, np.uint8)
        flat = self.array.reshape(-1).data
        rows_ = [flat[at + lead : at + lead + length] for at in range(0, len(flat), width)]
        self.block = Block(self.array[:, lead : lead + length], rows_)

    def receive(self, header: Buffer, packets: Sequence[Buffer], start: int = 0) -> Arrived:
        for at, packet in enumerate(packets, start):
            self.block.rows[at][:] = packet
        return Arrived(bytes(header), self.block, start, len(packets))


def arrived(header: Buffer, packets: Sequence[Buffer], start: int = 0, lead: int = 0, gap: int = 0) -> Arrived:
    """These ESP packets, all as long, in memory of their own."""
    return Memory(start + len(packets) + 2, len(packets[0]), lead, gap).receive(header, packets, start)
