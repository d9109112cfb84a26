"""One client's connection: what it asked, what it is still owed.

Two kinds. A datagram session speaks netlink over SOCK_SEQPACKET: a request goes to the handler, its replies go out in
order, and once subscribed it also gets event notifications. A line session speaks JSON, one object a line.
Neither can hurt the daemon: requests are bounded, nothing is read while replies are owed, long replies are made and
sent a piece a turn, and events beyond the subscriber's queue are lost to it (events.py).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from xfrmi.daemon.credentials import Credentials
from xfrmi.daemon.descriptors import received_fds, room_for
from xfrmi.daemon.events import Events, Subscriber
from xfrmi.daemon.handover_format import Client
from xfrmi.daemon.hub import Hub
from xfrmi.daemon.loop import Loop
from xfrmi.daemon.runtime import MAX_DATAGRAM
from xfrmi.errors import XfrmError
from xfrmi.wire import netlink
from xfrmi.wire.xfrm_msg import decode_subscription, encode_subscription

MAX_LINE = 1 << 16
"""Longest JSON request, bytes."""
MAX_OWED = 256
"""Messages that a session may be owed by one process and sent by another. Who is owed more is hung up on."""
MESSAGES_A_TURN = 8
"""What a session may send before it is the others' turn: some 70 states of a dump, a millisecond's work."""

_UCRED = struct.Struct("=iII")
_FDS_SPACE = room_for(1)
"""A request needs one descriptor at most: the namespace a link is to move to."""


class Stream(Protocol):
    """Lines for a client who listens."""

    @property
    def endless(self) -> bool:
        """Is there always more to come?"""

    def take(self) -> bytes:
        """The next ones, whole lines; empty if there are none."""

    def close(self) -> None: ...


StreamCommand = Callable[[Mapping[str, Any], Callable[[], None]], Stream]
"""Given the request, and what to call when there is something to take. Raises XfrmError."""

RequestHandler = Callable[[bytes, Credentials], Iterator[bytes]]
Command = Callable[[Mapping[str, Any]], object]


def peer_credentials(connection: socket.socket) -> Credentials:
    return Credentials(*_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))


class _Received(NamedTuple):
    data: bytes
    is_cut: bool
    """It was a datagram longer than there is room for."""
    fds: tuple[int, ...]


class Session:
    """What both kinds share: a non-blocking connection in the loop, and the replies still to be sent."""

    _room: int
    """Bytes taken in at once."""

    def __init__(self, loop: Loop, connection: socket.socket, closed: Callable[[Session], None]) -> None:
        connection.setblocking(False)
        self._loop = loop
        self._connection = connection
        self._closed = closed
        self._replies: Iterator[bytes] = iter(())
        self._unsent = b""
        self._waiting = False
        """More is to be sent in a later turn; reading pauses until then."""
        self.open = True
        loop.watch(connection.fileno(), self._readable, patient=True)

    def save(self, door: str) -> Client | None:
        """What another process needs to go on with the connection; it may be gone on with here as well. None where
        too much is owed."""
        owed = [self._unsent] if self._unsent else []
        owed += itertools.islice(self._replies, MAX_OWED)
        if len(owed) < MAX_OWED:
            owed += self._take_all()
        self._replies, self._unsent = itertools.chain(owed, self._replies), b""
        if len(owed) >= MAX_OWED:
            return None
        return Client(door, tuple(owed), b"", None, (), None, None)

    def resume(self, saved: Client) -> None:
        """Go on for another process, which has said this."""
        self._replies = iter(saved.owed)
        self._resume(saved)
        self._flush()

    def _resume(self, saved: Client) -> None:
        """What only one kind has; what is owed goes out before what this brings about."""

    def fileno(self) -> int:
        return self._connection.fileno()

    def _take_all(self) -> Iterable[bytes]:
        """What would go out when no reply is owed, and is not kept elsewhere."""
        return ()

    def close(self) -> None:
        if self.open:
            self.open = False
            self._loop.unwatch(self._connection.fileno())
            self._connection.close()
            self._replies = iter(())
            self._closed(self)

    def _receive(self) -> _Received:
        """What the client sent, off the socket. OSError ends the session."""
        data, ancillary, flags, _ = self._connection.recvmsg(self._room, _FDS_SPACE, socket.MSG_CMSG_CLOEXEC)
        return _Received(data, bool(flags & socket.MSG_TRUNC), received_fds(ancillary))

    def _answer(self, received: _Received) -> Iterable[bytes]:
        """What answers it, in pieces that are made when they are taken. Its descriptors are closed before that."""
        raise NotImplementedError

    def _unasked(self) -> bytes:
        """What goes out when no reply is owed; empty if nothing does."""
        return b""

    def _readable(self) -> None:
        try:
            received = self._receive()
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        try:
            self._replies = iter(self._answer(received))
        except Exception:  # ours: the client must not wait for an answer that never comes
            self.close()
            raise
        finally:
            for fd in received.fds:
                os.close(fd)
        self._flush()

    def _wake(self) -> None:
        """There is something to be sent unasked. It has to wait if something else is waiting already."""
        if not self._waiting and self.open:
            self._flush()

    def _flush(self) -> None:
        """Send a few messages; what is left waits for the next turn, or until the client takes more."""
        try:
            for _ in range(MESSAGES_A_TURN):
                self._unsent = self._unsent or next(self._replies, b"") or self._unasked()
                if not self._unsent:
                    self._wait(False)
                    return
                sent = self._connection.send(self._unsent, socket.MSG_NOSIGNAL)
                self._unsent = self._unsent[sent:]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        except Exception:
            self.close()
            raise
        self._wait(True)

    def _wait(self, waiting: bool) -> None:
        if waiting != self._waiting and self.open:
            self._waiting = waiting
            self._loop.want_write(self._connection.fileno(), self._flush if waiting else None)


class DatagramSession(Session):
    _room = MAX_DATAGRAM

    def __init__(
        self,
        loop: Loop,
        connection: socket.socket,
        closed: Callable[[Session], None],
        handler: RequestHandler,
        events: Events,
        hub: Hub,
    ) -> None:
        super().__init__(loop, connection, closed)
        self._handler = handler
        self._events = events
        self._hub = hub
        self._credentials = peer_credentials(connection)
        self._subscriber: Subscriber | None = None

    def save(self, door: str) -> Client | None:
        saved = super().save(door)
        if saved is not None and self._subscriber is not None:
            saved = replace(saved, groups=self._subscriber.groups, notices=self._subscriber.queued)
        return saved and replace(saved, attached=self._hub.attached(self))

    def _resume(self, saved: Client) -> None:
        if saved.groups is not None:
            self._subscriber = self._events.subscribe(saved.groups, self._wake)
            for notice in saved.notices:
                self._subscriber.put(notice)
        if saved.attached is not None:
            self._hub.attach(self, saved.attached)

    def close(self) -> None:
        if self._subscriber is not None:
            self._events.unsubscribe(self._subscriber)
            self._subscriber = None
        self._hub.detach(self)
        super().close()

    def _answer(self, received: _Received) -> Iterable[bytes]:
        datagram = received.data
        if len(datagram) < netlink.NLMSG_HDRLEN:  # the end, or nothing that could be answered
            self.close()
            return ()
        request = netlink.header_of(datagram)
        if received.is_cut:
            too_long = XfrmError(errno.EMSGSIZE, detail=f"a request has at most {MAX_DATAGRAM} bytes")
            return (netlink.refusal(request, too_long),)
        if request.type == netlink.NLMSG_SUBSCRIBE:
            return (self._subscribe(datagram),)
        if request.type == netlink.NLMSG_ATTACH:
            return self._attach(datagram)
        credentials = self._credentials._replace(fds=received.fds)
        if request.type == netlink.NLMSG_ENVELOPE:
            return _enveloped(request, self._handler(datagram[netlink.NLMSG_HDRLEN :], credentials))
        return self._handler(datagram, credentials)

    def _subscribe(self, datagram: bytes) -> bytes:
        """The groups wanted from now on replace those wanted before."""
        try:
            request = next(netlink.split(datagram))
            groups = decode_subscription(request)
        except XfrmError as failure:
            return netlink.refusal(netlink.header_of(datagram), failure)
        if self._subscriber is not None:
            self._events.unsubscribe(self._subscriber)
        self._subscriber = self._events.subscribe(groups, self._wake)
        return netlink.ack(request)

    def _attach(self, datagram: bytes) -> Iterable[bytes]:
        """Speak for programs that listen on netlink, or tell anew what they listen to."""
        try:
            request = next(netlink.split(datagram))
            port = self._hub.attach(self, decode_subscription(request))
        except XfrmError as failure:
            return (netlink.refusal(netlink.header_of(datagram), failure),)
        return (netlink.message(netlink.NLMSG_ATTACH, 0, request.seq, request.pid, encode_subscription(port)),)

    def _unasked(self) -> bytes:
        return self._subscriber.take() if self._subscriber is not None else b""


def _enveloped(request: netlink.Message, answers: Iterable[bytes]) -> Iterator[bytes]:
    """The envelope stands before the last datagram of answers, or alone: that most answers are of one piece spares both
    ends a system call, and the machine a change of process."""
    last = b""
    for datagram in answers:
        if last:
            yield last
        last = datagram
    yield netlink.message(netlink.NLMSG_ENVELOPE, 0, request.seq, 0) + last


class LineSession(Session):
    """{"cmd": NAME, ...} -> {"result": ...} or {"error": SENTENCE, "errno": N}; after some, lines without end."""

    _room = MAX_LINE

    def __init__(
        self,
        loop: Loop,
        connection: socket.socket,
        closed: Callable[[Session], None],
        commands: Mapping[str, Command],
        streams: Mapping[str, StreamCommand],
    ) -> None:
        super().__init__(loop, connection, closed)
        self._commands = commands
        self._streams = streams
        self._stream: Stream | None = None
        self._asked: Mapping[str, Any] = {}
        """What the stream is the answer to."""
        self._input = b""

    def save(self, door: str) -> Client | None:
        saved = super().save(door)
        stream = dict(self._asked) if self._stream is not None and self._stream.endless else None
        return saved and replace(saved, heard=self._input, stream=stream)

    def _resume(self, saved: Client) -> None:
        self._input = saved.heard
        if saved.stream is not None:
            with contextlib.suppress(XfrmError):  # of an interface that has gone
                self.listen(saved.stream)

    def _take_all(self) -> Iterable[bytes]:
        return iter(self._stream.take, b"") if self._stream is not None else ()

    def close(self) -> None:
        self._close_stream()
        super().close()

    def _close_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _answer(self, received: _Received) -> Iterable[bytes]:
        """Descriptors belong to the lines that end in what they came with."""
        *lines, self._input = (self._input + received.data).split(b"\n")
        if not received.data or len(self._input) > MAX_LINE:
            self.close()
            return ()
        if received.fds:
            return [self._answer_line(line, received.fds) for line in lines]
        return map(self._answer_line, lines)

    def _answer_line(self, line: bytes, fds: tuple[int, ...] = ()) -> bytes:
        try:
            request = json.loads(line) | {"fds": fds}
            name = request["cmd"]
            command = self.listen if name in self._streams else self._commands[name]
        except (ValueError, KeyError, TypeError, RecursionError):
            known = ", ".join(sorted({*self._commands, *self._streams}))
            error = f'a request is one line such as {{"cmd": "stat"}}; known commands: {known}'
            answer: dict[str, object] = {"error": error, "errno": errno.EINVAL}
        else:
            try:
                answer = {"result": command(request)}
            except XfrmError as refused:
                answer = {"error": refused.detail or str(refused), "errno": refused.errno}
        return json.dumps(answer).encode() + b"\n"

    def listen(self, request: Mapping[str, Any]) -> object:
        """What the stream has to say follows the answer, a line each, as long as the client stays."""
        self._close_stream()
        self._stream = self._streams[request["cmd"]](request, self._wake)
        self._asked = request
        return {}

    def _unasked(self) -> bytes:
        return self._stream.take() if self._stream is not None else b""
