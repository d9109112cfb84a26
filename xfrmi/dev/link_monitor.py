"""Which network devices have changed: the announcements of rtnetlink, reduced to numbers.

What has changed is then asked of the kernel (rtnl.py), which costs a system call but cannot be out of date.
"""

from __future__ import annotations

import errno
import socket
import struct

from xfrmi.dev.rtnl import NETLINK_ROUTE, RTM_DELLINK, RTM_NEWLINK
from xfrmi.wire import netlink

_RTMGRP_LINK = 1
_SOL_NETLINK, _NETLINK_LISTEN_ALL_NSID = 270, 8
_IFINDEX = struct.Struct("=4xi")
_NSID = struct.Struct("=i")


class LinkMonitor:
    """Listens in the network namespace it is made in, and in those that have a number there (Rtnl.netns_id)."""

    def __init__(self, fd: int = -1) -> None:
        """`fd`: that of another process, which hears everywhere."""
        self.everywhere = True
        """False: without CAP_NET_BROADCAST, what happens elsewhere is not heard."""
        if fd >= 0:
            self._socket = socket.socket(fileno=fd)
            return
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_ROUTE)
        try:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_LISTEN_ALL_NSID, 1)
        except OSError:
            self.everywhere = False
        self._socket.bind((0, _RTMGRP_LINK))

    def fileno(self) -> int:
        return self._socket.fileno()

    def changed(self) -> set[tuple[int | None, int]] | None:
        """(namespace, ifindex) of all announced since the last call, None for the own namespace. None in place of
        the set if announcements were lost: any device may have changed."""
        found: set[tuple[int | None, int]] = set()
        lost = False
        while True:
            try:
                datagram, ancillary, _, _ = self._socket.recvmsg(1 << 16, socket.CMSG_SPACE(_NSID.size))
            except BlockingIOError:
                return None if lost else found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True
                continue
            nsid = next((_NSID.unpack(data)[0] for level, _, data in ancillary if level == _SOL_NETLINK), None)
            for message in netlink.split(datagram):
                if message.type in (RTM_NEWLINK, RTM_DELLINK):
                    found.add((nsid, _IFINDEX.unpack_from(message.body)[0]))

    def close(self) -> None:
        self._socket.close()
