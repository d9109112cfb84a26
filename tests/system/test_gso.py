"""xfrmi.core.gso against the kernel: a super-packet is forwarded from one TUN to another that takes only finished
packets, so the kernel cuts it in software; we cut the same one and compare."""

from __future__ import annotations

import fcntl
import os
import random
import select
import struct

import pytest

from tests.netns import in_netns, ip, need_tun, sysctl
from xfrmi.core.gso import segment
from xfrmi.wire.ip import ipv4_header_checksum, pseudo_header_sum
from xfrmi.wire.vnet import GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, SuperPacket, emit

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
IFF_VNET_HDR = 0x4000

ADDRESSES4 = bytes((192, 0, 2, 1, 198, 51, 100, 7))
ADDRESSES6 = bytes.fromhex("20010db8000a") + bytes(9) + b"\1" + bytes.fromhex("20010db8000b") + bytes(9) + b"\7"


def open_tun(name: str, flags: int, address4: str, address6: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI | flags))
    ip(f"address add {address4} dev {name}")
    ip(f"-6 address add {address6} dev {name} nodad")
    ip(f"link set {name} up")
    return fd


def whole(version: int, udp: bool, payload_len: int, hops: int, flags: int) -> bytearray:
    """A packet before segmentation, its checksum field holding the sum of the pseudo-header."""
    payload = random.Random(payload_len).randbytes(payload_len)
    protocol = 17 if udp else 6
    addresses = ADDRESSES4 if version == 4 else ADDRESSES6
    upper_len = (8 if udp else 32) + payload_len
    partial = pseudo_header_sum(addresses, protocol, upper_len) % 0xFFFF
    if udp:
        upper = struct.pack(">HHHH", 53, 54, upper_len, partial)
    else:
        upper = struct.pack(">HHIIBBHHH", 80, 81, 0xFFFFFF00, 7, 8 << 4, flags, 99, partial, 0)
        upper += bytes.fromhex("0101080a0000000100000002")
    if version == 4:
        header = bytearray(struct.pack(">BBHHHBBH", 0x45, 2, 20 + upper_len, 0xFFFE, 0x4000, hops, protocol, 0))
        header += addresses
        header[10:12] = ipv4_header_checksum(header).to_bytes(2, "big")
    else:
        header = bytearray(struct.pack(">IHBB", 0x60200ABC, upper_len, protocol, hops) + addresses)
    return header + upper + payload


def read_all(fd: int, count: int) -> list[bytes]:
    packets: list[bytes] = []
    while len(packets) < count and select.select([fd], [], [], 2)[0]:
        packet = os.read(fd, 65535)
        if packet[0] >> 4 != 6 or packet[8:40] == ADDRESSES6:  # no neighbour discovery
            packets.append(packet)
    return packets


SIZES = [(1400, 1401), (1400, 4200), (1400, 60000), (1399, 20001), (100, 4501)]
"""Of a segment, and of all of them."""


@pytest.mark.parametrize(
    "version, udp, flags",
    [(4, False, 0x10), (4, False, 0x99), (6, False, 0x99), (4, True, 0), (6, True, 0)],
    ids=["tcp4", "tcp4 cwr psh fin", "tcp6 cwr psh fin", "udp4", "udp6"],
)
@in_netns
def test_same_segments_as_the_kernel(version: int, udp: bool, flags: int) -> None:
    need_tun()
    for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        sysctl(name, 1)
    inside = open_tun("in0", IFF_VNET_HDR, "192.0.2.254/24", "2001:db8:a::fe/64")
    outside = open_tun("out0", 0, "198.51.100.254/24", "2001:db8:b::fe/64")
    sysctl("net.ipv4.conf.in0.rp_filter", 0)

    start = 20 if version == 4 else 40
    header_len, offset = start + (8 if udp else 32), 6 if udp else 16
    gso_type = GSO_UDP_L4 if udp else GSO_TCPV4 if version == 4 else GSO_TCPV6
    for size, payload_len in SIZES:
        sent, expected = (  # forwarding takes one hop
            SuperPacket(memoryview(data), gso_type, header_len, size, start, offset)
            for data in (whole(version, udp, payload_len, hops, flags) for hops in (64, 63))
        )
        try:
            os.writev(inside, [emit(sent), sent.data])
        except OSError as error:
            pytest.skip(f"THIS KERNEL TAKES NO GSO TYPE {gso_type}, NOT TESTED: {error}")
        pieces = [bytes(piece) for piece in segment(expected)]
        assert read_all(outside, expected.segments) == pieces, (size, payload_len)
