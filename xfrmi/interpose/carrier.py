"""Netlink sockets of supervised programs: made, found again, filled, emptied.

See the package's theory of operation. A socket is known by its inode; what is kept about it is little, and is dropped
when a look into /proc/net/netlink no longer finds it. No descriptor of it is kept: each call brings one along, and
while that is open nobody else can get hold of the socket's port.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable

from xfrmi.dev.netns import inside
from xfrmi.interpose.bpf import AF_NETLINK, NETLINK_ROUTE, NETLINK_USERSOCK, NETLINK_XFRM
from xfrmi.interpose.world import Exchange, World
from xfrmi.interpose.worlds import Worlds

SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS = 270, 9
SO_PASSCRED, SO_PROTOCOL = 16, 38
SIOCGSKNS = 0x894C
"""A descriptor of the network namespace that a socket belongs to."""
FEW_CARRIERS = 64
"""So many more than after the last look, and it is looked again which are gone."""

_UCRED = struct.Struct("=iII")
_CONTROL = socket.CMSG_SPACE(_UCRED.size) + socket.CMSG_SPACE(64)
_U32 = struct.Struct("=I")
_AUTOBIND_FIRST, _AUTOBIND_LAST = -(1 << 31), -4097

_PROTOCOLS = {NETLINK_USERSOCK: NETLINK_XFRM, NETLINK_ROUTE: NETLINK_ROUTE}


class Carrier:
    """What is known about one netlink socket."""

    __slots__ = ("bound", "exchanges", "groups", "inode", "link_kind", "protocol", "seen_links", "waiting", "world")

    def __init__(self, inode: int, protocol: int, world: World) -> None:
        self.inode = inode
        self.protocol = protocol
        """NETLINK_XFRM or NETLINK_ROUTE, as the program asked for."""
        self.world = world
        self.bound = False
        """It has a port, and only then it is to be found in /proc/net/netlink."""
        self.groups = 0
        """Multicast groups joined, Group bits."""
        self.exchanges: deque[Exchange] = deque()
        """Requests whose answers do not fit into the queue: it goes on when something is taken out."""
        self.waiting: deque[bytes] = deque()
        """Answers for which the queue has no room yet."""
        self.link_kind: int | None = None
        """Sequence number of a dump of links that is to show xfrm devices only."""
        self.seen_links: dict[int, bytes] = {}
        """What was last announced of each xfrm device, by ifindex."""

    def close(self) -> None:
        while self.exchanges:
            self.exchanges.popleft().close()
        self.waiting.clear()


class Carriers:
    """All of them, by inode."""

    def __init__(self) -> None:
        self._carriers: dict[int, Carrier] = {}
        self._look_at = FEW_CARRIERS

    def create(self, world: World, kind: int, protocol: int) -> socket.socket:
        """A new socket in that namespace; the caller closes his copy. OSError."""
        real = NETLINK_USERSOCK if protocol == NETLINK_XFRM else NETLINK_ROUTE
        with inside(world.netns_fd):
            sock = socket.socket(AF_NETLINK, kind | socket.SOCK_CLOEXEC, real)
        if protocol == NETLINK_XFRM:
            sock.setsockopt(socket.SOL_SOCKET, SO_PASSCRED, 1)
        inode = os.fstat(sock.fileno()).st_ino
        self._carriers[inode] = Carrier(inode, protocol, world)
        if len(self._carriers) > self._look_at:
            self.forget_closed()
            self._look_at = len(self._carriers) + FEW_CARRIERS
        return sock

    def find(self, inode: int) -> Carrier | None:
        return self._carriers.get(inode)

    def adopt(self, sock: socket.socket, worlds: Worlds) -> Carrier | None:
        """A carrier that another supervisor has made. None if the socket is none."""
        if sock.family != AF_NETLINK:
            return None
        protocol = _PROTOCOLS.get(sock.getsockopt(socket.SOL_SOCKET, SO_PROTOCOL))
        if protocol is None:
            return None
        inode = os.fstat(sock.fileno()).st_ino
        carrier = self._carriers.get(inode)
        if carrier is None:
            world = worlds.at(fcntl.ioctl(sock.fileno(), SIOCGSKNS))
            carrier = self._carriers[inode] = Carrier(inode, protocol, world)
        return carrier

    def are_in(self, world: World) -> bool:
        """Does any program have a socket there? Those that nothing was done with are forgotten, if not."""
        self.forget_closed()
        here = [carrier for carrier in self._carriers.values() if carrier.world is world]
        if any(carrier.bound for carrier in here):
            return True
        for carrier in here:
            del self._carriers[carrier.inode]
        return False

    def forget_closed(self) -> None:
        """Drop what is kept about sockets that are no more, and tell the daemons who listens now."""
        for world in {carrier.world for carrier in self._carriers.values()}:
            open_now = world.sockets()
            for carrier in [c for c in self._carriers.values() if c.world is world]:
                if carrier.inode in open_now:
                    carrier.bound = True
                elif carrier.bound:
                    carrier.close()
                    del self._carriers[carrier.inode]
            self.count_listeners(world)

    def count_listeners(self, world: World) -> None:
        groups = 0
        for carrier in self._carriers.values():
            if carrier.world is world and carrier.protocol == NETLINK_XFRM:
                groups |= carrier.groups
        world.listen(groups)


def bind(sock: socket.socket, port: int, groups: int, own_port: int) -> None:
    """As bind() would do it in the program's name: port 0 is `own_port`, its process, or if that is taken any other.

    OSError as bind(). That the program may join groups is for the caller to have checked.
    """
    if port or sock.getsockname()[0]:
        sock.bind((port, groups))
        return
    try:
        sock.bind((own_port, groups))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        free = range(_AUTOBIND_FIRST, _AUTOBIND_LAST)
        while True:
            try:
                sock.bind((free[int.from_bytes(os.urandom(4)) % len(free)] & 0xFFFFFFFF, groups))
                return
            except OSError as taken:
                if taken.errno != errno.EADDRINUSE:
                    raise


def memberships(sock: socket.socket) -> int:
    """The multicast groups that a socket has joined, as Group bits (the first 32)."""
    bitmap = sock.getsockopt(SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, _U32.size)  # empty until the first is joined
    return int.from_bytes(bitmap, sys.byteorder)


def address_to(buffer: bytearray | memoryview, length: int, port: int) -> None:
    """Write the port of the addressee into each message of a datagram of answers, as the kernel does."""
    offset = 0
    while length - offset >= 16:
        (size,) = _U32.unpack_from(buffer, offset)
        _U32.pack_into(buffer, offset + 12, port)
        if size < 16:
            return
        offset += (size + 3) & ~3


def deliver(sock: socket.socket, datagram: bytes | memoryview) -> bool:
    """Put a datagram into the socket's own queue. False if there is no room for it now."""
    try:
        sock.sendto(datagram, socket.MSG_DONTWAIT, (sock.getsockname()[0], 0))
    except BlockingIOError:
        return False
    return True


