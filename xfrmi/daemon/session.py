"""One client's connection: what it asked, what it is still owed.

Two kinds. A datagram session speaks netlink over SOCK_SEQPACKET: a request goes to the handler, its replies go out in
order, and once subscribed it also gets event notifications. A line session speaks JSON, one object a line.
Neither can hurt the daemon: requests are bounded, nothing is read while replies are owed, and events beyond the
subscriber's queue are lost to it (events.py).
"""

from __future__ import annotations

import array
import errno
import json
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from xfrmi.daemon.credentials import Credentials
from xfrmi.daemon.events import Events, Subscriber
from xfrmi.daemon.loop import Loop
from xfrmi.daemon.runtime import MAX_DATAGRAM
from xfrmi.errors import XfrmError
from xfrmi.wire import netlink
from xfrmi.wire.xfrm_msg import decode_subscription

MAX_LINE = 1 << 16
"""Longest JSON request, bytes."""

_UCRED = struct.Struct("=iII")
_FDS_SPACE = socket.CMSG_SPACE(array.array("i").itemsize)
"""A request needs one descriptor at most: the namespace a link is to move to."""

RequestHandler = Callable[[bytes, Credentials], list[bytes]]
Command = Callable[[Mapping[str, Any]], object]


def peer_credentials(connection: socket.socket) -> Credentials:
    return Credentials(*_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


def _received_fds(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, ...]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return tuple(fds)


class Session:
    """What both kinds share: a non-blocking connection in the loop, and the replies still to be sent."""

    def __init__(self, loop: Loop, connection: socket.socket, closed: Callable[[Session], None]) -> None:
        connection.setblocking(False)
        self._loop = loop
        self._connection = connection
        self._closed = closed
        self._owed: deque[bytes] = deque()
        self._blocked = False
        self.open = True
        loop.watch(connection.fileno(), self._readable)

    def close(self) -> None:
        if self.open:
            self.open = False
            self._loop.unwatch(self._connection.fileno())
            self._connection.close()
            self._closed(self)

    def _readable(self) -> None:
        try:
            self._receive()
            self._flush()
        except BlockingIOError:
            return
        except OSError:
            self.close()
        except Exception:  # ours: the client must not wait for an answer that never comes
            self.close()
            raise

    def _receive(self) -> None:
        """Read one request and append its replies to `_owed`."""
        raise NotImplementedError

    def _next(self) -> bytes | None:
        """What goes out next; None when nothing is owed."""
        return self._owed[0] if self._owed else None

    def _sent(self, count: int) -> None:
        """`count` bytes of `_next()` are out."""
        self._owed.popleft()

    def _flush(self) -> None:
        """Send what the client takes; the rest when it takes more."""
        while self.open and (message := self._next()) is not None:
            try:
                count = self._connection.send(message, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                if not self._blocked:
                    self._blocked = True
                    self._loop.want_write(self._connection.fileno(), self._flush)
                return
            except OSError:
                self.close()
                return
            self._sent(count)
        if self._blocked and self.open:
            self._blocked = False
            self._loop.want_write(self._connection.fileno(), None)


class DatagramSession(Session):
    def __init__(
        self,
        loop: Loop,
        connection: socket.socket,
        closed: Callable[[Session], None],
        handler: RequestHandler,
        events: Events,
    ) -> None:
        super().__init__(loop, connection, closed)
        self._handler = handler
        self._events = events
        self._credentials = peer_credentials(connection)
        self._subscriber: Subscriber | None = None

    def close(self) -> None:
        if self._subscriber is not None:
            self._events.unsubscribe(self._subscriber)
            self._subscriber = None
        super().close()

    def _receive(self) -> None:
        datagram, ancillary, flags, _ = self._connection.recvmsg(MAX_DATAGRAM, _FDS_SPACE, socket.MSG_CMSG_CLOEXEC)
        fds = _received_fds(ancillary)
        try:
            self._take(datagram, flags, self._credentials._replace(fds=fds))
        finally:
            for fd in fds:
                os.close(fd)

    def _take(self, datagram: bytes, flags: int, credentials: Credentials) -> None:
        if flags & socket.MSG_TRUNC:
            too_long = XfrmError(errno.EMSGSIZE, detail=f"a request has at most {MAX_DATAGRAM} bytes")
            self._owed.append(netlink.refusal(netlink.header_of(datagram), too_long))
        elif len(datagram) < netlink.NLMSG_HDRLEN:  # the end, or nothing that could be answered
            self.close()
        elif netlink.header_of(datagram).type == netlink.NLMSG_SUBSCRIBE:
            self._subscribe(datagram)
        else:
            self._owed.extend(self._handler(datagram, credentials))

    def _subscribe(self, datagram: bytes) -> None:
        """The groups wanted from now on replace those wanted before."""
        try:
            request = next(netlink.split(datagram))
            groups = decode_subscription(request)
        except XfrmError as failure:
            self._owed.append(netlink.refusal(netlink.header_of(datagram), failure))
            return
        self._owed.append(netlink.ack(request))
        if self._subscriber is not None:
            self._events.unsubscribe(self._subscriber)
        self._subscriber = self._events.subscribe(groups, self._flush)

    def _next(self) -> bytes | None:
        if self._owed:
            return self._owed[0]
        return self._subscriber.peek() if self._subscriber is not None else None

    def _sent(self, count: int) -> None:
        if self._owed:
            self._owed.popleft()
        elif self._subscriber is not None:
            self._subscriber.pop()


class LineSession(Session):
    """{"cmd": NAME, ...} -> {"result": ...} or {"error": SENTENCE, "errno": N}."""

    def __init__(
        self,
        loop: Loop,
        connection: socket.socket,
        closed: Callable[[Session], None],
        commands: Mapping[str, Command],
    ) -> None:
        super().__init__(loop, connection, closed)
        self._commands = commands
        self._input = b""

    def _receive(self) -> None:
        data = self._connection.recv(MAX_LINE)
        if not data:
            self.close()
            return
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            self._owed.append(self._answer(line))
        if len(self._input) > MAX_LINE:
            self._flush()
            self.close()

    def _answer(self, line: bytes) -> bytes:
        try:
            request = json.loads(line)
            command = self._commands[request["cmd"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            known = ", ".join(sorted(self._commands))
            error = f'a request is one line such as {{"cmd": "stat"}}; known commands: {known}'
            answer: dict[str, object] = {"error": error, "errno": errno.EINVAL}
        else:
            try:
                answer = {"result": command(request)}
            except XfrmError as refused:
                answer = {"error": str(refused), "errno": refused.errno}
        return json.dumps(answer).encode() + b"\n"

    def _sent(self, count: int) -> None:
        self._owed[0] = self._owed[0][count:]
        if not self._owed[0]:
            self._owed.popleft()
