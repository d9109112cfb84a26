"""What the two kinds of underlay sockets share: option numbers that Python does not name, and buffer sizes."""

from __future__ import annotations

import contextlib
import socket
import struct

IP_PKTINFO = 8
IPV6_RECVPKTINFO, IPV6_PKTINFO, IPV6_RECVHOPLIMIT, IPV6_HOPLIMIT = 49, 50, 51, 52
IPV6_FLOWINFO = 11
"""Received with it: traffic class and flow label, in network order; absent when both are 0."""
SO_MARK = 36

SEND_PATIENCE = 0.01
"""Seconds to wait, in one burst, for a full socket buffer: a sender that outruns the wire is held back by this."""

_SO_SNDBUFFORCE, _SO_RCVBUFFORCE, _SO_MEMINFO = 32, 33, 55
_MEMINFO_DROPS = 8
_RECEIVE_BUFFER = 8 << 20
_SEND_BUFFER = 1 << 20


def enlarge_buffers(sock: socket.socket) -> None:
    """A burst of a fast sender must fit while we are busy. Past the system's limit only with CAP_NET_ADMIN."""
    for plain, forced, size in (
        (socket.SO_RCVBUF, _SO_RCVBUFFORCE, _RECEIVE_BUFFER),
        (socket.SO_SNDBUF, _SO_SNDBUFFORCE, _SEND_BUFFER),
    ):
        sock.setsockopt(socket.SOL_SOCKET, plain, size)
        with contextlib.suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, forced, size)


def drain_errors(sock: socket.socket) -> None:
    """Take ICMP errors off the error queue, which would keep the socket readable. The kernel has acted on them."""
    with contextlib.suppress(BlockingIOError):
        for _ in range(64):
            sock.recvmsg(0, 0, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)


def receive_drops(sock: socket.socket) -> int:
    """Datagrams that the kernel dropped at a full receive buffer since the socket was made."""
    memory = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 64)
    return int(struct.unpack_from("=I", memory, _MEMINFO_DROPS * 4)[0])
