"""The end of a running daemon that goes on as another process: asked for, and waited for."""

from __future__ import annotations

import errno
import os
import select
from typing import TYPE_CHECKING

from xfrmi.errors import XfrmError

if TYPE_CHECKING:
    from xfrmi.client import Client

LOOK_EVERY = 0.05
"""Seconds. The new process needs some tenths of one to start."""


def succeed(client: Client) -> int:
    """Have the daemon start its own command line again, to be replaced by that (`xfrmi daemon --replace`), and wait
    until the new process serves; its pid.

    XfrmError ECANCELED if it ends before that, and then the old one goes on; or what starting it was refused with.
    """
    pid: int = client.command("succeed")["pid"]
    failed = XfrmError(
        errno.ECANCELED,
        detail=f"the new process (pid {pid}) has ended before it took over, and the old one goes on; "
        "the log of the daemon says why",
    )
    try:
        ended = os.pidfd_open(pid)
    except ProcessLookupError:
        raise failed from None
    try:
        while client.status()["pid"] != pid:
            if select.select([ended], [], [], LOOK_EVERY)[0]:
                raise failed
    finally:
        os.close(ended)
    return pid
