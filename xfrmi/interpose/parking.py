"""Threads that wait for something to receive.

They are answered when something has come, when their time is up, or when a signal wants to be handled. Of signals with
a handler the kernel tells nobody (WAIT_KILLABLE_RECV), so they are looked for now and then; those that end the program
end it at once.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable

from xfrmi.daemon.loop import Loop
from xfrmi.interpose.calls import Incoming
from xfrmi.interpose.carrier import Carrier
from xfrmi.interpose.seccomp import Notification
from xfrmi.interpose.task import Task

SIGNAL_INTERVAL = 0.1
"""Seconds between looks for signals of threads that have come lately."""
LONG_WAIT = 10.0
LONG_INTERVAL = 0.3
"""Of those that have waited for longer than LONG_WAIT."""

ERESTARTSYS = 512
"""To the kernel: have the signal handled, then start the call again or end it with EINTR, as the handler asks."""

_TIMEVAL = struct.Struct("@qq")


class Parked:
    __slots__ = ("call", "carrier", "deadline", "look_at", "pidfd", "since", "sock", "task", "wanted")

    def __init__(
        self, call: Notification, task: Task, carrier: Carrier, sock: socket.socket, pidfd: int, wanted: Incoming
    ) -> None:
        """Takes the socket, a copy of the program's, and the pidfd."""
        self.call = call
        self.task = task
        self.carrier = carrier
        self.sock = sock
        self.pidfd = pidfd
        self.wanted = wanted
        self.since = self.look_at = 0.0
        self.deadline: float | None = None
        """When its time is up (SO_RCVTIMEO)."""


class Parking:
    """`arrived(parked)` is called when its socket is readable, and says whether it has been answered; `fail` ends a
    call with an errno, `drop` is told of one that is not answered."""

    def __init__(
        self,
        loop: Loop,
        arrived: Callable[[Parked], bool],
        fail: Callable[[Notification, int], None],
        drop: Callable[[Notification], None],
    ) -> None:
        self._loop = loop
        self._drop = drop
        self._arrived = arrived
        self._fail = fail
        self._parked: dict[int, Parked] = {}

    def add(self, parked: Parked) -> None:
        now = self._loop.clock()
        parked.since, parked.look_at = now, now + SIGNAL_INTERVAL
        timeout = parked.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.size)
        seconds, microseconds = _TIMEVAL.unpack(timeout)
        if seconds or microseconds:
            parked.deadline = now + seconds + microseconds / 1e6
        self._parked[parked.call.tid] = parked
        self._loop.watch(parked.sock.fileno(), lambda: self._readable(parked))
        self._loop.watch(parked.pidfd, lambda: self._abandon(parked))  # it has ended

    def forget(self, tid: int) -> None:
        """The thread is heard of again: it was stopped and continued, or is another of that number."""
        stale = self._parked.get(tid)
        if stale is not None:
            self._abandon(stale)

    def next_look(self) -> float | None:
        return min((self._due(parked) for parked in self._parked.values()), default=None)

    def look(self, now: float) -> None:
        for parked in list(self._parked.values()):
            if self._due(parked) > now:
                continue
            if parked.deadline is not None and now >= parked.deadline:
                self._end(parked, errno.EAGAIN)
            elif parked.task.signal_waits():
                self._end(parked, ERESTARTSYS if parked.deadline is None else errno.EINTR)
            else:
                parked.look_at = now + (LONG_INTERVAL if now - parked.since > LONG_WAIT else SIGNAL_INTERVAL)

    @staticmethod
    def _due(parked: Parked) -> float:
        return parked.look_at if parked.deadline is None else min(parked.look_at, parked.deadline)

    def _readable(self, parked: Parked) -> None:
        try:
            answered = self._arrived(parked)
        except OSError as error:
            self._end(parked, error.errno or errno.EIO)
        else:
            if answered:
                self._remove(parked)

    def _end(self, parked: Parked, number: int) -> None:
        self._fail(parked.call, number)
        self._remove(parked)

    def _abandon(self, parked: Parked) -> None:
        self._drop(parked.call)
        self._remove(parked)

    def _remove(self, parked: Parked) -> None:
        if self._parked.get(parked.call.tid) is parked:
            del self._parked[parked.call.tid]
            self._loop.unwatch(parked.sock.fileno())
            self._loop.unwatch(parked.pidfd)
            parked.sock.close()
            os.close(parked.pidfd)
