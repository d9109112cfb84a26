"""Network namespaces: naming one, entering one, asking in which one a TUN is.

A socket belongs for life to the namespace it was made in, so being inside for the moment of its creation is enough.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
from collections.abc import Iterator
from typing import Any

from xfrmi.errors import XfrmError

CLONE_NEWNET = 0x40000000
TUNGETDEVNETNS = 0x54E3
"""ioctl of a TUN descriptor, since Linux 5.2: a descriptor of the namespace in which the device is now."""

OWN_NETNS = "/proc/thread-self/ns/net"
"""Where the calling thread is."""


def netns_path(netns: str | int) -> str:
    """A network namespace as users of ip(8) name it (a name of `ip netns`, a pid, a path) -> the path to open."""
    text = str(netns)
    if text.isdigit():
        return f"/proc/{text}/ns/net"
    return text if "/" in text else f"/run/netns/{text}"


def open_netns(path: str = OWN_NETNS) -> int:
    """A descriptor of the namespace; the caller closes it. XfrmError ENOENT, EACCES..."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _cannot_open(path, error) from None


def netns_inode(path: str = OWN_NETNS) -> int:
    """What tells one namespace from another while it lives. XfrmError ENOENT, EACCES..."""
    try:
        return os.stat(path).st_ino
    except OSError as error:
        raise _cannot_open(path, error) from None


def _cannot_open(path: str, error: OSError) -> XfrmError:
    return XfrmError(error.errno or errno.EIO, detail=f'cannot open network namespace "{path}"')


def enter(fd: int) -> None:
    """Move the calling thread into the namespace. XfrmError EPERM (takes CAP_SYS_ADMIN), EINVAL."""
    if number := setns(fd, CLONE_NEWNET):
        raise XfrmError(number, detail="cannot enter the network namespace (takes CAP_SYS_ADMIN in it)")


def setns(fd: int, kind: int) -> int:
    """Move the calling thread into a namespace of this kind (CLONE_NEW*). The errno, 0 if it was done."""
    import ctypes  # the command line imports this module for its names only

    return ctypes.get_errno() if _libc().setns(fd, kind) else 0


@functools.cache
def _libc() -> Any:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def inside(fd: int) -> Iterator[None]:
    """Enter, do, come back. Who is there already needs no right to."""
    if os.fstat(fd).st_ino == netns_inode():
        yield
        return
    home = open_netns()
    try:
        enter(fd)
        try:
            yield
        finally:
            enter(home)
    finally:
        os.close(home)


def netns_of_tun(tun_fd: int) -> int | None:
    """A descriptor of the namespace in which the TUN is, wherever it was moved; None if it was deleted."""
    try:
        fd: int = fcntl.ioctl(tun_fd, TUNGETDEVNETNS)
    except OSError:
        return None
    os.set_inheritable(fd, False)
    return fd


def same_netns(one: int, other: int) -> bool:
    return os.fstat(one).st_ino == os.fstat(other).st_ino
