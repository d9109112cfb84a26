"""How a TUN remembers what it is when no daemon holds it, and how the next daemon finds it again.

The memory is the device's alias: `xfrmi if_id 0x2a link 2 home 4026531840`. Home is the inode number of the network
namespace whose daemon made it; a device goes where it is moved to, and a daemon over there must leave it alone. The
alias that a user gives the device stands behind it: `... home 4026531840 alias to the branch`.
"""

from __future__ import annotations

import errno
import glob
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from xfrmi.dev.netns import inside, netns_inode
from xfrmi.dev.rtnl import Rtnl
from xfrmi.errors import XfrmError
from xfrmi.wire.link_types import POLICY_BASED

if TYPE_CHECKING:
    from xfrmi.core.interface import Interface

_ALIAS = re.compile(
    r"xfrmi (?:if_id (?P<if_id>0x[0-9a-f]{1,8})|external) link (?P<link>\d{1,10}) home (?P<home>\d{1,20})"
    r"(?: alias (?P<text>.+))?",
    re.DOTALL,
)
POLICY_TUN, REFUSED_TUN = POLICY_BASED, "xfrmi-refused"
HIDDEN = frozenset((POLICY_TUN, REFUSED_TUN))
"""Names of the TUNs behind policies without if_id (policy_path.py). A kernel has nothing of the kind."""
LONGEST_ALIAS = 255
"""Bytes, of all of it."""
_NAMESPACES = ("/run/netns/*", "/proc/[0-9]*/ns/net")
"""Where others' namespaces are found: those with a name, and those of processes we may look at."""


class Left(NamedTuple):
    """A TUN without its daemon."""

    name: str
    if_id: int
    link: int
    external: bool
    alias: str


def alias_of(interface: Interface, home: int, text: str = "") -> str:
    """With the user's own alias. XfrmError EINVAL if that is too long beside the rest."""
    return write_alias(Tag(interface.if_id, interface.link, interface.external, home, text))


def hidden_alias(home: int) -> str:
    """Of a TUN that is no xfrm device, but behind policies without if_id."""
    return f"xfrmi policies home {home}"


class Tag(NamedTuple):
    """What an alias says."""

    if_id: int
    link: int
    external: bool
    home: int
    """Inode of the network namespace whose daemon made the device."""
    text: str = ""
    """The user's own alias."""


def write_alias(tag: Tag) -> str:
    """The inverse of `read_alias`. XfrmError EINVAL if the user's own is too long beside the rest."""
    key = "external" if tag.external else f"if_id {tag.if_id:#x}"
    alias = f"xfrmi {key} link {tag.link} home {tag.home}"
    if tag.text:
        alias += f" alias {tag.text}"
        if over := max(0, len(alias.encode("utf-8", "surrogateescape")) - LONGEST_ALIAS):
            raise XfrmError(errno.EINVAL, detail=f"this alias is {over} bytes too long for a device of xfrmi")
    return alias


def read_alias(alias: str) -> Tag | None:
    """None if the device is none of ours."""
    match = _ALIAS.fullmatch(alias)
    if match is None:
        return None
    if_id, is_external = int(match["if_id"] or "0", 16), match["if_id"] is None
    return Tag(if_id, int(match["link"]), is_external, int(match["home"]), match["text"] or "")


def left_behind() -> Iterator[tuple[str | None, Left]]:
    """All that an earlier daemon of this namespace made: (path of the namespace, device), None for our own.

    Elsewhere is looked only as far as we may: it takes CAP_SYS_ADMIN to enter, and CAP_SYS_PTRACE to see the
    namespaces of processes.
    """
    home = netns_inode()
    yield from ((None, left) for left in _devices_here(home))
    seen = {home}
    for path in (path for pattern in _NAMESPACES for path in glob.iglob(pattern)):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # gone, or not ours to see
            continue
        try:
            inode = os.fstat(fd).st_ino
            if inode in seen:
                continue
            seen.add(inode)
            with inside(fd):
                found = _devices_here(home)
        except XfrmError:  # not ours to enter
            continue
        finally:
            os.close(fd)
        yield from ((path, left) for left in found)


def _devices_here(home: int) -> list[Left]:
    rtnl = Rtnl()
    try:
        links = rtnl.links()
    finally:
        rtnl.close()
    tags = [(link, read_alias(link.alias)) for link in links if link.kind == "tun"]
    return [
        Left(link.name, tag.if_id, tag.link, tag.external, link.alias)
        for link, tag in tags
        if tag is not None and tag.home == home
    ]
