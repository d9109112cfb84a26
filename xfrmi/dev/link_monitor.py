"""Which network devices have changed: the announcements of rtnetlink, reduced to ifindexes.

What has changed is then asked of the kernel (rtnl.py), which costs a system call but cannot be out of date.
"""

from __future__ import annotations

import errno
import socket
import struct

from xfrmi.dev.rtnl import NETLINK_ROUTE, RTM_DELLINK, RTM_NEWLINK
from xfrmi.wire import netlink

_RTMGRP_LINK = 1
_IFINDEX = struct.Struct("=4xi")


class LinkMonitor:
    """Listens in the network namespace it is made in."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_ROUTE)
        self._socket.bind((0, _RTMGRP_LINK))

    def fileno(self) -> int:
        return self._socket.fileno()

    def changed(self) -> set[int] | None:
        """The ifindexes announced since the last call; None if announcements were lost: any device may have changed."""
        found: set[int] = set()
        lost = False
        while True:
            try:
                datagram = self._socket.recv(1 << 16)
            except BlockingIOError:
                return None if lost else found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True
                continue
            for message in netlink.split(datagram):
                if message.type in (RTM_NEWLINK, RTM_DELLINK):
                    found.add(_IFINDEX.unpack_from(message.body)[0])

    def close(self) -> None:
        self._socket.close()
