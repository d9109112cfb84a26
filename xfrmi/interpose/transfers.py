"""What goes through the sockets of supervised programs: sent on them, and received."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import TYPE_CHECKING

from xfrmi.interpose import calls
from xfrmi.interpose.bpf import NETLINK_ROUTE, NETLINK_XFRM
from xfrmi.interpose.calls import Incoming
from xfrmi.interpose.carrier import Carrier, bind, pump, receive
from xfrmi.interpose.link_news import LinkNews
from xfrmi.interpose.links import Links
from xfrmi.interpose.requests import send_xfrm
from xfrmi.interpose.seccomp import Listener, Notification
from xfrmi.interpose.task import MOST_IOVECS, Task

if TYPE_CHECKING:
    from xfrmi.interpose.trace import Trace

LONGEST = 1 << 18
"""Bytes of a datagram: more than a netlink socket's queue takes by default."""
MOST_MESSAGES = MOST_IOVECS
"""Of one call; the kernel, too, does no more of them."""


class Transfers:
    def __init__(self, listener: Listener, links: Links, news: LinkNews, trace: Trace | None) -> None:
        self._listener = listener
        self._links = links
        self._news = news
        self._trace = trace
        self._request = bytearray(LONGEST)
        self._buffer = bytearray(LONGEST)

    def send(self, task: Task, call: Notification, name: str, carrier: Carrier, sock: socket.socket) -> None:
        """Carry out a call that sends, and answer it. OSError if its first message cannot be sent."""
        vector = name == "sendmmsg"
        if vector and carrier.protocol == NETLINK_ROUTE and not task.may_configure(carrier.world.owners):
            self._listener.resume(call)  # nothing in it can be ours to do, and all is to be done in its own name
            return
        result = 0
        for number in range(min(call.args[2] & 0xFFFFFFFF, MOST_MESSAGES) if vector else 1):
            try:
                sent = self._send_one(task, call, name, carrier, sock, number if vector else None)
            except OSError:  # of the first it is the answer, of another the answer to the next call
                if not number:
                    raise
                break
            if sent is None:
                return
            result = sent
        self._listener.answer(call, result)

    def _send_one(
        self, task: Task, call: Notification, name: str, carrier: Carrier, sock: socket.socket, number: int | None
    ) -> int | None:
        """One message, with its number if there may be others. What the system call returns if it is the last; None if
        it needs no answer any more."""
        request = memoryview(self._request)
        used = 0
        outgoing = calls.outgoing(task, name, call, number or 0)
        if not 0 < outgoing.length <= LONGEST:
            error = errno.EMSGSIZE if outgoing.length else errno.ENODATA
            raise OSError(error, os.strerror(error))
        if outgoing.port and carrier.protocol == NETLINK_XFRM:
            raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        try:
            used = task.read_into(self._request, outgoing.spans)
            if not sock.getsockname()[0]:
                bind(sock, 0, 0, task.port())
            carrier.bound = True
            if not number and not self._listener.is_waiting(call):
                return None
            if self._trace:
                self._trace.sent(task, carrier, request[:used])
            if carrier.protocol == NETLINK_XFRM:
                send_xfrm(carrier, sock, task, request[:used], self._buffer)
            elif outgoing.port or not self._links.send(carrier, sock, task, request[:used]):
                if number is None:
                    self._listener.resume(call)
                    return None
                sock.sendto(request[:used], (outgoing.port, 0))
        finally:
            request[:used] = bytes(used)  # keys may have been in there
        return outgoing.done(task)

    def deliver(self, call: Notification, task: Task, carrier: Carrier, sock: socket.socket, wanted: Incoming) -> bool:
        """Answer with the next datagram, or as many as there are where that is asked for. False if there is none."""
        if (result := self._deliver_one(task, carrier, sock, wanted)) is None:
            return False
        if not wanted.flags & socket.MSG_PEEK:
            with contextlib.suppress(OSError):  # what is in the way is found by the next call
                for number in range(1, min(wanted.vector, MOST_MESSAGES)):
                    also = calls.incoming(task, "recvmmsg", call, number)
                    if (more := self._deliver_one(task, carrier, sock, also)) is None:
                        break
                    result = more
        self._listener.answer(call, result)
        return True

    def _deliver_one(self, task: Task, carrier: Carrier, sock: socket.socket, wanted: Incoming) -> int | None:
        """What the system call returns if it is the last; None if there is no datagram."""
        peek = bool(wanted.flags & socket.MSG_PEEK)
        show = self._news.show(carrier, peek) if carrier.protocol == NETLINK_ROUTE else None
        try:
            received = receive(carrier, sock, self._buffer, wanted.room, peek, show)
        except BlockingIOError:
            return None
        try:
            count = wanted.deliver(task, received, self._buffer)
            if self._trace and not peek:
                self._trace.received(task, carrier, memoryview(self._buffer)[: received.length])
        finally:
            self._buffer[: received.length] = bytes(received.length)
        if not peek:
            with contextlib.suppress(OSError):  # who waits for the rest of a dump finds out
                pump(carrier, sock, self._buffer)
        return count
