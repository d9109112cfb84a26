"""The outer edge for ESP in UDP (RFC 3948): one plain socket per address family and local port, in and out.

The kernel's own UDP_ENCAP is never asked for: where it has no ESP it would eat the datagrams and answer with ICMP
(UDP-02, UDP-03). So everything sent to the port arrives here, and what is not ESP goes to `on_other` or nowhere.

Out, the core hands over complete IP packets. Addresses, ports, TOS or traffic class, TTL, flow label and DF are read
off their headers and asked of the kernel, which builds the same headers again. DF is a property of the socket, so it is
switched before each run that differs, and one socket is enough: two on one port would share what arrives at random. A
run of packets of one size goes out in one call (UDP_SEGMENT). Two fields then differ from a lone packet's: segments
count up their IP identification (from 0), and carry a UDP checksum where a lone packet over IPv4 has 0, because the
kernel refuses to segment without one. What is larger than the path carries goes by the raw socket, which fragments it
or refuses it; what the kernel itself has learned of paths counts here no more than there.

In, a run that the kernel has put together (UDP_GRO) is taken apart. The IP header is made up from control messages:
identification, DF and header checksum read as 0.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Callable, Sequence
from itertools import repeat

from xfrmi.core.outgoing import Outgoing
from xfrmi.core.path import Path
from xfrmi.dev.device import Datagram, Failure
from xfrmi.dev.mmsg import ReceiveRows, writable
from xfrmi.dev.raw import RawEsp
from xfrmi.dev.sockets import (
    ATTEMPTS,
    IP_MTU_DISCOVER,
    IP_PKTINFO,
    IPV6_FLOWINFO,
    IPV6_MTU_DISCOVER,
    IPV6_RECVHOPLIMIT,
    IPV6_RECVPKTINFO,
    LOST,
    PMTUDISC_OMIT,
    PMTUDISC_PROBE,
    SEND_PATIENCE,
    enlarge_buffers,
    hear_of_losses,
    receive_drops,
)
from xfrmi.dev.udp_headers import (
    IPPROTO_IP,
    IPPROTO_IPV6,
    READS_V4,
    READS_V6,
    UDP_GRO,
    Origin,
    Peer,
    alike_v4,
    alike_v6,
)
from xfrmi.errors import XfrmError
from xfrmi.wire.ip import Buffer
from xfrmi.wire.udpencap import Payload, classify
from xfrmi.wire.xfrm_const import AF_INET, IPPROTO_UDP

RECEIVE_ROWS = 16
"""Each may hold 64 KiB of merged datagrams."""
MAX_SEGMENTS = 64
"""UDP_MAX_SEGMENTS of kernels before 6.9."""
MAX_RUN = 65535 - 48
"""Bytes of ESP in one run: what a single datagram can hold."""

IP_RECVTOS, IP_RECVTTL, IPV6_FLOWINFO_SEND, IPV6_AUTOFLOWLABEL = 13, 12, 33, 70
SO_NO_CHECK = 11

_OF_THE_RUN = errno.EIO, errno.EPERM, errno.EINVAL, errno.EMSGSIZE
"""Refused as a run, but perhaps not one by one. EIO: the device computes no checksums and this kernel wants it to.
EPERM: netfilter saw one large packet. EINVAL, EMSGSIZE: larger than the device's MTU, of which we have not heard yet.
"""

_CONTROL = 256
_CACHED = 1024
"""Entries of a cache; a full one is emptied."""

OnOther = Callable[[bytes, tuple[str, int]], None]
"""Called with what is not ESP (an IKE message, marker included, or a keepalive), and with its sender."""


class UdpEncap:
    """A Device[Datagram, Outgoing] on one local UDP port of one address family."""

    def __init__(
        self, family: int, port: int, raw: RawEsp, *, on_other: OnOther | None = None, offload: bool = True
    ) -> None:
        """Bind the port on all addresses. `raw` is the raw socket of the family. `offload` False: never merge or
        segment, lone packets only.

        Raises XfrmError EADDRINUSE, EACCES, EAFNOSUPPORT.
        """
        self.family = family
        self.port = port
        self.failures: list[Failure] = []
        """What did not leave in the last send_burst."""
        self.others = 0
        """Datagrams that were not ESP."""
        self._raw = raw
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
            self._headers_len, self._alike, self._reads = 28, alike_v4, READS_V4
        else:
            for option in (IPV6_RECVPKTINFO, IPV6_RECVHOPLIMIT, IPV6_FLOWINFO, IPV6_FLOWINFO_SEND):
                self._socket.setsockopt(IPPROTO_IPV6, option, 1)
            self._socket.setsockopt(IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, 0)
            self._socket.setsockopt(IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_OMIT)
            self._headers_len, self._alike, self._reads = 48, alike_v6, READS_V6
        enlarge_buffers(self._socket)
        self._rows = ReceiveRows(RECEIVE_ROWS, control=_CONTROL)
        self._cuts: dict[tuple[int, int], list[memoryview]] = {}
        self._origins: dict[bytes, Origin] = {}
        self._peers: dict[Path, Peer] = {}
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
        burst: list[Datagram] = []
        for index, length in enumerate(self._rows.receive(self._socket.fileno())):
            origin = self._origin(index)
            size = origin.segment or length or 1
            row = self._rows.rows[index]
            whole = 0
            # Most SPIs begin with a byte other than 0: only for the others look closer.
            if 8 < size < length and all(bytes(row[:length:size])):
                whole = length // size
                burst += zip(repeat(origin.header(size)), self._cut(index, size, whole), strict=False)
            for start in range(whole * size, length, size):
                esp = row[start : min(start + size, length)]
                if (len(esp) > 8 and esp[0]) or classify(esp) is Payload.ESP:
                    burst.append((origin.header(len(esp)), esp))
                else:
                    self._other(origin, esp)
        return burst

    def _cut(self, index: int, size: int, count: int) -> list[memoryview]:
        """The first `count` datagrams of `size` bytes in a row. To make the views costs more than to receive them."""
        views = self._cuts.get((index, size), [])
        if len(views) < count:
            if len(self._cuts) >= _CACHED:
                self._cuts.clear()
            row = self._rows.rows[index]
            views = self._cuts[index, size] = [row[at : at + size] for at in range(0, count * size, size)]
        return views[:count]

    def _origin(self, index: int) -> Origin:
        """Sender and control messages are the same bytes for as long as nothing about a flow changes."""
        name, control = self._rows.names[index], self._rows.controls[index][: self._rows.control_length(index)]
        key = b"".join((name, control))
        origin = self._origins.get(key)
        if origin is None:
            if len(self._origins) >= _CACHED:
                self._origins.clear()
            origin = self._origins[key] = Origin(self.family, self.port, name, control)
        return origin

    def _other(self, origin: Origin, payload: memoryview) -> None:
        self.others += 1
        if self._on_other is not None:
            self._on_other(bytes(payload), origin.sender)

    # Out

    def send_burst(self, burst: Sequence[Outgoing]) -> int:
        """Send complete outer packets whose source port is ours. Returns the number that left, see `failures`."""
        self.failures = []
        deadline = time.monotonic() + SEND_PATIENCE
        hear_of_losses(self._socket, self.family, True)
        total = 0
        for outgoing in burst:
            packets = outgoing.packets
            total += len(packets)
            mtu = self._raw.mtu(outgoing.path)
            start = 0
            while start < len(packets):
                end = self._run_end(packets, start)
                if len(packets[start]) <= mtu:
                    self._send_run(outgoing, start, end, deadline)
                else:
                    self._send_raw(outgoing, start, end)
                start = end
        hear_of_losses(self._socket, self.family, False)
        return total - sum(len(failure.positions) for failure in self.failures)

    def _run_end(self, packets: list[Buffer], start: int) -> int:
        """Index behind the run that begins at `start`: alike but for length, and of these only the last is shorter."""
        if start + 1 == len(packets):
            return start + 1
        first = packets[start]
        size = len(first)
        most = min(MAX_SEGMENTS, MAX_RUN // max(size - self._headers_len, 1)) if self._segment else 1
        run = packets[start : start + most]
        lengths = list(map(len, run))
        if lengths.count(size) == len(run) and self._all_alike(run):
            return start + len(run)
        alike = self._alike(first)
        for end, length in enumerate(lengths):
            if length > size or self._alike(run[end]) != alike:
                return start + end
            if length < size:
                return start + end + 1
        return start + len(run)

    def _all_alike(self, run: list[Buffer]) -> bool:
        """Do all packets agree in the bytes that `alike_v4` or `alike_v6` reads? It may be that only those differ that
        do not matter."""
        return all(len(set(map(reads, run))) == 1 for reads in self._reads)

    def _send_run(self, outgoing: Outgoing, start: int, end: int, deadline: float) -> None:
        run = outgoing.packets[start:end]
        size = len(run[0]) - self._headers_len if len(run) > 1 else 0
        peer = self._peers.get(outgoing.path) or self._peer(outgoing.path)
        sending = peer.sending(self._alike(run[0]), size)
        if self.family == AF_INET:
            self._option(IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE if sending.df else PMTUDISC_OMIT)
            self._option(socket.SOL_SOCKET, SO_NO_CHECK, int(not size))
        payloads = [memoryview(packet)[self._headers_len :] for packet in run]
        attempts = 0
        while True:
            try:
                self._socket.sendmsg(payloads, sending.control, 0, sending.address)
                return
            except BlockingIOError:
                if writable(self._socket.fileno(), deadline - time.monotonic()):
                    continue
                number = errno.EAGAIN
            except OSError as error:
                number = error.errno or errno.EIO
                attempts += 1
                if number not in LOST and attempts < ATTEMPTS:
                    continue
            break
        if not size or number not in _OF_THE_RUN:
            self.failures.append(Failure(outgoing, range(start, end), number))
            return
        self._segment &= number != errno.EIO
        for position in range(start, end):
            self._send_run(outgoing, position, position + 1, deadline)

    def _send_raw(self, outgoing: Outgoing, start: int, end: int) -> None:
        self._raw.send_burst([Outgoing(outgoing.path, outgoing.packets[start:end])])
        for _, (position,), number in self._raw.failures:
            self.failures.append(Failure(outgoing, range(start + position, start + position + 1), number))

    def _option(self, level: int, option: int, value: int) -> None:
        """Set a socket option unless it is set already."""
        if self._options.get((level, option)) != value:
            self._socket.setsockopt(level, option, value)
            self._options[level, option] = value

    def _peer(self, path: Path) -> Peer:
        if len(self._peers) >= _CACHED:
            self._peers.clear()
        peer = self._peers[path] = Peer(path)
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
