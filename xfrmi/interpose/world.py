"""One network namespace as supervised programs meet it: its daemon, who may configure it, and who listens there.

Everything is asked of the daemon synchronously and with a time limit, as a request to the kernel would be carried out
in the system call that makes it. A connection serves one request at a time; a dump that its reader takes slowly keeps
its connection until it is read or given up.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import socket
import struct
from collections.abc import Callable

from xfrmi.client.channel import connect
from xfrmi.daemon import runtime
from xfrmi.daemon.loop import Loop
from xfrmi.dev.netns import inside
from xfrmi.errors import XfrmError
from xfrmi.interpose.starter import Starter
from xfrmi.wire import netlink

PATIENCE = 10.0
"""Seconds to wait for the daemon. It answers in well under a millisecond; this is for one that was stopped."""
IDLE_CONNECTIONS = 4
RETURN_INTERVAL = 0.5
"""Seconds between looks for a daemon that has ended while somebody listens."""

NS_GET_USERNS, NS_GET_PARENT = 0xB701, 0xB702

_U32 = struct.Struct("=I")
_UCRED = struct.Struct("=iII")
_END_TYPE = struct.Struct("=4xH")


class Exchange:
    """A request on its way: answers are taken one datagram at a time, in the caller's buffer."""

    def __init__(self, connection: socket.socket, release: Callable[[socket.socket, bool], None]) -> None:
        self._connection: socket.socket | None = connection
        self._release = release

    def receive_into(self, buffer: bytearray) -> int:
        """The length of the next datagram of answers; 0 when that was all. OSError if the daemon is gone or silent."""
        if self._connection is None:
            return 0
        try:
            length = self._connection.recv_into(buffer)
        except TimeoutError:
            self.close()
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
        except OSError:
            self.close()
            raise
        if length < netlink.NLMSG_HDRLEN:
            self.close()
            raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        if _END_TYPE.unpack_from(buffer)[0] == netlink.NLMSG_ENVELOPE:
            connection, self._connection = self._connection, None
            self._release(connection, True)
            length -= netlink.NLMSG_HDRLEN
            view = memoryview(buffer)
            view[:length] = view[netlink.NLMSG_HDRLEN :][:length]
            view[length : length + netlink.NLMSG_HDRLEN] = bytes(netlink.NLMSG_HDRLEN)
        return length

    def close(self) -> None:
        """Give up what has not been taken."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            self._release(connection, False)


class World:
    def __init__(self, netns_fd: int, starter: Starter, loop: Loop) -> None:
        """Takes the descriptor."""
        self._loop = loop
        self.netns_fd = netns_fd
        self.inode = os.fstat(netns_fd).st_ino
        self.owners = _owners(netns_fd)
        """User namespaces in which CAP_NET_ADMIN counts here: the owner's and those around it."""
        self.hub_port = 0
        """Where events come from; 0 as long as there is no daemon."""
        self._path = f"/proc/self/fd/{netns_fd}"
        self._starter = starter
        self._idle: dict[str, list[socket.socket]] = {runtime.XFRM_SOCKET: [], runtime.ROUTE_SOCKET: []}
        self._attachment: socket.socket | None = None
        self._groups = 0
        self._shared: dict[tuple[int, int, str], int] = {}
        """Process descriptors of IKE daemons, by family, number and address of the UDP port they share."""
        self.had_daemon = False
        self._is_anothers = False
        """The daemon was there before us. If it ends, whoever started it is to start it again."""
        self.look_at: float | None = None
        """When to look whether a daemon has come back."""

    # The daemon

    def attach(self, start: bool) -> bool:
        """Be in touch with the daemon, with `start` one that is started if there is none. False if there is none.

        XfrmError if one was to be started and did not come up.
        """
        if self._attachment is not None and self._alive(self._attachment):
            return True
        self._hang_up()
        # A daemon that is just ending may be found, and hang up: hence once more.
        for attempt in range(3):
            with contextlib.suppress(XfrmError, OSError):
                self._attach()
                self.had_daemon = True
                self._is_anothers = self.inode not in self._starter.started
                self.look_at = None
                return True
            if not start or self._is_anothers:
                return False
            if attempt < 2:
                self._starter.start(self.netns_fd)
        return False

    def look(self) -> None:
        """Is there a daemon again? To be called when `look_at` has come."""
        self.look_at = self._loop.clock() + RETURN_INTERVAL
        with contextlib.suppress(XfrmError):  # none can be started: one may come by itself
            self.attach(start=True)

    def listen(self, groups: int) -> None:
        """Supervised programs listen to these groups here."""
        if groups != self._groups:
            self._groups = groups
            if self._attachment is not None:
                with contextlib.suppress(XfrmError, OSError):
                    self._tell_groups(self._attachment)

    def request(self, name: str, datagram: bytearray | memoryview, fds: tuple[int, ...] = ()) -> Exchange:
        """Hand a datagram of requests to the daemon's socket `name`. OSError ECONNREFUSED if there is none."""
        envelope = netlink.message(netlink.NLMSG_ENVELOPE, 0, 0, 0)
        # What was idle may have been hung up on by a daemon that has ended; a new connection tells.
        for fresh in (False, True):
            connection = self._connection(name, fresh)
            try:
                if fds:
                    socket.send_fds(connection, [envelope, datagram], list(fds))
                else:
                    connection.sendmsg((envelope, datagram))
            except OSError as error:
                connection.close()
                if fresh or error.errno == errno.EMSGSIZE:
                    raise
                continue
            return Exchange(connection, lambda connection, whole: self._release(name, connection, whole))
        raise AssertionError

    def command(self, name: str, fds: tuple[int, ...] = (), **arguments: object) -> dict[str, object]:
        """One of the daemon's JSON commands. XfrmError, OSError."""
        with connect(self._path, runtime.JSON_SOCKET, socket.SOCK_STREAM, PATIENCE) as connection:
            socket.send_fds(connection, [json.dumps({"cmd": name} | arguments).encode() + b"\n"], list(fds))
            with connection.makefile("rb") as lines:
                answer = json.loads(lines.readline() or b"{}")
        if "result" not in answer:
            raise XfrmError(answer.get("errno", errno.ECONNRESET), detail=answer.get("error", "the daemon hung up"))
        return dict(answer["result"] or {})

    @property
    def daemon_pid(self) -> int:
        """As our PID namespace counts; 0 without one. Who took our connections over would show on a new one only."""
        try:
            with connect(self._path, runtime.XFRM_SOCKET, socket.SOCK_SEQPACKET, PATIENCE) as fresh:
                credentials = fresh.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        except XfrmError:
            return 0
        return int(_UCRED.unpack(credentials)[0])

    def share_port(self, family: int, port: int, address: str, holder: int) -> None:
        """Have the daemon share a UDP port with the process of `holder`, a process descriptor that is taken; also one
        that comes after it. XfrmError, OSError."""
        before = self._shared.pop((family, port, address), None)
        if before is not None:
            os.close(before)
        self._shared[family, port, address] = holder
        self.command("share-port", (holder,), family=family, port=port, address=address)

    def close(self) -> None:
        self._hang_up()
        for holder in self._shared.values():
            os.close(holder)
        os.close(self.netns_fd)

    def sockets(self) -> frozenset[int]:
        """Inodes of all netlink sockets in here."""
        with inside(self.netns_fd), open("/proc/thread-self/net/netlink", "rb") as table:
            return frozenset(int(line.split()[-1]) for line in table.read().splitlines()[1:])

    def _attach(self) -> None:
        connection = connect(self._path, runtime.XFRM_SOCKET, socket.SOCK_SEQPACKET, PATIENCE)
        try:
            self.hub_port = self._tell_groups(connection)
        except BaseException:
            connection.close()
            raise
        self._attachment = connection
        self._loop.watch(connection.fileno(), self._lost)
        for (family, port, address), holder in list(self._shared.items()):
            if _readable(holder):  # it has ended
                os.close(self._shared.pop((family, port, address)))
            else:
                with contextlib.suppress(XfrmError, OSError):
                    self.command("share-port", (holder,), family=family, port=port, address=address)

    def _lost(self) -> None:
        """The daemon has ended. Who only listens would never find out; one that comes after it has to be found."""
        self._hang_up()
        if self._groups:
            self.look_at = self._loop.clock()

    def _tell_groups(self, connection: socket.socket) -> int:
        connection.send(netlink.message(netlink.NLMSG_ATTACH, 0, 0, 0, _U32.pack(self._groups)))
        for answer in netlink.split(connection.recv(1 << 16)):
            if answer.type == netlink.NLMSG_ATTACH and len(answer.body) >= _U32.size:
                return netlink.get_u32(answer.body)
            netlink.raise_error(answer)
        raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    @staticmethod
    def _alive(connection: socket.socket) -> bool:
        """Nothing comes on an attachment unasked, so that what is readable is its end."""
        return not _readable(connection.fileno())

    def _hang_up(self) -> None:
        self.hub_port = 0
        if self._attachment is not None:
            self._loop.unwatch(self._attachment.fileno())
            self._attachment.close()
            self._attachment = None
        for idle in self._idle.values():
            while idle:
                idle.pop().close()

    def _connection(self, name: str, fresh: bool) -> socket.socket:
        if self._idle[name] and not fresh:
            return self._idle[name].pop()
        try:
            return connect(self._path, name, socket.SOCK_SEQPACKET, PATIENCE)
        except XfrmError as error:
            raise OSError(error.errno, error.strerror) from None

    def _release(self, name: str, connection: socket.socket, whole: bool) -> None:
        idle = self._idle[name]
        if whole and len(idle) < IDLE_CONNECTIONS:
            idle.append(connection)
        else:
            connection.close()


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _owners(netns_fd: int) -> frozenset[int]:
    """Empty where the namespace belongs to a user namespace around ours: nobody we can see may do anything there."""
    found: set[int] = set()
    fd, request = netns_fd, NS_GET_USERNS
    try:
        while True:
            above = fcntl.ioctl(fd, request)
            if fd != netns_fd:
                os.close(fd)
            fd, request = above, NS_GET_PARENT
            found.add(os.fstat(fd).st_ino)
    except OSError:
        if fd != netns_fd:
            os.close(fd)
    return frozenset(found)
