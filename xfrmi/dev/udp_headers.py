"""A datagram's headers and what a UDP socket says about it instead: address, control messages (ip(7), ipv6(7), udp(7)).

Origin makes headers of what was received with a datagram, Peer makes arguments for sendmsg of headers to be sent.
"""

from __future__ import annotations

import socket
import struct
import sys
from operator import itemgetter
from typing import Any, NamedTuple

from xfrmi.core.path import Path
from xfrmi.dev.mmsg import cmsg_offsets
from xfrmi.dev.sockets import IP_PKTINFO, IPV6_FLOWINFO, IPV6_HOPLIMIT, IPV6_PKTINFO, SO_MARK
from xfrmi.wire.address import format_address
from xfrmi.wire.ip import Buffer
from xfrmi.wire.xfrm_const import AF_INET, IPPROTO_UDP

IPPROTO_IP, IPPROTO_IPV6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
IP_TOS, IP_TTL = socket.IP_TOS, socket.IP_TTL
IPV6_TCLASS = 67
UDP_SEGMENT, UDP_GRO = 103, 104

_HEADERS_V4 = struct.Struct(">BBHHHBBH4s4sHHHH")
_HEADERS_V6 = struct.Struct(">IHBB16s16sHHHH")
_U32_BIG = struct.Struct(">I")
_INT = struct.Struct("=i")
_LOW_BYTE = 0 if sys.byteorder == "little" else 3
_DF = 0x40
_CACHED = 64
"""Entries of a cache; a full one is emptied."""


class Origin:
    """Datagrams that are alike but for their length: the headers they had, and whether they come as a run."""

    __slots__ = ("_addresses", "_first", "_made", "_ports", "_ttl", "segment", "sender")

    def __init__(self, family: int, port: int, name: memoryview, control: memoryview) -> None:
        """From the sender's sockaddr and the control messages that came with a datagram to `port`."""
        at = cmsg_offsets(control, len(control))
        segment = at.get((IPPROTO_UDP, UDP_GRO))
        self.segment: int = _INT.unpack_from(control, segment)[0] if segment is not None else 0
        """Bytes of each datagram in a run but the last; 0 for a lone one."""
        self.sender = format_address(bytes(name[4:8] if family == AF_INET else name[8:24])), int.from_bytes(name[2:4])
        self._ports = int.from_bytes(name[2:4]), port
        self._made: dict[int, bytes] = {}
        if family == AF_INET:
            destination = at[IPPROTO_IP, IP_PKTINFO] + 8
            self._first = 0x45, control[at[IPPROTO_IP, IP_TOS]]
            self._ttl = control[at[IPPROTO_IP, IP_TTL] + _LOW_BYTE]
            self._addresses = bytes(name[4:8]), bytes(control[destination : destination + 4])
        else:
            destination = at[IPPROTO_IPV6, IPV6_PKTINFO]
            flow = at.get((IPPROTO_IPV6, IPV6_FLOWINFO))  # absent when class and label are both 0
            self._first = 0x60000000 | (_U32_BIG.unpack_from(control, flow)[0] if flow is not None else 0), 0
            self._ttl = control[at[IPPROTO_IPV6, IPV6_HOPLIMIT] + _LOW_BYTE]
            self._addresses = bytes(name[8:24]), bytes(control[destination : destination + 16])

    def header(self, length: int) -> bytes:
        """IP and UDP header of a datagram with `length` bytes of payload."""
        made = self._made.get(length)
        if made is None:
            if len(self._made) >= _CACHED:
                self._made.clear()
            made = self._made[length] = self._make(length + 8)
        return made

    def _make(self, length: int) -> bytes:
        first, tos = self._first
        if len(self._addresses[0]) == 4:
            return _HEADERS_V4.pack(
                first, tos, 20 + length, 0, 0, self._ttl, IPPROTO_UDP, 0, *self._addresses, *self._ports, length, 0
            )
        return _HEADERS_V6.pack(first, length, IPPROTO_UDP, self._ttl, *self._addresses, *self._ports, length, 0)


class Sending(NamedTuple):
    """Arguments of one kind of sendmsg call."""

    control: list[tuple[int, int, bytes]]
    address: tuple[Any, ...]
    df: int


class Peer:
    """Where the packets of a path go, and the calls that send them there."""

    __slots__ = ("_common", "_family", "_host", "_port", "_sendings")

    def __init__(self, path: Path) -> None:
        self._family = path.family
        self._host, self._port = format_address(path.dst), path.dport
        if path.family == AF_INET:
            self._common = [(IPPROTO_IP, IP_PKTINFO, struct.pack("=i4s4x", path.ifindex, path.src))]
        else:
            self._common = [(IPPROTO_IPV6, IPV6_PKTINFO, struct.pack("=16si", path.src, path.ifindex))]
        if path.mark:
            self._common.append((socket.SOL_SOCKET, SO_MARK, struct.pack("=I", path.mark)))
        self._sendings: dict[tuple[tuple[int, ...], int], Sending] = {}

    def sending(self, alike: tuple[int, ...], segment: int) -> Sending:
        """For packets whose headers are `alike` (see there), in runs of `segment` bytes each, or 0 for a lone one."""
        sending = self._sendings.get((alike, segment))
        if sending is None:
            if len(self._sendings) >= _CACHED:
                self._sendings.clear()
            sending = self._sendings[alike, segment] = self._make(alike, segment)
        return sending

    def _make(self, alike: tuple[int, ...], segment: int) -> Sending:
        control = list(self._common)
        if segment:
            control.append((IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", segment)))
        if self._family == AF_INET:
            tos, df, ttl = alike
            control += [(IPPROTO_IP, IP_TOS, _INT.pack(tos)), (IPPROTO_IP, IP_TTL, _INT.pack(ttl))]
            return Sending(control, (self._host, self._port), df)
        flow, hop_limit = alike
        control.append((IPPROTO_IPV6, IPV6_TCLASS, _INT.pack(flow >> 20)))
        control.append((IPPROTO_IPV6, IPV6_HOPLIMIT, _INT.pack(hop_limit)))
        return Sending(control, (self._host, self._port, flow & 0xFFFFF, 0), 0)


def alike_v4(packet: Buffer) -> tuple[int, ...]:
    """What one call sends only once, whatever the number of packets: TOS, DF, TTL."""
    return packet[1], packet[6] & _DF, packet[8]


def alike_v6(packet: Buffer) -> tuple[int, ...]:
    """The same for IPv6: traffic class with flow label, hop limit."""
    return int.from_bytes(packet[:4], "big") & 0x0FFFFFFF, packet[7]


READS_V4 = tuple(map(itemgetter, (1, 6, 8)))
READS_V6 = tuple(map(itemgetter, (0, 1, 2, 3, 7)))
"""The bytes that alike_v4 and alike_v6 read."""
