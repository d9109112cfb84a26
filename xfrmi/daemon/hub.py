"""Events for programs that hold netlink sockets of their own: multicast once, the kernel does the rest.

A supervised program (xfrmi.interpose) that opens NETLINK_XFRM gets a NETLINK_USERSOCK socket, on which it binds,
joins groups and polls natively. The hub is the kernel's side of that protocol in this network namespace: whatever
happens is sent once to the group, and the kernel copies it into the queues of those who joined, or tells one whose
queue is full (ENOBUFS). Who listens at all, the hub is told by the supervisors: that decides whether events are made.

Anybody may multicast on this protocol. So supervisors let nothing in but what comes from the hub's port, which they
learn over the control socket, and look at the sender's credentials besides.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable

from xfrmi.daemon.events import Events
from xfrmi.errors import XfrmError
from xfrmi.wire.xfrm_attr import Group

NETLINK_USERSOCK = 2


class Hub:
    """A Listener of events for all whose supervisors have attached."""

    def __init__(self, events: Events, unused: Callable[[], None] = lambda: None) -> None:
        """Belongs to the network namespace of the first `attach`. `unused` is called when the last has detached."""
        self.groups = 0
        self._events = events
        self._unused = unused
        self._attached: dict[object, int] = {}
        self._socket: socket.socket | None = None

    def fileno(self) -> int | None:
        """Of the socket that events come from; None as long as nobody has attached."""
        return None if self._socket is None else self._socket.fileno()

    def adopt(self, fd: int) -> None:
        """Go on with the socket of another process, before anybody attaches."""
        self._socket = socket.socket(fileno=fd)

    def attached(self, supervisor: object) -> int | None:
        """What the programs of this one listen to; None if it is none."""
        return self._attached.get(supervisor)

    @property
    def used(self) -> bool:
        return bool(self._attached)

    def attach(self, supervisor: object, groups: int) -> int:
        """The programs of `supervisor` listen to `groups` (Group bits). Returns the port that events come from.

        XfrmError where the kernel has no such sockets.
        """
        port = self._open().getsockname()[0]
        before = self._attached.get(supervisor, 0)
        self._attached[supervisor] = groups
        self._count()
        if groups & ~before:
            self._events.greet(self)
        return int(port)

    def detach(self, supervisor: object) -> None:
        """Unknown ones are ignored."""
        if self._attached.pop(supervisor, None) is not None:
            self._count()
            if not self._attached:
                self._unused()

    def put(self, datagram: bytes, group: Group) -> None:
        """One notification to all members of the group."""
        # Beside the group a netlink message has one addressee. Port 0 is nobody here, and said so afterwards; a full
        # queue (ENOBUFS) is for its owner to hear of.
        assert self._socket is not None
        with contextlib.suppress(OSError):
            self._socket.sendto(datagram, (0, group.bit))

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def _open(self) -> socket.socket:
        if self._socket is None:
            kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            try:
                self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_USERSOCK)
                self._socket.bind((0, 0))
            except OSError as error:
                raise XfrmError(error.errno or errno.EIO, detail=f"NETLINK_USERSOCK: {error.strerror}") from None
        return self._socket

    def _count(self) -> None:
        """Be among the listeners as long as there is anybody to tell."""
        if self.groups:
            self._events.unsubscribe(self)
        self.groups = 0
        for groups in self._attached.values():
            self.groups |= groups
        if self.groups:
            self._events.add(self)