def pump(carrier: Carrier, sock: socket.socket, buffer: bytearray) -> None:
    """Queue what the carrier is still owed, as far as there is room. OSError if the daemon is gone."""
    while carrier.waiting:
        if not deliver(sock, carrier.waiting[0]):
            return
        carrier.waiting.popleft()
    if not carrier.exchanges:
        return
    port = sock.getsockname()[0]
    view = memoryview(buffer)
    used = 0
    try:
        while carrier.exchanges:
            while length := carrier.exchanges[0].receive_into(buffer):
                used = max(used, length)
                address_to(buffer, length, port)
                if not deliver(sock, view[:length]):
                    carrier.waiting.append(bytes(view[:length]))
                    return
            carrier.exchanges.popleft()
    except OSError:
        carrier.exchanges.popleft()
        raise
    finally:
        view[:used] = bytes(used)  # keys went through here


class Received:
    """One datagram as a program is to see it, in the buffer that was given."""

    __slots__ = ("ancillary", "groups", "length", "port", "size")

    def __init__(
        self, length: int, size: int, port: int, groups: int, ancillary: list[tuple[int, int, bytes]]
    ) -> None:
        self.length = length
        """Bytes in the buffer."""
        self.size = size
        """Bytes that the datagram has, more than `length` if it was cut off."""
        self.port = port
        self.groups = groups
        self.ancillary = ancillary


Show = Callable[[bytearray, int], int]
"""Makes of a datagram in a buffer what a program is to see of it. Returns its new length, 0 if nothing is left."""


def receive(
    carrier: Carrier, sock: socket.socket, buffer: bytearray, room: int, peek: bool, show: Show | None
) -> Received:
    """Take (or look at) the next datagram that is for the program's eyes. OSError EAGAIN, ENOBUFS...

    `room` bytes are what the program has room for. Of NETLINK_ROUTE no more is asked, since the kernel makes the parts
    of a dump as large as the largest buffer it has seen on the socket; except that what is there is read as a whole:
    the program may have room for just what it will be shown of it.
    """
    route = carrier.protocol == NETLINK_ROUTE
    flags = socket.MSG_DONTWAIT | socket.MSG_TRUNC | (socket.MSG_PEEK if peek else 0)
    whole = memoryview(buffer)
    asked = len(buffer)
    own = sock.getsockname()[0]
    while True:
        if route:
            queued = sock.recvmsg_into((whole[:0],), 0, socket.MSG_DONTWAIT | socket.MSG_PEEK | socket.MSG_TRUNC)[0]
            asked = min(max(room, queued), len(buffer))
        size, ancillary, _, sender = sock.recvmsg_into((whole[:asked],), _CONTROL, flags)
        port, groups = sender
        length = min(size, asked)
        if not route and not _is_ours(port, own, carrier.world.hub_port, ancillary):
            if peek:
                sock.recvmsg_into((whole[:0],), 0, socket.MSG_DONTWAIT)
            continue
        if show is not None and length == size:
            length = size = show(buffer, length)
            if not size:
                if peek:
                    sock.recvmsg_into((whole[:0],), 0, socket.MSG_DONTWAIT)
                continue
        return Received(length, size, 0 if port == own or not route else port, groups, ancillary if route else [])


def _is_ours(port: int, own: int, hub: int, ancillary: list[tuple[int, int, bytes]]) -> bool:
    """From the carrier itself (nobody but we can send from it) or from the hub of a daemon we trust."""
    if port == own:
        return True
    if port != hub or not hub:
        return False
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, 2) and len(data) >= _UCRED.size:  # SCM_CREDENTIALS
            return _UCRED.unpack_from(data)[1] in (0, os.geteuid())
    return False
