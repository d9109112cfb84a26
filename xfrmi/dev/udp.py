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

import numpy as np

from xfrmi.core.outgoing import Outgoing
from xfrmi.core.path import Path
from xfrmi.core.train import Arrived, Block, Train
from xfrmi.dev.device import Arrival, Failure
from xfrmi.dev.mmsg import ROW, ReceiveRows, writable
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
from xfrmi.dev.udp_socket import bind
from xfrmi.wire.ip import Buffer
from xfrmi.wire.udpencap import Payload, classify
from xfrmi.wire.xfrm_const import AF_INET, IPPROTO_UDP

RECEIVE_ROWS = 16
"""Each may hold 64 KiB of merged datagrams."""
LONG_RUN, LONG_RUNS = 1 << 14, 4
"""Bytes: after a run of so many only a few are received at once, so that they go all their way while they are in the
caches. They are received behind each other, and are then one train."""
MAX_MERGED = 64
"""Datagrams in one run, UDP_GRO_CNT_MAX; more where the sender is on this machine, and then the rest goes one by one.
"""
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

MIN_TRAIN = 64
"""Bytes of a datagram that are worth a Block: not below it, one row would have too many views."""

_CONTROL = 256
_BLOCKS = 64
"""Blocks kept; in practice a few, as packets have few sizes."""
_CACHED = 1024
"""Entries of a cache; a full one is emptied."""

OnOther = Callable[[bytes, tuple[str, int]], None]
"""Called with what is not ESP (an IKE message, marker included, or a keepalive), and with its sender."""


