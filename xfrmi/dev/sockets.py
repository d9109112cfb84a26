"""What the two kinds of underlay sockets share: option numbers that Python does not name, and buffer sizes."""

from __future__ import annotations

import errno
import os
import socket
import struct

IP_PKTINFO = 8
IPV6_RECVPKTINFO, IPV6_PKTINFO, IPV6_RECVHOPLIMIT, IPV6_HOPLIMIT = 49, 50, 51, 52
IPV6_FLOWINFO = 11
"""Received with it: traffic class and flow label, in network order; absent when both are 0."""
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER = 10, 23
PMTUDISC_PROBE, PMTUDISC_INTERFACE, PMTUDISC_OMIT = 3, 4, 5
"""None of them looks at path MTUs that the kernel has learned. PROBE sets DF and refuses what the device cannot carry;
with the others an ICMP error teaches the kernel nothing either, DF is clear, and OMIT fragments."""
SO_MARK = 36

SEND_PATIENCE = 0.01
"""Seconds to wait, in one burst, for a full socket buffer: a sender that outruns the wire is held back by this."""

LOST = errno.EPERM, errno.ENOBUFS
"""What sending reports of the packet itself: netfilter or a full queue has taken it. Anything else may be an ICMP error
about an earlier one, reported once, and then this one has not been tried."""
ATTEMPTS = 3
"""How often to try, because of that."""

_RECVERR = {int(socket.AF_INET): (int(socket.IPPROTO_IP), 11), int(socket.AF_INET6): (int(socket.IPPROTO_IPV6), 25)}
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE, _SO_MEMINFO = 32, 33, 55
_MEMINFO_DROPS = 8
_NETLINK_ROUTE = 0
_RECEIVE_BUFFER = 8 << 20
_SEND_BUFFER = 1 << 20


def enlarge_buffers(sock: socket.socket) -> None:
    """A burst of a fast sender must fit while we are busy. Past the system's limit only with CAP_NET_ADMIN.

    Never smaller, not even for a moment: another process may have made it as large as we may not, and be using it."""
    for plain, forced, size in (
        (socket.SO_RCVBUF, _SO_RCVBUFFORCE, _RECEIVE_BUFFER),
        (socket.SO_SNDBUF, _SO_SNDBUFFORCE, _SEND_BUFFER),
    ):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, size)
        except PermissionError:
            if sock.getsockopt(socket.SOL_SOCKET, plain) < 2 * size:  # the kernel counts its own share, too
                sock.setsockopt(socket.SOL_SOCKET, plain, size)


def hear_of_losses(sock: socket.socket, family: int, on: bool) -> None:
    """Be told ENOBUFS when a packet is lost in a queue of this host (IP_RECVERR), or no longer.

    To be switched on for each burst: meanwhile the kernel also queues ICMP errors, whoever sends them, in memory that
    is there for what we receive. Switching off throws them away.
    """
    level, option = _RECVERR[family]  # to ask the socket for its family costs more than the system call
    sock.setsockopt(level, option, on)


def under_exec() -> bool:
    """Does `xfrmi exec` supervise us? Then a netlink socket comes with a number far above the lowest that is free."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE) as given:
        lowest = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.close(lowest)
        return given.fileno() > lowest


def receive_drops(sock: socket.socket) -> int:
    """Datagrams that the kernel dropped at a full receive buffer since the socket was made."""
    memory = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 64)
    return int(struct.unpack_from("=I", memory, _MEMINFO_DROPS * 4)[0])
