"""The outer edge for protocol 50: one raw socket per address family, in and out.

Out, header bytes are exactly the core's (IP_HDRINCL, IPV6_HDRINCL; kernel-behaviour section 0): the kernel fills an
IPv4 identification of 0 where DF is clear, and nothing else. It never fragments what it is handed with a header, so
that is done here, after ESP as it should be, for the path MTU that the router tells; what is too big and may not be
fragmented is refused with EMSGSIZE. What the kernel itself believes of path MTUs does not count, and no ICMP error
about these packets changes it (PMTUDISC_INTERFACE, which leaves the DF of a given header alone).
Mark and output device go along with each message (SO_MARK, PKTINFO), so one socket serves every path.

In, the two families differ: an IPv4 raw socket gives the IP header, an IPv6 one the payload only, and the header is
put together again from control messages (RAW-03). A raw socket sees what is addressed to this host, reassembled
(RAW-04); it does not see what it sends itself, unless that is sent to this host.
"""

from __future__ import annotations

import errno
import random
import socket
import struct
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xfrmi.core.outgoing import Outgoing
from xfrmi.core.path import Path
from xfrmi.core.router import Router
from xfrmi.core.rows import fields
from xfrmi.core.train import Arrived, Block, Train
from xfrmi.dev.device import Arrival, Datagram, Failure
from xfrmi.dev.mmsg import ROW, Destination, ReceiveRows, SendRows, SendTrains, cmsg, cmsg_offsets
from xfrmi.dev.sockets import (
    IP_MTU_DISCOVER,
    IP_PKTINFO,
    IPV6_FLOWINFO,
    IPV6_HOPLIMIT,
    IPV6_MTU_DISCOVER,
    IPV6_PKTINFO,
    IPV6_RECVHOPLIMIT,
    IPV6_RECVPKTINFO,
    PMTUDISC_INTERFACE,
    SEND_PATIENCE,
    SO_MARK,
    enlarge_buffers,
    hear_of_losses,
    receive_drops,
)
from xfrmi.errors import XfrmError
from xfrmi.wire.fragment import fragment_ipv4, fragment_ipv6
from xfrmi.wire.ip import IPV4_HEADER_LEN, Buffer
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6, IPPROTO_ESP

BURST, RECEIVE = 64, 128
"""Datagrams for one system call."""
MIN_TRAIN, MIN_LENGTH = 8, 64
"""Datagrams, and bytes of each, that are worth to be handled together."""

IPPROTO_IP, IPPROTO_IPV6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
IPV6_HDRINCL, IPV6_FREEBIND = 36, 78

_DF = 0x40
_MAX_DESTINATIONS = 1024
_BLOCKS = 16
_V4_COMPARED = np.array([0xFFFFFFFF, 0x0000FFFF, 0xFFFF0000, 0xFFFFFFFF, 0xFFFFFFFF], np.uint32)
"""The words of an IPv4 header without identification and checksum."""
_PAYLOAD = struct.Struct(">HBB")
_FLOW = struct.Struct(">I")
_LOW_BYTE = 0 if sys.byteorder == "little" else 3
_V6_CONTROL = 256


class _Rows(NamedTuple):
    """What is received, as datagrams of one length."""

    outer: NDArray[np.uint32]
    """Their IPv4 headers, in words."""
    esp: Block


