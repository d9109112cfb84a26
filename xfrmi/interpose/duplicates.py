"""Further descriptors of carriers. The filter knows carriers by their numbers, so that all have to be in its range.

A duplicate with a number of the kernel's choice gets one there. One with a number of the program's choice, elsewhere,
would be a netlink socket that nobody carries out requests for, and is refused instead.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable

from xfrmi.interpose.carrier import Carrier, Carriers
from xfrmi.interpose.seccomp import Listener, Notification
from xfrmi.interpose.task import Task

F_DUPFD, F_DUPFD_CLOEXEC = 0, 1030

Take = Callable[[Task, Notification], tuple[Carrier, socket.socket] | None]


class Duplicates:
    def __init__(self, listener: Listener, carriers: Carriers, fds: range, take: Take) -> None:
        """`take` gives the carrier that a call is about, or has the call carried out natively."""
        self._listener = listener
        self._carriers = carriers
        self._fds = fds
        self._take = take

    def free_number(self, task: Task, least: int = 0) -> int:
        """OSError EMFILE."""
        for number in self._fds:
            if number >= least and not task.has_fd(number):
                return number
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def dup(self, task: Task, call: Notification) -> None:
        self._duplicate(task, call, 0, False)

    def fcntl(self, task: Task, call: Notification) -> None:
        command = call.args[1] & 0xFFFFFFFF
        if command in (F_DUPFD, F_DUPFD_CLOEXEC):
            self._duplicate(task, call, call.args[2] & 0xFFFFFFFF, command == F_DUPFD_CLOEXEC)
        else:
            self._listener.resume(call)

    def dup2(self, task: Task, call: Notification) -> None:
        """Also dup3."""
        old, new = call.args[0] & 0xFFFFFFFF, call.args[1] & 0xFFFFFFFF
        if new == old or new in self._fds:
            self._listener.resume(call)
        elif (taken := self._take(task, call)) is not None:
            taken[1].close()
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def pidfd_getfd(self, task: Task, call: Notification) -> None:
        """Out of another process. What we may get there says what it is, not that the caller may."""
        pidfd = task.copy_fd(call.args[0] & 0xFFFFFFFF)
        try:
            inode = Task.inode_through(pidfd, call.args[1] & 0xFFFFFFFF)
        finally:
            os.close(pidfd)
        if self._carriers.find(inode) is not None:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        self._listener.resume(call)

    def _duplicate(self, task: Task, call: Notification, least: int, cloexec: bool) -> None:
        if (taken := self._take(task, call)) is None:
            return
        _, sock = taken
        with sock:
            number = self.free_number(task, least)
            if not self._listener.answer_with_fd(call, sock.fileno(), number, cloexec):
                self._listener.fail(call, errno.EMFILE)
