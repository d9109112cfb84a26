"""`xfrmi trace` with workers: each of them is asked, and what they tell comes to the listener as one story.

A listener is passed on. Each worker gets a connection and what the listener has asked for, and tells on it what a
daemon without workers tells: from a bounded queue, in which records get lost and counted when nobody takes them. While
nobody listens there is no connection, and no worker does anything. Who begins to listen is answered when all workers
tell; the successor of one that died may have carried a packet before.

Lines of several workers are put in order by their time. Nobody knows what a silent worker may still have to tell, so
each line is held back a little. What comes later than that is late, and told when it comes. If the listener does not
take what is held for him, no more is taken from the workers, and the records are lost there.
"""

from __future__ import annotations

import heapq
import socket
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from xfrmi.core.timers import earliest
from xfrmi.daemon.tracer import AT_ONCE, MAX_QUEUED, time_of, wanted_of
from xfrmi.daemon.worker_channel import Down, TraceWanted

if TYPE_CHECKING:
    from xfrmi.core.interface import Interfaces
    from xfrmi.daemon.loop import Loop

    Send = Callable[[int, Down, Sequence[int]], None]

HOLD = 0.2
"""Seconds a line waits for earlier ones: a burst of super-packets takes a worker half of that to trace."""


class Traces:
    """All who listen. `send(worker, message, fds)` tells a worker, `settle()` returns when all have taken in what they
    were told."""

    def __init__(
        self, workers: int, interfaces: Interfaces, loop: Loop, send: Send, settle: Callable[[], None]
    ) -> None:
        self._workers = workers
        self._interfaces = interfaces
        self._loop = loop
        self._send = send
        self._settle = settle
        self._streams: list[Merged] = []

    def subscribe(self, request: Mapping[str, Any], wake: Callable[[], None]) -> Merged:
        """As Tracer.subscribe."""
        wanted_of(request, self._interfaces)
        stream = Merged(request, self._loop, wake, self._streams.remove)
        self._streams.append(stream)
        for number in range(self._workers):
            self._pass_on(stream, number)
        self._settle()
        return stream

    def begin(self, number: int) -> None:
        """A worker is there, that knows of no listeners yet."""
        for stream in self._streams:
            self._pass_on(stream, number)

    def tick(self, now: float) -> None:
        for stream in list(self._streams):
            stream.tick(now)

    def next_deadline(self) -> float | None:
        return earliest([stream.next_deadline for stream in self._streams])

    def _pass_on(self, stream: Merged, number: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        with theirs:
            self._send(number, TraceWanted(stream.request), (theirs.fileno(),))
        stream.add(ours)


class Merged:
    """What one listener is told by all workers."""

    endless = True

    def __init__(
        self, request: Mapping[str, Any], loop: Loop, wake: Callable[[], None], closed: Callable[[Merged], None]
    ) -> None:
        self.request = dict(request)
        self._loop = loop
        self._wake = wake
        self._closed = closed
        self._sockets: dict[socket.socket, bytes] = {}
        """With the beginning of a line that has not come whole."""
        self._held: list[tuple[float, int, bytes]] = []
        self._numbers = count()
        """So that lines of one time stay in the order in which they came."""
        self._size = 0
        self._full = False
        self._due: float | None = None
        """When the listener is to be woken; None as long as there is nothing for him, or he has something to take."""

    def add(self, sock: socket.socket) -> None:
        """The connection to one more worker, which becomes ours."""
        sock.setblocking(False)
        self._sockets[sock] = b""
        if not self._full:
            self._watch(sock)

    def tick(self, now: float) -> None:
        if self._due is not None and now >= self._due:
            self._due = None
            self._wake()

    def next_deadline(self) -> float | None:
        return self._due

    def take(self) -> bytes:
        """The next lines whose time has come; empty if there are none."""
        now = self._loop.clock()
        lines: list[bytes] = []
        size = 0
        while self._held and size < AT_ONCE:
            when, _, line = self._held[0]
            if 0 <= now - when < HOLD:  # from later than now is what came before the clock was set
                break
            heapq.heappop(self._held)
            lines.append(line)
            size += len(line)
        self._size -= size
        if self._held and not lines:
            self._due = self._held[0][0] + HOLD
        if self._full and self._size < MAX_QUEUED // 2:
            self._full = False
            for sock in self._sockets:
                self._watch(sock)
        return b"".join(lines)

    def close(self) -> None:
        self._closed(self)
        for sock in list(self._sockets):
            self._drop(sock)

    def _watch(self, sock: socket.socket) -> None:
        self._loop.watch(sock.fileno(), lambda: self._readable(sock))

    def _readable(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(4 * AT_ONCE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(sock)
            return
        *lines, self._sockets[sock] = (self._sockets[sock] + data).split(b"\n")
        for line in lines:
            if (when := time_of(line)) is not None:
                heapq.heappush(self._held, (when, next(self._numbers), line + b"\n"))
                self._size += len(line) + 1
        if self._held and self._due is None:
            self._due = self._loop.clock() + HOLD
        if self._size >= MAX_QUEUED:
            self._full = True
            for other in self._sockets:
                self._loop.unwatch(other.fileno())

    def _drop(self, sock: socket.socket) -> None:
        """The worker has gone, or the listener."""
        self._loop.unwatch(sock.fileno())
        sock.close()
        del self._sockets[sock]
