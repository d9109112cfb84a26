"""What is sent on a NETLINK_XFRM carrier: handed to the daemon, and answered on the carrier before the call returns."""

from __future__ import annotations

import errno
import os
import socket

from xfrmi.daemon.runtime import MAX_DATAGRAM, XFRM_SOCKET
from xfrmi.errors import XfrmError
from xfrmi.interpose.carrier import Carrier, address_to, deliver, pump
from xfrmi.interpose.task import Task
from xfrmi.wire import netlink
from xfrmi.wire.netlink import NLM_F_REQUEST, NLMSG_HDRLEN, NLMSG_MIN_TYPE

LONGEST = MAX_DATAGRAM - NLMSG_HDRLEN
"""Bytes of a datagram that the daemon takes."""


def ask_daemon(
    carrier: Carrier,
    sock: socket.socket,
    name: str,
    request: memoryview,
    buffer: bytearray,
    fds: tuple[int, ...] = (),
) -> None:
    """Have the requests of a datagram carried out by the daemon's socket `name`, and its answers queued.

    OSError ECONNREFUSED if there is no daemon.
    """
    world = carrier.world
    if not world.hub_port and not world.attach(start=True):
        raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    try:
        exchange = world.request(name, request, fds)
    except OSError as error:
        if error.errno == errno.EMSGSIZE or not world.attach(start=True):
            raise
        exchange = world.request(name, request, fds)
    carrier.exchanges.append(exchange)
    pump(carrier, sock, buffer)


def send_xfrm(carrier: Carrier, sock: socket.socket, task: Task, request: memoryview, buffer: bytearray) -> None:
    """OSError ECONNREFUSED if there is no daemon, EMSGSIZE."""
    if len(request) > LONGEST:
        raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
    if not task.may_configure(carrier.world.owners):
        refuse(carrier, sock, request, XfrmError(errno.EPERM))
        return
    ask_daemon(carrier, sock, XFRM_SOCKET, request, buffer)


def refuse(carrier: Carrier, sock: socket.socket, request: memoryview, failure: XfrmError) -> None:
    """Answer every request of a datagram with this."""
    port = sock.getsockname()[0]
    try:
        for message in netlink.split(request):
            if message.flags & NLM_F_REQUEST and message.type >= NLMSG_MIN_TYPE:
                answer(carrier, sock, netlink.refusal(message, failure), port)
    except XfrmError:
        pass  # impossible framing ends it, without a word


def answer(carrier: Carrier, sock: socket.socket, datagram: bytes, port: int) -> None:
    """Queue one datagram of ours, behind what is owed already."""
    addressed = bytearray(datagram)
    address_to(addressed, len(addressed), port)
    if carrier.waiting or not deliver(sock, memoryview(addressed)):
        carrier.waiting.append(bytes(addressed))