class RawEsp:
    """A Device[Arrival, Outgoing] for one address family (AF_INET or AF_INET6)."""

    def __init__(self, family: int, router: Router, fd: int = -1) -> None:
        """Open the socket; from then on the kernel no longer answers ESP with ICMP (RAW-01, RAW-02).

        `router` tells the path MTU. `fd`: a socket that another process has opened. Raises XfrmError EPERM without
        CAP_NET_RAW, EAFNOSUPPORT without IPv6.
        """
        try:
            kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            self._socket = socket.socket(fileno=fd) if fd >= 0 else socket.socket(family, kind, IPPROTO_ESP)
        except OSError as error:
            raise explain(error, family) from None
        self.family = family
        self.failures: list[Failure] = []
        """What did not leave in the last send_burst."""
        self._router = router
        self._send_rows = SendRows(BURST)
        self._send_trains = SendTrains(BURST)
        self._blocks: dict[int, _Rows] = {}
        self._staged: list[Outgoing] = []
        self._positions: list[int] = []
        """Of the staged packets: whose packets they are, and which."""
        self._destinations: dict[Path, Destination] = {}
        # An identification must not repeat while fragments of the last packet with it may be on the way.
        self._identification = random.SystemRandom().getrandbits(32)
        if family == AF_INET:
            self._socket.setsockopt(IPPROTO_IP, socket.IP_HDRINCL, 1)
            self._socket.setsockopt(IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
            self._socket.setsockopt(IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_INTERFACE)
            self._receive_rows = ReceiveRows(RECEIVE)
        else:
            # FREEBIND: as in IPv4, whether a source is ours is not asked of a header that is complete.
            for option in (IPV6_HDRINCL, IPV6_FREEBIND):
                self._socket.setsockopt(IPPROTO_IPV6, option, 1)
            self._socket.setsockopt(IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_INTERFACE)
            for option in (IPV6_RECVPKTINFO, IPV6_RECVHOPLIMIT, IPV6_FLOWINFO):
                self._socket.setsockopt(IPPROTO_IPV6, option, 1)
            self._socket.setsockopt(IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
            self._receive_rows = ReceiveRows(RECEIVE, control=_V6_CONTROL)
        self._layouts: dict[int, tuple[int, int, int]] = {}
        enlarge_buffers(self._socket)

    def fileno(self) -> int:
        return self._socket.fileno()

    def ask(self, router: Router) -> None:
        """Have path MTUs told by this router from now on."""
        self._router = router

    @property
    def overruns(self) -> int:
        """Datagrams that the kernel dropped because we did not read in time."""
        return receive_drops(self._socket)

    # In

    def recv_burst(self) -> list[Arrival]:
        """What has arrived, up to RECEIVE datagrams; those that are alike and follow each other as one train."""
        rows = self._receive_rows
        lengths = rows.receive(self._socket.fileno())
        burst: list[Arrival] = []
        at, count, longest = 0, len(lengths), 0
        while at < count:
            length = lengths[at]
            end = at + 1
            while end < count and lengths[end] == length:
                end += 1
            train = None
            if end - at >= MIN_TRAIN:
                longest = max(longest, length)
                train = self._train(at, end, length)
            if train is None:
                burst += [self._datagram(index, length) for index in range(at, end)]
            else:
                burst.append(train)
            at = end
        if longest and (longest > rows.stride or rows.stride == ROW):
            rows.pack(longest)
            self._blocks.clear()
        return burst

    def _datagram(self, index: int, length: int) -> Datagram:
        rows = self._receive_rows
        row = rows.rows[index][:length] if length <= rows.stride else rows.whole(index, length)
        if self.family != AF_INET:
            return self._header(index, length), row
        header_len = (row[0] & 0x0F) << 2
        return row[:header_len], row[header_len:]

    def _train(self, at: int, end: int, length: int) -> Arrived | None:
        """The rows from `at` to `end`, of one length, as a train, if they had the same header. In IPv4 identification
        and checksum may differ: nobody asks for them."""
        rows = self._receive_rows
        if not MIN_LENGTH <= length <= rows.stride:
            return None
        if self.family == AF_INET:
            header = bytes(rows.rows[at][:IPV4_HEADER_LEN])
            start = IPV4_HEADER_LEN
            block = self._block(length, start)
            heads = (block.outer[at:end] & _V4_COMPARED).tobytes()
            if header[0] != 0x45 or heads != heads[:start] * (end - at):
                return None
        else:
            block, header = self._block(length, 0), self._header(at, length)
            if not rows.same_origin(at, end):
                return None
        return Arrived(header, block.esp, at, end - at)

    def _block(self, length: int, start: int) -> _Rows:
        """All rows as datagrams of `length` bytes, of which ESP begins at `start`."""
        made = self._blocks.get(length)
        if made is None:
            if len(self._blocks) >= _BLOCKS:
                self._blocks.clear()
            rows = self._receive_rows
            memory = np.frombuffer(rows.memory, np.uint8, rows.count * rows.stride).reshape(rows.count, -1)
            block = Block(memory[:, start:length], [row[start:length] for row in rows.rows])
            made = self._blocks[length] = _Rows(fields(memory, 0, start, ">u4"), block)
        return made

    def _header(self, index: int, length: int) -> bytes:
        """The fixed IPv6 header of a received datagram. Extension headers are lost: it says that ESP comes next."""
        rows = self._receive_rows
        control = rows.controls[index]
        used = rows.control_length(index)
        layout = self._layouts.get(used)
        if layout is None:  # the kernel always writes the same ones in the same order; FLOWINFO only if it is not 0
            offsets = cmsg_offsets(control, used)
            layout = self._layouts[used] = (
                offsets[IPPROTO_IPV6, IPV6_PKTINFO],
                offsets[IPPROTO_IPV6, IPV6_HOPLIMIT] + _LOW_BYTE,
                offsets.get((IPPROTO_IPV6, IPV6_FLOWINFO), 0),
            )
        destination, hop_limit, flow = layout
        return b"".join(
            (
                _FLOW.pack(0x60000000 | _FLOW.unpack_from(control, flow)[0] if flow else 0x60000000),
                _PAYLOAD.pack(length, IPPROTO_ESP, control[hop_limit]),
                rows.names[index][8:24],
                control[destination : destination + 16],
            )
        )

    # Out

    def send_burst(self, burst: Sequence[Outgoing]) -> int:
        """Send complete outer packets of this family, fragmenting where that is needed and allowed.

        Returns the number of packets that left whole; the others are in `failures`.
        """
        self.failures = []
        hear_of_losses(self._socket, self.family, True)
        total = 0
        for outgoing in burst:
            total += len(outgoing.packets)
            destination = self._destinations.get(outgoing.path) or self._destination(outgoing.path)
            mtu = self.mtu(outgoing.path)
            if isinstance(outgoing.packets, Train) and self._send_train(outgoing, outgoing.packets, destination, mtu):
                continue
            for position, packet in enumerate(outgoing.packets):
                if len(packet) <= mtu:
                    self._stage(packet, destination, outgoing, position)
                    continue
                fragments = self._fragments(packet, mtu)
                if not fragments:
                    self._fail(outgoing, position, errno.EMSGSIZE)
                for fragment in fragments:
                    self._stage(fragment, destination, outgoing, position)
        self._flush()
        hear_of_losses(self._socket, self.family, False)
        return total - sum(len(failure.positions) for failure in self.failures)

    def _send_train(self, outgoing: Outgoing, train: Train, destination: Destination, mtu: int) -> bool:
        """False for one that cannot go out as it is."""
        header_len, size, count = len(train.header), train.size, len(train)
        protocol = train.header[9] if self.family == AF_INET else train.header[6]
        if protocol != IPPROTO_ESP or header_len + size > mtu:
            return False
        self._flush()
        header = bytes(train[0][:header_len])
        headers = header, header if len(train.esp) == count * size else bytes(train[-1][:header_len])
        for start in range(0, count, BURST):
            last = start + BURST >= count
            data = train.esp[start * size : (start + BURST) * size]
            for index, number in self._send_trains.send(
                self._socket.fileno(), headers if last else (header, header), data, size, destination, SEND_PATIENCE
            ):
                self._fail(outgoing, start + index, number)
        return True

    def mtu(self, path: Path) -> int:
        """The largest packet that goes out whole. Without a route anything: the kernel will refuse by itself."""
        route = self._router.route(path.dst, path.src, path.ifindex, path.mark)
        return route.mtu if route is not None else 65535

    def _fragments(self, packet: Buffer, mtu: int) -> list[Buffer]:
        """Empty where DF, or an MTU without room for any payload, forbids it."""
        self._identification = (self._identification + 1) & 0xFFFFFFFF
        try:
            if self.family == AF_INET6:
                return fragment_ipv6(packet, mtu, self._identification)
            if packet[6] & _DF:
                return []
            # 0 would be filled by the kernel, with another number for every fragment.
            given = int.from_bytes(packet[4:6], "big")
            return fragment_ipv4(packet, mtu, given or self._identification & 0xFFFF or 1)
        except ValueError:
            return []

    def _stage(self, packet: Buffer, destination: Destination, outgoing: Outgoing, position: int) -> None:
        self._staged.append(outgoing)
        self._positions.append(position)
        if self._send_rows.stage(packet, destination):
            self._flush()

    def _flush(self) -> None:
        if self._staged:
            for index, number in self._send_rows.send(self._socket.fileno(), SEND_PATIENCE):
                self._fail(self._staged[index], self._positions[index], number)
            self._staged.clear()
            self._positions.clear()

    def _fail(self, outgoing: Outgoing, position: int, number: int) -> None:
        """Once for each packet, however many of its fragments were refused."""
        last = self.failures[-1] if self.failures else None
        if last is None or last.outgoing is not outgoing or last.positions[-1] != position:
            self.failures.append(Failure(outgoing, range(position, position + 1), number))

    def _destination(self, path: Path) -> Destination:
        if len(self._destinations) >= _MAX_DESTINATIONS:
            self._destinations.clear()
        control = b""
        if self.family == AF_INET:
            sockaddr = struct.pack("=HH4s8x", AF_INET, 0, path.dst)
            if path.ifindex:
                control = cmsg(IPPROTO_IP, IP_PKTINFO, struct.pack("=i8x", path.ifindex))
        else:
            sockaddr = struct.pack("=HHI16sI", AF_INET6, 0, 0, path.dst, 0)
            if path.ifindex:
                # Without a source: with one the kernel only prefers the device (the header keeps its own).
                control = cmsg(IPPROTO_IPV6, IPV6_PKTINFO, struct.pack("=16xi", path.ifindex))
        if path.mark:
            control += cmsg(socket.SOL_SOCKET, SO_MARK, struct.pack("=I", path.mark))
        made = self._destinations[path] = Destination(sockaddr, control)
        return made

    def close(self) -> None:
        self._socket.close()


def explain(error: OSError, family: int) -> XfrmError:
    """Why a raw socket could not be opened, and what to do about it."""
    number = error.errno or errno.EIO
    version = 4 if family == AF_INET else 6
    if number in (errno.EPERM, errno.EACCES):
        detail = (
            f"a raw IPv{version} socket takes CAP_NET_RAW in the user namespace that owns this network "
            "namespace: run as root, or rootless inside `unshare -Urn`"
        )
    elif number == errno.EAFNOSUPPORT:
        detail = f"this kernel has no IPv{version}"
    else:
        detail = f"raw IPv{version} socket: {error.strerror}"
    return XfrmError(number, "", detail)
