"""That something has changed in a network namespace, by the announcements of rtnetlink. What, the kernel is asked."""

from __future__ import annotations

import contextlib
import errno
import socket

from xfrmi.dev.rtnl import NETLINK_ROUTE


class Announcements:
    """Those of some groups, in the network namespace it is made in."""

    def __init__(self, groups: int) -> None:
        """`groups`: RTMGRP_* bits."""
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_ROUTE)
        self._socket.bind((0, groups))

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self) -> bool:
        """Take in what was announced since the last call. Was anything?"""
        changed = False
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    self._socket.recv(1 << 16)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:  # ENOBUFS: announcements were lost, so there were some
                        raise
                changed = True
        return changed

    def close(self) -> None:
        self._socket.close()
