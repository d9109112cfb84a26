"""What IKE daemons ask of their own UDP sockets.

- IP_XFRM_POLICY: their packets pass whatever policies say. Policies with an if_id concern only what is routed into xfrm
  devices; for those without, the daemon lets UDP 500 and 4500 of the host pass, and other ports when it is told of them
  here. A policy of a socket that demands IPsec is refused: nobody would do it.
- UDP_ENCAP: the kernel is to take ESP out of what comes in on port 4500. It must not get to hear of that: it would take
  the ESP, and drop it where it has none. Instead the daemon shares the port (dev/port_sharing.py).
- UDP_GRO, on the same socket: it would merge what the IKE daemon reads one by one.
"""

from __future__ import annotations

import errno
import os
import socket

from xfrmi.dev.port_sharing import allow_sharing
from xfrmi.errors import XfrmError
from xfrmi.interpose.bpf import SOL_UDP, UDP_ENCAP
from xfrmi.interpose.task import Task
from xfrmi.interpose.world import World
from xfrmi.wire.xfrm_const import IKE_PORTS, Action

MOST_REMEMBERED = 256
_POLICY_SIZE, _POLICY_ACTION = 168, 161
"""xfrm_userpolicy_info; templates follow it."""


def is_bypass(task: Task, address: int, length: int) -> bool:
    """Does the policy in an option of a socket let everything through? None at all, too, is such a one. OSError."""
    if not address or not length:
        return True
    if length < _POLICY_SIZE:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return length == _POLICY_SIZE and task.read(address + _POLICY_ACTION, 1)[0] == Action.ALLOW


class IkeSockets:
    def __init__(self) -> None:
        self._shared: dict[int, None] = {}
        """Inodes of sockets whose port is shared, in the order they came."""

    def set_option(self, world: World, task: Task, fd: int, level: int, option: int) -> bool:
        """Is this taken care of? Else it is the kernel's. Takes the descriptor, a copy of the program's.

        OSError, XfrmError if the port cannot be shared.
        """
        inode = os.fstat(fd).st_ino
        with socket.socket(fileno=fd) as sock:
            if level != SOL_UDP:
                self._let_pass(world, sock)
                return True
            if sock.type != socket.SOCK_DGRAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
                return False
            if option != UDP_ENCAP:
                return inode in self._shared
            if sock.getsockname()[1]:
                self._share(world, task, sock)
            self._shared[inode] = None
            if len(self._shared) > MOST_REMEMBERED:
                del self._shared[next(iter(self._shared))]
            return True

    @staticmethod
    def _let_pass(world: World, sock: socket.socket) -> None:
        if sock.type == socket.SOCK_DGRAM and sock.family in (socket.AF_INET, socket.AF_INET6):
            port = sock.getsockname()[1]
            if port not in (0, *IKE_PORTS):
                world.command("let-pass", port=port)

    @staticmethod
    def _share(world: World, task: Task, sock: socket.socket) -> None:
        allow_sharing(sock)
        address, port = sock.getsockname()[:2]
        if address in ("0.0.0.0", "::"):
            address = ""
        families = [int(sock.family)]
        if sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
            families.append(int(socket.AF_INET))
        for family in families:
            try:
                world.share_port(family, port, address, Task(task.process()).pidfd())
            except XfrmError as error:
                raise OSError(error.errno, error.strerror) from None
