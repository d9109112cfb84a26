"""The outer edge for ESP in UDP (RFC 3948): one plain socket per address family and local port, in and out.

The kernel's own UDP_ENCAP is never asked for: where it has no ESP it would eat the datagrams and answer with ICMP
(UDP-02, UDP-03). So everything sent to the port arrives here, and what is not ESP goes to `on_other` or nowhere.

Out, the core hands over complete IP packets. Addresses, ports, TOS or traffic class, TTL, flow label and DF are read
off their headers and asked of the kernel, which builds the same headers again. DF is a property of the socket, so it is
switched before each run that differs, and one socket is enough: two on one port would share what arrives at random. A
run of packets of one size goes out in one call (UDP_SEGMENT). Two bytes then differ from a lone packet's: segments
count up their IP identification (from 0), and carry a UDP checksum where a lone packet over IPv4 has 0, because the
kernel refuses to segment without one.

In, a run that the kernel has put together (UDP_GRO) is taken apart. The IP header is made up from control messages:
identification, DF and header checksum read as 0.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from xfrmi.core.outgoing import Outgoing
from xfrmi.core.path import Path
from xfrmi.dev.device import Datagram, Failure
from xfrmi.dev.mmsg import ReceiveRows, cmsg_offsets, writable
from xfrmi.dev.sockets import (
    IP_PKTINFO,
    IPV6_FLOWINFO,
    IPV6_HOPLIMIT,
    IPV6_PKTINFO,
    IPV6_RECVHOPLIMIT,
    IPV6_RECVPKTINFO,
    SEND_PATIENCE,
    SO_MARK,
    enlarge_buffers,
    receive_drops,
)
from xfrmi.errors import XfrmError
from xfrmi.wire.address import format_address
from xfrmi.wire.ip import Buffer
from xfrmi.wire.udpencap import Payload, classify
from xfrmi.wire.xfrm_const import AF_INET, IPPROTO_UDP

RECEIVE_ROWS = 16
"""Each may hold 64 KiB of merged datagrams."""
MAX_SEGMENTS = 64
"""UDP_MAX_SEGMENTS of kernels before 6.9."""
MAX_RUN = 65535 - 48
"""Bytes of ESP in one run: what a single datagram can hold."""

IPPROTO_IP, IPPROTO_IPV6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
IP_RECVTOS, IP_TOS, IP_RECVTTL, IP_TTL, IP_MTU_DISCOVER = 13, 1, 12, 2, 10
IP_PMTUDISC_DONT, IP_PMTUDISC_DO = 0, 2
IPV6_TCLASS, IPV6_FLOWINFO_SEND, IPV6_AUTOFLOWLABEL = 67, 33, 70
UDP_SEGMENT, UDP_GRO, SO_NO_CHECK = 103, 104, 11

_HEADERS_V4 = struct.Struct(">BBHHHBBH4s4sHHHH")
_HEADERS_V6 = struct.Struct(">IHBB16s16sHHHH")
_U32_BIG = struct.Struct(">I")
_INT = struct.Struct("=i")
_LOW_BYTE = 0 if sys.byteorder == "little" else 3
_CONTROL = 256
_DF = 0x40
_MAX_PEERS = 1024

OnOther = Callable[[bytes, tuple[str, int]], None]
"""Called with what is not ESP (an IKE message, marker included, or a keepalive), and with its sender."""


class _Peer(NamedTuple):
    host: str
    port: int
    control: list[tuple[int, int, bytes]]


class _Layout(NamedTuple):
    """Where the control messages of one received datagram have their data; 0 for one that is absent."""

    destination: int
    ttl: int
    traffic: int
    segment: int


class UdpEncap:
    """A Device[Datagram, Outgoing] on one local UDP port of one address family."""

    def __init__(self, family: int, port: int, *, on_other: OnOther | None = None, offload: bool = True) -> None:
        """Bind the port on all addresses. `offload` False: never merge or segment, lone packets only.

        Raises XfrmError EADDRINUSE, EACCES, EAFNOSUPPORT.
        """
        self.family = family
        self.port = port
        self.failures: list[Failure] = []
        """What did not leave in the last send_burst."""
        self.others = 0
        """Datagrams that were not ESP."""
        self._on_other = on_other
        try:
            self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            if family != AF_INET:
                self._socket.setsockopt(IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self._socket.bind(("", port))
        except OSError as error:
            raise _explain(error, port) from None
        self._segment = offload
        if offload:
            with contextlib.suppress(OSError):  # a kernel before 5.0 gives datagrams one by one
                self._socket.setsockopt(IPPROTO_UDP, UDP_GRO, 1)
        if family == AF_INET:
            for option in (IP_PKTINFO, IP_RECVTOS, IP_RECVTTL):
                self._socket.setsockopt(IPPROTO_IP, option, 1)
            self._headers_len = 28
        else:
            for option in (IPV6_RECVPKTINFO, IPV6_RECVHOPLIMIT, IPV6_FLOWINFO, IPV6_FLOWINFO_SEND):
                self._socket.setsockopt(IPPROTO_IPV6, option, 1)
            self._socket.setsockopt(IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, 0)
            self._headers_len = 48
        enlarge_buffers(self._socket)
        self._rows = ReceiveRows(RECEIVE_ROWS, control=_CONTROL)
        self._layouts: dict[bytes, _Layout] = {}
        self._peers: dict[Path, _Peer] = {}
        self._options: dict[tuple[int, int], int] = {}

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def overruns(self) -> int:
        """Datagrams that the kernel dropped because we did not read in time."""
        return receive_drops(self._socket)

    def close(self) -> None:
        self._socket.close()

    # In

    def recv_burst(self) -> list[Datagram]:
        """What has arrived, up to RECEIVE_ROWS runs."""
        lengths = self._rows.receive(self._socket.fileno())
        burst: list[Datagram] = []
        for index, length in enumerate(lengths):
            layout = self._layout(index)
            size = _INT.unpack_from(self._rows.controls[index], layout.segment)[0] if layout.segment else length
            header = self._header(index, layout, size)
            row = self._rows.rows[index]
            for start in range(0, length, size):
                esp = row[start : min(start + size, length)]
                if len(esp) != size:  # the last of a run may be shorter
                    header = self._header(index, layout, len(esp))
                # Most SPIs begin with a byte other than 0: only for the others look closer.
                if (len(esp) > 8 and esp[0]) or classify(esp) is Payload.ESP:
                    burst.append((header, esp))
                else:
                    self._other(index, esp)
        return burst

    def _layout(self, index: int) -> _Layout:
        """Control messages come in one order. Their total length and the first one's type tell which are there."""
        control = self._rows.controls[index]
        used = self._rows.control_length(index)
        key = used.to_bytes(2) + control[:16]
        layout = self._layouts.get(key)
        if layout is None:
            at = cmsg_offsets(control, used)
            if self.family == AF_INET:
                destination = at[IPPROTO_IP, IP_PKTINFO] + 8
                ttl, traffic = at[IPPROTO_IP, IP_TTL], at[IPPROTO_IP, IP_TOS]
            else:
                destination = at[IPPROTO_IPV6, IPV6_PKTINFO]
                ttl, traffic = at[IPPROTO_IPV6, IPV6_HOPLIMIT], at.get((IPPROTO_IPV6, IPV6_FLOWINFO), 0)
            segment = at.get((IPPROTO_UDP, UDP_GRO), 0)
            layout = self._layouts[key] = _Layout(destination, ttl + _LOW_BYTE, traffic, segment)
        return layout

    def _header(self, index: int, layout: _Layout, length: int) -> bytes:
        """IP and UDP header of a datagram with `length` bytes of payload."""
        control, name = self._rows.controls[index], self._rows.names[index]
        destination, ttl, traffic, _ = layout
        sport, dport, udp_len = name[2] << 8 | name[3], self.port, length + 8
        if self.family == AF_INET:
            return _HEADERS_V4.pack(
                0x45, control[traffic], 20 + udp_len, 0, 0, control[ttl], IPPROTO_UDP, 0,
                bytes(name[4:8]), bytes(control[destination : destination + 4]), sport, dport, udp_len, 0,
            )  # fmt: skip
        flow = _U32_BIG.unpack_from(control, traffic)[0] if traffic else 0
        return _HEADERS_V6.pack(
            0x60000000 | flow, udp_len, IPPROTO_UDP, control[ttl],
            bytes(name[8:24]), bytes(control[destination : destination + 16]), sport, dport, udp_len, 0,
        )  # fmt: skip

    def _other(self, index: int, payload: memoryview) -> None:
        self.others += 1
        if self._on_other is not None:
            name = bytes(self._rows.names[index])
            address = name[4:8] if self.family == AF_INET else name[8:24]
            self._on_other(bytes(payload), (format_address(address), int.from_bytes(name[2:4])))

    # Out

    def send_burst(self, burst: list[Outgoing]) -> int:
        """Send complete outer packets whose source port is ours. Returns the number that left, see `failures`."""
        self.failures = []
        deadline = time.monotonic() + SEND_PATIENCE
        total = 0
        for outgoing in burst:
            packets = outgoing.packets
            total += len(packets)
            start = 0
            while start < len(packets):
                end = self._run_end(packets, start)
                self._send_run(outgoing, packets[start:end], deadline)
                start = end
        return total - sum(failure.packets for failure in self.failures)

    def _run_end(self, packets: list[Buffer], start: int) -> int:
        """Index behind the run that begins at `start`: alike but for length, and of these only the last is shorter."""
        first = packets[start]
        size = len(first)
        alike = self._alike(first)
        most = start + min(MAX_SEGMENTS, MAX_RUN // (size - self._headers_len)) if self._segment else start + 1
        end = start + 1
        while end < min(most, len(packets)) and len(packets[end]) <= size and self._alike(packets[end]) == alike:
            end += 1
            if len(packets[end - 1]) < size:
                break
        return end

    def _alike(self, packet: Buffer) -> tuple[Any, ...]:
        """What one call sends only once: (TOS, DF, TTL), or (class and label, hop limit)."""
        if self.family == AF_INET:
            return packet[1], packet[6] & _DF, packet[8]
        return int.from_bytes(packet[:4], "big") & 0x0FFFFFFF, packet[7]

    def _send_run(self, outgoing: Outgoing, run: list[Buffer], deadline: float) -> None:
        peer = self._peers.get(outgoing.path) or self._peer(outgoing.path)
        control = list(peer.control)
        alike = self._alike(run[0])
        address: tuple[Any, ...] = (peer.host, peer.port)
        if self.family == AF_INET:
            tos, df, ttl = alike
            self._option(IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO if df else IP_PMTUDISC_DONT)
            self._option(socket.SOL_SOCKET, SO_NO_CHECK, int(len(run) == 1))
            control += [(IPPROTO_IP, IP_TOS, _INT.pack(tos)), (IPPROTO_IP, IP_TTL, _INT.pack(ttl))]
        else:
            flow, hop_limit = alike
            control += [
                (IPPROTO_IPV6, IPV6_TCLASS, _INT.pack(flow >> 20)),
                (IPPROTO_IPV6, IPV6_HOPLIMIT, _INT.pack(hop_limit)),
            ]
            address = (peer.host, peer.port, flow & 0xFFFFF, 0)
        if len(run) > 1:
            control.append((IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", len(run[0]) - self._headers_len)))
        payloads = [memoryview(packet)[self._headers_len :] for packet in run]
        while True:
            try:
                self._socket.sendmsg(payloads, control, 0, address)
                return
            except BlockingIOError:
                if writable(self._socket.fileno(), deadline - time.monotonic()):
                    continue
                number = errno.EAGAIN
            except OSError as error:
                number = error.errno or errno.EIO
            break
        if len(run) == 1 or number == errno.EAGAIN:
            self.failures.append(Failure(outgoing, len(run), number))
            return
        # EIO: the device computes no checksums and this kernel wants it to. EINVAL, EMSGSIZE: larger than the MTU, so
        # each is fragmented or refused by itself.
        self._segment &= number != errno.EIO
        for packet in run:
            self._send_run(outgoing, [packet], deadline)

    def _option(self, level: int, option: int, value: int) -> None:
        """Set a socket option unless it is set already."""
        if self._options.get((level, option)) != value:
            self._socket.setsockopt(level, option, value)
            self._options[level, option] = value

    def _peer(self, path: Path) -> _Peer:
        if len(self._peers) >= _MAX_PEERS:
            self._peers.clear()
        if self.family == AF_INET:
            control = [(IPPROTO_IP, IP_PKTINFO, struct.pack("=i4s4x", path.ifindex, path.src))]
        else:
            control = [(IPPROTO_IPV6, IPV6_PKTINFO, struct.pack("=16si", path.src, path.ifindex))]
        if path.mark:
            control.append((socket.SOL_SOCKET, SO_MARK, struct.pack("=I", path.mark)))
        peer = self._peers[path] = _Peer(format_address(path.dst), path.dport, control)
        return peer


def _explain(error: OSError, port: int) -> XfrmError:
    number = error.errno or errno.EIO
    if number == errno.EADDRINUSE:
        detail = f"another program (an IKE daemon?) has UDP port {port}: see who with `ss -ulpn sport = :{port}`"
    elif number == errno.EACCES:
        detail = f"UDP port {port} is below net.ipv4.ip_unprivileged_port_start and takes CAP_NET_BIND_SERVICE"
    else:
        detail = f"UDP port {port}: {error.strerror}"
    return XfrmError(number, "", detail)
