"""Frames from the kernel with a virtio_net_hdr: refused with ValueError, or a packet; super-packets are cut the same by
both ways of cutting, into whole packets with right checksums, and go through a tunnel.

    frame
"""

from __future__ import annotations

import struct
from unittest.mock import patch

from tests.core.packets import udp
from tests.core.pair import INNER, NOW
from tests.fuzz.hosts import Books, Hosts, OnHosts
from tests.fuzz.registry import One
from xfrmi.core import gso
from xfrmi.wire.ip import IPV4_ADDRESSES, IPV6_ADDRESSES, checksum, pseudo_header_sum, trim, upper_layer
from xfrmi.wire.vnet import GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, NO_OFFLOAD, VNET_HDR, SuperPacket, emit, parse

MAX_LEN = 1000


def seeds() -> list[bytes]:
    found = []
    for version, at, kind in ((4, 20, GSO_TCPV4), (6, 40, GSO_TCPV6)):
        datagram = udp(*INNER[version], bytes(300))
        found.append(NO_OFFLOAD + datagram)
        found.append(VNET_HDR.pack(NEEDS_CSUM, 0, 0, 0, at, 6) + datagram)
        found.append(VNET_HDR.pack(NEEDS_CSUM, GSO_UDP_L4, 0, 70, at, 6) + datagram)
        tcp = bytearray(datagram[:at])
        tcp[9 if version == 4 else 6] = 6
        tcp += struct.pack(">HHIIBBHHH", 80, 8000, 1, 2, 0x50, 0x98, 1000, 0, 0) + bytes(range(200))
        start = slice(2, 4) if version == 4 else slice(4, 6)
        tcp[start] = (len(tcp) - (0 if version == 4 else 40)).to_bytes(2)
        found.append(VNET_HDR.pack(NEEDS_CSUM, kind, 0, 60, at, 16) + bytes(tcp))
        found.append(VNET_HDR.pack(NEEDS_CSUM, kind | 0x80, 0, 30, at, 16) + bytes(tcp))
    return found


def make() -> One:
    return Frames().one


class Frames(OnHosts):
    def renew(self) -> None:
        hosts = Hosts()
        self.interface, self.engine = hosts.out[0], hosts.left.engine
        self.books = Books(self.engine, hosts.out)

    def take(self, data: bytes) -> None:
        try:
            packet = parse(memoryview(bytearray(data)))
        except ValueError:
            return
        if isinstance(packet, SuperPacket):
            emit(packet)
            cut(packet)
            length = len(packet.data)
        else:
            length = len(packet)
        outgoing, _ = self.engine.output(self.interface, [packet], NOW)
        moved = self.books.rose()
        if outgoing and "tx_errors" not in moved:
            assert moved.pop("tx_bytes") == length and moved == {"tx_packets": 1}, moved
        else:
            assert moved.get("tx_errors") == 1, moved


def cut(packet: SuperPacket) -> None:
    segments = [bytes(one) for one in gso.segment(packet)]
    with patch.object(gso, "FEW", 1 << 16 if packet.segments >= gso.FEW else 1):
        assert segments == [bytes(one) for one in gso.segment(packet)]
    assert len(segments) == packet.segments
    for one in segments:
        assert len(one) <= packet.segment_len and trim(one) == one
        protocol, at, _ = upper_layer(one)
        addresses = one[IPV4_ADDRESSES] if one[0] >> 4 == 4 else one[IPV6_ADDRESSES]
        if protocol == 17 and not any(one[at + 6 : at + 8]):
            continue
        assert checksum(one[at:], pseudo_header_sum(addresses, protocol, len(one) - at)) in (0, 0xFFFF)
