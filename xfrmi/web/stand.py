"""Where the server stands: its address on the loopback device, and its place in a rootless lab's user namespace.

Both before anything heavy is imported: a user namespace is entered by a process with one thread, and numpy has several.
"""

from __future__ import annotations

import socket

from xfrmi.dev.netns import enter
from xfrmi.lab.namespace import Namespace
from xfrmi.lab.running import Running

ADDRESS = "127.0.0.1"
WAITING = 100
"""Connections that may wait to be answered."""


def bind(port: int) -> socket.socket:
    """Listen on the loopback address; port 0 is any that is free. OSError."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((ADDRESS, port))
        made.listen(WAITING)  # whoever follows the link at once waits, and is not turned away
    except OSError:
        made.close()
        raise
    return made


def settle(running: Running) -> None:
    """Enter the user namespace of a rootless lab for good, and an empty network namespace in it: from there a thread
    may visit the nodes. What was bound before stays where it is. root may visit them anyway. LabError, OSError."""
    if running.record.rootless:
        running.enter(next(iter(running.record.nodes)))
        home = Namespace()
        enter(home.fd)
        home.close()
