"""Buffers of sockets that another process may have made larger than this one may."""

from __future__ import annotations

import socket

import pytest

from xfrmi.dev.sockets import enlarge_buffers

FORCED = {32: socket.SO_SNDBUF, 33: socket.SO_RCVBUF}
"""SO_SNDBUFFORCE, SO_RCVBUFFORCE."""
LIMIT = 212_992
"""rmem_max and wmem_max of most machines."""


class Buffers:
    """As the kernel has them, for who has CAP_NET_ADMIN and who has not."""

    def __init__(self, privileged: bool, size: int) -> None:
        self.privileged = privileged
        self.sizes = dict.fromkeys(FORCED.values(), size)
        self.smallest = size

    def getsockopt(self, level: int, option: int) -> int:
        assert level == socket.SOL_SOCKET
        return self.sizes[option]

    def setsockopt(self, level: int, option: int, size: int) -> None:
        assert level == socket.SOL_SOCKET
        if option in FORCED and not self.privileged:
            raise PermissionError
        forced = FORCED.get(option)
        self.sizes[forced or option] = 2 * (size if forced else min(size, LIMIT))
        self.smallest = min(self.smallest, *self.sizes.values())


@pytest.mark.parametrize("privileged", [True, False])
def test_buffers_become_larger_and_not_smaller_for_a_moment(privileged: bool) -> None:
    """One that is handed over with packets in it would lose those that come while it is small."""
    fresh, given = Buffers(privileged, LIMIT), Buffers(True, LIMIT)
    enlarge_buffers(fresh)  # type: ignore[arg-type]
    enlarge_buffers(given)  # type: ignore[arg-type]
    assert min(fresh.sizes.values()) >= 2 * LIMIT
    assert fresh.smallest == given.smallest == LIMIT
    given.privileged, given.smallest, large = privileged, 1 << 30, dict(given.sizes)
    enlarge_buffers(given)  # type: ignore[arg-type]
    assert given.sizes == large
    assert given.smallest >= min(large.values())
