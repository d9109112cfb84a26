"""/proc/net/xfrm_stat as supervised programs read it: the daemon's counters."""

from __future__ import annotations

import fcntl
import os
import re

from xfrmi.formats.print_stat import print_stat
from xfrmi.interpose.task import Task
from xfrmi.interpose.world import World
from xfrmi.wire.xfrm_const import XfrmStat

LONGEST_PATH = 64
_XFRM_STAT = re.compile(rb"/proc/(?:self/|thread-self/|[0-9]+/(?:task/[0-9]+/)?)?net/xfrm_stat")
_F_ADD_SEALS, _SEALS = 1033, 0x1F


def is_xfrm_stat(task: Task, address: int) -> bool:
    """Does the path at this address name the counters? Nothing else of interest is read by a relative path."""
    try:
        # A look at the beginning is enough for nearly all that programs open.
        if task.read(address, min(6, 4096 - address % 4096)) != b"/proc/":
            return False
        return bool(_XFRM_STAT.fullmatch(task.string(address, LONGEST_PATH)))
    except OSError:
        return False


def xfrm_stat(world: World) -> int:
    """A descriptor of a file with the counters of this moment, read-only. OSError, XfrmError."""
    counters = world.command("stat")
    text = print_stat([int(str(counters[stat.label])) for stat in XfrmStat])
    memory = os.memfd_create("xfrm_stat", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(memory, text.encode())
        fcntl.fcntl(memory, _F_ADD_SEALS, _SEALS)
        return os.open(f"/proc/self/fd/{memory}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(memory)
