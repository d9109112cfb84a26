"""Descriptors that come along with a message on a Unix socket (SCM_RIGHTS)."""

from __future__ import annotations

import array
import socket
from collections.abc import Iterable

_SIZE = array.array("i").itemsize


def room_for(count: int) -> int:
    """Bytes of ancillary data."""
    return socket.CMSG_SPACE(count * _SIZE)


def received_fds(ancillary: Iterable[tuple[int, int, bytes]]) -> tuple[int, ...]:
    """Those among what recvmsg has brought."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % _SIZE])
    return tuple(fds)
