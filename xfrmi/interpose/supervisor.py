"""The supervisor: one loop that answers the system calls for which supervised programs stop.

A call is carried out while its caller waits, and so is everything that it entails; but who waits for something to
receive is parked (parking.py), and others are served meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from xfrmi.daemon.loop import Loop
from xfrmi.errors import XfrmError
from xfrmi.interpose import calls
from xfrmi.interpose.bpf import (
    IP_XFRM_POLICY,
    IPV6_XFRM_POLICY,
    NETLINK_ROUTE,
    NETLINK_XFRM,
    SOL_IP,
    SOL_IPV6,
    SOL_NETLINK,
    SOL_UDP,
    UDP_ENCAP,
    UDP_GRO,
    Machine,
)
from xfrmi.interpose.calls import RECEIVES, SENDS, is_xfrm_socketcall
from xfrmi.interpose.carrier import Carrier, Carriers, bind, memberships
from xfrmi.interpose.duplicates import Duplicates
from xfrmi.interpose.ike import IkeSockets, is_bypass
from xfrmi.interpose.link_news import LinkNews
from xfrmi.interpose.link_questions import Questions
from xfrmi.interpose.links import Links
from xfrmi.interpose.parking import Parked, Parking
from xfrmi.interpose.proc_files import is_xfrm_stat, xfrm_stat
from xfrmi.interpose.seccomp import Listener, Notification
from xfrmi.interpose.task import Task, open_numbers
from xfrmi.interpose.transfers import Transfers
from xfrmi.interpose.world import World
from xfrmi.interpose.worlds import Worlds

if TYPE_CHECKING:
    from xfrmi.interpose.trace import Trace

MAX_FAULTS = 20

SOCK_TYPE_MASK = 0xF
SOCKET_OPTIONS = {
    (SOL_IP, IP_XFRM_POLICY): "IP_XFRM_POLICY",
    (SOL_IPV6, IPV6_XFRM_POLICY): "IPV6_XFRM_POLICY",
    (SOL_UDP, UDP_ENCAP): "UDP_ENCAP",
    (SOL_UDP, UDP_GRO): "UDP_GRO",
}
_INT = struct.Struct("=i")


class Supervisor:
    def __init__(
        self,
        listener: Listener,
        machine: Machine,
        fds: range,
        loop: Loop,
        worlds: Worlds,
        report: Callable[[str], None],
        trace: Trace | None,
    ) -> None:
        """`fds` are the numbers for descriptors of carriers, as the filter knows them. `report` takes the traceback of
        what should not have happened."""
        self._report = report
        self._listener = listener
        self._machine = machine
        self._names = {number: name for name, number in machine.calls.items()}
        self._fds = fds
        self._worlds = worlds
        self._trace = trace
        self._loop = loop
        self._carriers = Carriers()
        worlds.in_use = self._carriers.are_in
        questions = Questions()
        links, news = Links(worlds, questions), LinkNews(worlds, questions)
        self._transfers = Transfers(listener, links, news, trace)
        self._ike = IkeSockets()
        self._duplicates = Duplicates(listener, self._carriers, fds, self._take)
        self._parking = Parking(self._loop, self._arrived, self._listener.fail, self._listener.drop)
        self._listening: dict[int, int] = {}
        """pidfd by process, of those who have joined groups."""
        self._faults = 0
        self._actions: dict[str, Callable[[Task, Notification], None]] = {
            "socket": self._socket,
            "bind": self._bind,
            "connect": self._connect,
            "setsockopt": self._setsockopt,
            "dup": self._duplicates.dup,
            "dup2": self._duplicates.dup2,
            "dup3": self._duplicates.dup2,
            "fcntl": self._duplicates.fcntl,
            "pidfd_getfd": self._duplicates.pidfd_getfd,
            "open": lambda task, call: self._open(task, call, call.args[0], call.args[1]),
            "openat": lambda task, call: self._open(task, call, call.args[1], call.args[2]),
            **{name: self._send for name in SENDS},
            **{name: self._receive for name in RECEIVES},
        }

    def run(self) -> None:
        """Until nobody is supervised any more."""
        self._loop.watch(self._listener.fd, self._notified)
        self._loop.run(self._look, self._next_look)
        self._worlds.close()

    def adopt(self) -> None:
        """Take up what another supervisor has left: whoever waited for it asks again, and listeners are counted."""
        self._listener.give_up_outstanding()
        for task, number in open_numbers(self._fds):
            with contextlib.suppress(OSError, XfrmError):
                fd = task.copy_fd(number)
                with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0, fileno=fd) as sock:
                    carrier = self._carriers.adopt(sock, self._worlds)
                    if carrier is not None and carrier.protocol == NETLINK_XFRM and carrier.world.attach(start=False):
                        self._joined(task, carrier, sock)

    def _look(self, now: float) -> None:
        self._parking.look(now)
        self._worlds.look(now)

    def _next_look(self) -> float | None:
        return min(filter(None, (self._parking.next_look(), self._worlds.next_look())), default=None)

    # One call

    def _notified(self) -> None:
        try:
            call = self._listener.receive()
        except EOFError:
            self._loop.stop()
            return
        if call is None:
            return
        self._parking.forget(call.tid)
        try:
            if call.arch == self._machine.audit:
                self._actions[self._names[call.nr]](Task(call.tid), call)
            else:
                self._of_32_bits(Task(call.tid), call)
        except XfrmError as refused:
            self._listener.fail(call, refused.errno)
        except OSError as error:
            self._listener.fail(call, error.errno or errno.EIO)
        except Exception:  # ours: nobody must wait for ever because of it
            self._faults += 1
            if self._faults <= MAX_FAULTS:
                self._report(traceback.format_exc())
            self._listener.fail(call, errno.EIO)

    def _take(
        self, task: Task, call: Notification, protocols: tuple[int, ...] = (NETLINK_XFRM, NETLINK_ROUTE)
    ) -> tuple[Carrier, socket.socket] | None:
        """The carrier that the call's first argument means, and a socket of ours for it. None, and the call is carried
        out natively, if that is something else, or of another protocol."""
        try:
            fd = task.copy_fd(call.args[0] & 0xFFFFFFFF)
        except OSError:
            self._listener.resume(call)
            return None
        carrier = self._carriers.find(os.fstat(fd).st_ino) if self._listener.is_waiting(call) else None
        if carrier is None or carrier.protocol not in protocols:
            os.close(fd)
            self._listener.resume(call)
            return None
        return carrier, socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0, fileno=fd)

    def _socket(self, task: Task, call: Notification) -> None:
        _, kind, protocol = (argument & 0xFFFFFFFF for argument in call.args[:3])
        if kind & SOCK_TYPE_MASK not in (socket.SOCK_RAW, socket.SOCK_DGRAM):
            self._listener.resume(call)
            return
        world = self._worlds.of(task)
        if not self._listener.is_waiting(call):
            return
        if world is None or (protocol == NETLINK_XFRM and not self._has_daemon(task, world)):
            self._listener.resume(call)
            return
        with self._carriers.create(world, kind & (SOCK_TYPE_MASK | socket.SOCK_NONBLOCK), protocol) as sock:
            number = self._duplicates.free_number(task)
            if not self._listener.answer_with_fd(call, sock.fileno(), number, bool(kind & socket.SOCK_CLOEXEC)):
                self._listener.fail(call, errno.EMFILE)
            elif self._trace:
                self._trace.opened(task, protocol, number)

    def _of_32_bits(self, task: Task, call: Notification) -> None:
        """socketcall(SYS_SOCKET): the arguments are in memory, where the filter does not look."""
        if is_xfrm_socketcall(task, call):
            raise OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))
        self._listener.resume(call)

    @staticmethod
    def _has_daemon(task: Task, world: World) -> bool:
        """Is this the daemon's namespace? Also while it is gone: it is not for the kernel to answer in its place."""
        return world.attach(start=False) or world.attach(start=task.may_configure(world.owners)) or world.had_daemon

    def _open(self, task: Task, call: Notification, path: int, flags: int) -> None:
        world = self._worlds.of(task) if is_xfrm_stat(task, path) else None
        if world is None or not self._listener.is_waiting(call) or not world.attach(start=False):
            self._listener.resume(call)
            return
        fd = xfrm_stat(world)
        if self._trace:
            self._trace.note(task, "open(xfrm_stat)")
        try:
            if not self._listener.answer_with_fd(call, fd, None, bool(flags & os.O_CLOEXEC)):
                self._listener.fail(call, errno.EMFILE)
        finally:
            os.close(fd)

    # Groups

    def _bind(self, task: Task, call: Notification) -> None:
        if (taken := self._take(task, call, (NETLINK_XFRM,))) is None:
            return
        carrier, sock = taken
        with sock:
            port, groups = calls.netlink_address(task, call.args[1], call.args[2])
            if groups and not task.may_configure(carrier.world.owners):
                raise OSError(errno.EPERM, os.strerror(errno.EPERM))
            own_port = task.port()
            if self._listener.is_waiting(call):
                bind(sock, port, groups, own_port)
                self._joined(task, carrier, sock)
                self._listener.answer(call)

    def _connect(self, task: Task, call: Notification) -> None:
        """To the kernel every netlink socket is connected anyway. One that is connected in earnest takes nothing from
        others than its peer, and our answers come from itself; so it only gets a port, as it would."""
        if (taken := self._take(task, call)) is None:
            return
        carrier, sock = taken
        with sock:
            if calls.netlink_address(task, call.args[1], call.args[2]) != (0, 0):
                self._listener.resume(call)
                return
            own_port = 0 if sock.getsockname()[0] else task.port()
            if self._listener.is_waiting(call):
                if own_port:
                    bind(sock, 0, 0, own_port)
                carrier.bound = True
                self._listener.answer(call)

    def _setsockopt(self, task: Task, call: Notification) -> None:
        level, option = call.args[1] & 0xFFFFFFFF, call.args[2] & 0xFFFFFFFF
        if level != SOL_NETLINK:
            self._ike_option(task, call, level, option)
            return
        if (taken := self._take(task, call, (NETLINK_XFRM,))) is None:
            return
        carrier, sock = taken
        with sock:
            if call.args[4] & 0xFFFFFFFF < _INT.size:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            (group,) = _INT.unpack(task.read(call.args[3], _INT.size))
            if not task.may_configure(carrier.world.owners):
                raise OSError(errno.EPERM, os.strerror(errno.EPERM))
            if self._listener.is_waiting(call):
                sock.setsockopt(SOL_NETLINK, option, group)
                self._joined(task, carrier, sock)
                self._listener.answer(call)

    def _ike_option(self, task: Task, call: Notification, level: int, option: int) -> None:
        world = self._worlds.of(task)
        if world is None or not world.attach(start=False) or not task.may_configure(world.owners):
            self._listener.resume(call)
            return
        if level != SOL_UDP and not is_bypass(task, call.args[3], call.args[4] & 0xFFFFFFFF):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        fd = task.copy_fd(call.args[0] & 0xFFFFFFFF)
        if not self._listener.is_waiting(call):
            os.close(fd)
        elif self._ike.set_option(world, task, fd, level, option):
            self._listener.answer(call)
            if self._trace:
                self._trace.note(task, f"setsockopt({call.args[0]}, {SOCKET_OPTIONS[level, option]}) = 0")
        else:
            self._listener.resume(call)

    def _joined(self, task: Task, carrier: Carrier, sock: socket.socket) -> None:
        """The daemon is told who listens, now and when that process has ended."""
        carrier.bound = bool(sock.getsockname()[0])
        carrier.groups = memberships(sock)
        self._carriers.count_listeners(carrier.world)
        if not carrier.groups:
            return
        process = task.process()
        if process not in self._listening:
            with contextlib.suppress(OSError):
                self._listening[process] = Task(process).pidfd()
                self._loop.watch(self._listening[process], lambda: self._listener_ended(process))

    def _listener_ended(self, process: int) -> None:
        pidfd = self._listening.pop(process)
        self._loop.unwatch(pidfd)
        os.close(pidfd)
        self._carriers.forget_closed()

    # Sending and receiving

    def _send(self, task: Task, call: Notification) -> None:
        if (taken := self._take(task, call)) is not None:
            carrier, sock = taken
            with sock:
                self._transfers.send(task, call, self._names[call.nr], carrier, sock)

    def _receive(self, task: Task, call: Notification) -> None:
        if (taken := self._take(task, call)) is None:
            return
        carrier, sock = taken
        parked = None
        try:
            wanted = calls.incoming(task, self._names[call.nr], call)
            if not self._listener.is_waiting(call):
                return
            if not wanted.room and self._names[call.nr] in ("read", "readv"):
                self._listener.answer(call)  # of any socket: nothing is asked for
                return
            if self._transfers.deliver(call, task, carrier, sock, wanted):
                return
            if wanted.flags & socket.MSG_DONTWAIT or not os.get_blocking(sock.fileno()):
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            parked = Parked(call, task, carrier, sock, task.pidfd(), wanted)
            self._parking.add(parked)
        finally:
            if parked is None:
                sock.close()

    def _arrived(self, parked: Parked) -> bool:
        return self._transfers.deliver(parked.call, parked.task, parked.carrier, parked.sock, parked.wanted)
