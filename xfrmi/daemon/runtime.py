"""Where a daemon's sockets are: one directory per network namespace, named by the namespace's inode number.

    <base>/<inode of the network namespace>/{xfrm,route,json,lock}

Base is $XFRMI_RUNTIME_DIR where that is set, else the first of /run/xfrmi, $XDG_RUNTIME_DIR/xfrmi and
/tmp/xfrmi-<uid> that this user may write. A client goes through the same list and takes the first that holds a socket.
Requests carry keys, so both ends refuse a directory that somebody else could have put there.

Shared by the daemon and its clients; imports nothing heavy.
"""

from __future__ import annotations

import errno
import os
import stat

from xfrmi.dev.netns import OWN_NETNS, netns_inode
from xfrmi.errors import XfrmError

XFRM_SOCKET = "xfrm"
"""SOCK_SEQPACKET: NETLINK_XFRM datagrams."""
ROUTE_SOCKET = "route"
"""SOCK_SEQPACKET: RTM_*LINK datagrams."""
JSON_SOCKET = "json"
"""SOCK_STREAM: one JSON object a line."""
LOCK_FILE = "lock"
"""flock()ed while a daemon runs; its text is the daemon's pid."""

OTHERS_MAY = 0o055
"""Look into a base directory, where the sockets of all namespaces are, each in a directory of its own."""

MAX_DATAGRAM = 1 << 16
"""Largest request or reply, bytes: more than any xfrm message can need."""


def base_directories() -> list[str]:
    """Candidates in order of preference."""
    forced = os.environ.get("XFRMI_RUNTIME_DIR")
    if forced:
        return [forced]
    bases = ["/run/xfrmi"]
    session = os.environ.get("XDG_RUNTIME_DIR")
    if session:
        bases.append(f"{session}/xfrmi")
    bases.append(f"/tmp/xfrmi-{os.geteuid()}")
    return bases


def base_directory() -> str:
    """Where a daemon started now would make its directory."""
    bases = base_directories()
    return next((base for base in bases if _writable(base)), bases[-1])


def create_directory(netns: str = OWN_NETNS) -> str:
    """Make the directory for the daemon of this namespace (mode 0700) and return it.

    XfrmError EPERM if what stands there belongs to somebody else or is open to others.
    """
    base = base_directory()
    directory = f"{base}/{netns_inode(netns)}"
    for path in (base, directory):
        try:
            os.makedirs(path, 0o700, exist_ok=True)
        except OSError as error:
            raise XfrmError(error.errno or errno.EPERM, detail=f"cannot make the runtime directory {path}") from None
    if not trusted(base, OTHERS_MAY) or not trusted(directory):
        raise XfrmError(
            errno.EPERM,
            detail=f"{directory} is not a directory of this user alone; set XFRMI_RUNTIME_DIR to one that is",
        )
    return directory


def find_directory(netns: str = OWN_NETNS, base: str | None = None) -> str | None:
    """The directory of the daemon that serves this namespace, or None if there is none that this user may trust. With
    `base` it is looked for there and nowhere else."""
    inode = netns_inode(netns)
    for parent in base_directories() if base is None else [base]:
        directory = f"{parent}/{inode}"
        # Also the base: who can rename directories in it could exchange one between this look and the connection.
        if trusted(parent, OTHERS_MAY) and trusted(directory) and os.path.exists(f"{directory}/{XFRM_SOCKET}"):
            return directory
    return None


def no_daemon(netns: str = OWN_NETNS) -> XfrmError:
    """The one sentence for a client that finds nobody."""
    where = "this network namespace" if netns == OWN_NETNS else f"network namespace {netns}"
    if (base := next(filter(_closed, base_directories()), None)) is not None:
        where += f" that would answer this user: those of {base} answer its owner and root. Ask as one of these, or"
    else:
        where += ";"
    return XfrmError(errno.ECONNREFUSED, detail=f'no xfrmi daemon serves {where} start one there with "xfrmi daemon"')


def _closed(base: str) -> bool:
    """Are there daemons that this user cannot even see?"""
    return os.path.isdir(base) and not os.access(base, os.X_OK)


def _writable(base: str) -> bool:
    return os.access(base if os.path.isdir(base) else os.path.dirname(base) or ".", os.W_OK | os.X_OK)


def trusted(directory: str, others_may: int = 0) -> bool:
    """A real directory of this user (or, for a client, of root), in which nobody else may put things."""
    try:
        status = os.lstat(directory)
    except OSError:
        return False
    mode = stat.S_IMODE(status.st_mode)
    return stat.S_ISDIR(status.st_mode) and status.st_uid in (0, os.geteuid()) and not mode & 0o077 & ~others_may