class UdpEncap:
    """A Device[Arrival, Outgoing] on one local UDP port of one address family."""

    def __init__(
        self,
        family: int,
        port: int,
        raw: RawEsp,
        *,
        on_other: OnOther | None = None,
        offload: bool = True,
        shared: bool = False,
        with_ike: bool = False,
        address: str = "",
        fd: int = -1,
    ) -> None:
        """Bind the port on all addresses, or one. `raw` is the raw socket of the family. `offload` False: never merge
        or segment, lone packets only. `shared`: beside others of this user that are, see steering.py. `with_ike`: with
        an IKE daemon that has it already (port_sharing.py). `fd`: a socket that another process has bound.

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
        self._socket = socket.socket(fileno=fd) if fd >= 0 else bind(family, port, shared, with_ike, address)
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
        self._most = RECEIVE_ROWS
        self._packed = 0
        """The rows of `_rows` have room for runs of datagrams of this size, and no gap between them."""
        self._blocks: dict[tuple[int, int], Block] = {}
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

    def recv_burst(self) -> list[Arrival]:
        """What has arrived: up to RECEIVE_ROWS runs, fewer where they are long."""
        burst: list[Arrival] = []
        rows = self._rows
        lengths = rows.receive(self._socket.fileno(), self._most)
        index, count, leading = 0, len(lengths), 0
        while index < count:
            at, length = index, lengths[index]
            index += 1
            origin = self._origin(at)
            if not at:
                leading = origin.segment
            size = origin.segment or length or 1
            if MIN_TRAIN <= size < length <= rows.stride:
                stop = min(at + LONG_RUNS, count) if size == self._packed else index
                while index < stop and lengths[index] <= rows.stride == lengths[index - 1]:
                    if self._origin(index) is not origin:
                        break
                    length += lengths[index]
                    index += 1
                block = self._block(at, size)
                whole = min(length // size, len(block.rows))
                if block.spis[:whole].all():  # 0 is the marker of what is not ESP
                    burst.append(Arrived(origin.header(size), block, 0, whole))
                    self._split(origin, rows.memory[at * rows.stride :][whole * size : length], size, burst)
                    continue
                index, length = at + 1, lengths[at]
            row = rows.rows[at][:length] if length <= rows.stride else rows.whole(at, length)
            self._split(origin, row, size, burst)
        # Runs of small datagrams are many, too: what is to be sent would have to wait for all of them.
        self._most = LONG_RUNS if count > LONG_RUNS and leading else RECEIVE_ROWS
        if count and lengths[0] >= LONG_RUN:
            self._most = LONG_RUNS
            self._pack(lengths[0], leading)
        return burst

    def _pack(self, length: int, size: int) -> None:
        """Receive the next runs behind each other, if they are as long as this one."""
        stride = size and -(-length // size) * size
        if 0 < stride <= ROW and (length > self._rows.stride or size != self._packed):
            self._rows.pack(stride)
            self._packed = size
            self._blocks.clear()

    def _split(self, origin: Origin, row: memoryview, size: int, burst: list[Arrival]) -> None:
        """What has arrived, datagram by datagram."""
        for start in range(0, len(row), size):
            esp = row[start : start + size]
            if (len(esp) > 8 and esp[0]) or classify(esp) is Payload.ESP:
                burst.append((origin.header(len(esp)), esp))
            else:
                self._other(origin, esp)

    def _block(self, index: int, size: int) -> Block:
        """The memory from a row on as datagrams of `size` bytes. To make the views costs more than to receive them."""
        made = self._blocks.get((index, size))
        if made is None:
            if len(self._blocks) >= _BLOCKS:
                self._blocks.clear()
            rows = self._rows
            runs = min(LONG_RUNS, rows.count - index) if size == self._packed else 1
            count = min(rows.stride // size, MAX_MERGED) * runs
            memory = rows.memory[index * rows.stride :][: count * size]
            array = np.frombuffer(memory, np.uint8).reshape(count, size)
            made = Block(array, [memory[at : at + size] for at in range(0, len(memory), size)])
            self._blocks[index, size] = made
        return made

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
            if isinstance(packets, Train) and self._segment and len(packets.header) + packets.size <= mtu:
                self._send_train(outgoing, packets, deadline)
                continue
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

    def _send_train(self, outgoing: Outgoing, train: Train, deadline: float) -> None:
        """As many of its packets with each call as the kernel takes; those of a call that it refuses one by one."""
        size = train.size
        most = min(MAX_SEGMENTS, MAX_RUN // size)
        alike = self._alike(train.header)
        for start in range(0, len(train), most):
            payload = (train.esp[start * size : (start + most) * size],)
            self._send(outgoing, range(start, min(start + most, len(train))), payload, alike, size, deadline)

    def _run_end(self, packets: Sequence[Buffer], start: int) -> int:
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

    def _all_alike(self, run: Sequence[Buffer]) -> bool:
        """Do all packets agree in the bytes that `alike_v4` or `alike_v6` reads? It may be that only those differ that
        do not matter."""
        return all(len(set(map(reads, run))) == 1 for reads in self._reads)

    def _send_run(self, outgoing: Outgoing, start: int, end: int, deadline: float) -> None:
        run = outgoing.packets[start:end]
        size = len(run[0]) - self._headers_len if len(run) > 1 else 0
        payloads = [memoryview(packet)[self._headers_len :] for packet in run]
        self._send(outgoing, range(start, end), payloads, self._alike(run[0]), size, deadline)

    def _send(
        self,
        outgoing: Outgoing,
        positions: range,
        payloads: Sequence[Buffer],
        alike: tuple[int, ...],
        size: int,
        deadline: float,
    ) -> None:
        """One call for packets of `size` bytes of ESP, or for a lone one if that is 0. `payloads` may be in pieces."""
        peer = self._peers.get(outgoing.path) or self._peer(outgoing.path)
        sending = peer.sending(alike, size)
        if self.family == AF_INET:
            self._option(IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE if sending.df else PMTUDISC_OMIT)
            self._option(socket.SOL_SOCKET, SO_NO_CHECK, int(not size))
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
            self.failures.append(Failure(outgoing, positions, number))
            return
        self._segment &= number != errno.EIO
        for position in positions:
            self._send_run(outgoing, position, position + 1, deadline)

    def _send_raw(self, outgoing: Outgoing, start: int, end: int) -> None:
        self._raw.send_burst([Outgoing(outgoing.path, list(outgoing.packets[start:end]))])
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
