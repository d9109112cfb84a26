"""Seccomp user notification (linux/seccomp.h): installing the filter, and the conversation with who waits in a call.

Needs Linux 5.19: with WAIT_KILLABLE_RECV a call that has been looked at is not taken back by a signal. Without it a
signal would abort a request that has been carried out, and the kernel would make the program ask for it again.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import select
import struct
from typing import NamedTuple

from xfrmi.errors import XfrmError
from xfrmi.interpose.bpf import MACHINES, Machine, this_machine

OLDEST_KERNEL = 5, 19

MOST_OUTSTANDING = 1024

_SET_MODE_FILTER = 1
_NEW_LISTENER, _WAIT_KILLABLE_RECV = 8, 32
_PR_SET_NO_NEW_PRIVS = 38
_RECV, _SEND, _ID_VALID, _ADDFD = 0xC0502100, 0xC0182101, 0x40082102, 0x40182103
_CONTINUE = 1
_ADDFD_SETFD = 1

_NOTIF = struct.Struct("=QIIiIQ6Q")
_RESPONSE = struct.Struct("=QqiI")
_ADDFD_REQUEST = struct.Struct("=QIIII")
_ID = struct.Struct("=Q")
_NOTHING, _NO_ID = bytes(_NOTIF.size), bytes(_ID.size)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


class Notification(NamedTuple):
    """A thread waits in a system call."""

    id: int
    tid: int
    """As the supervisor's PID namespace counts."""
    arch: int
    """AUDIT_ARCH_*: whose system call numbers these are."""
    nr: int
    args: tuple[int, ...]


class Listener:
    """The supervisor's end of a filter. Every method that answers is a no-op if the caller is gone meanwhile."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._outstanding = mmap.mmap(-1, MOST_OUTSTANDING * _ID.size)
        """Shared with processes that are forked: the notifications that have been received and not answered, in the
        first place the latest. If one dies, another can end their waiting."""
        self._latest = 0
        self._buffer = bytearray(_NOTIF.size)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)

    def receive(self) -> Notification | None:
        """The next notification; None if there is none (it was taken back). EOFError when nobody is supervised
        any more."""
        events = self._poll.poll(0)
        if not events:
            return None
        if not events[0][1] & select.POLLIN:
            raise EOFError
        self._buffer[:] = _NOTHING
        try:
            fcntl.ioctl(self.fd, _RECV, self._buffer)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                return None
            raise
        number, tid, _, nr, arch, _, *args = _NOTIF.unpack(self._buffer)
        if self._latest:
            self._replace(0, self._latest, after=_ID.size)
        self._latest = number
        self._outstanding[: _ID.size] = self._buffer[: _ID.size]
        return Notification(number, tid, arch, nr, tuple(args))

    def answer(self, call: Notification, value: int = 0) -> None:
        """The system call returns `value`."""
        self._send(_RESPONSE.pack(call.id, value, 0, 0))

    def fail(self, call: Notification, error: int) -> None:
        """The system call fails with this errno."""
        self._send(_RESPONSE.pack(call.id, 0, -error, 0))

    def resume(self, call: Notification) -> None:
        """The system call is carried out natively."""
        self._send(_RESPONSE.pack(call.id, 0, 0, _CONTINUE))

    def is_waiting(self, call: Notification) -> bool:
        """Is it still this caller? To be asked after something was opened by its thread id."""
        try:
            fcntl.ioctl(self.fd, _ID_VALID, _ID.pack(call.id))
        except OSError:
            self.drop(call)
            return False
        return True

    def answer_with_fd(self, call: Notification, fd: int, number: int | None, cloexec: bool) -> bool:
        """The system call returns a copy of `fd`, as descriptor `number` or (None) the lowest free one. False if the
        caller cannot take one; it still waits then."""
        # Not with SECCOMP_ADDFD_FLAG_SEND: if the supervisor is stopped at that moment (a debugger, a freezer), the
        # kernel answers 0 in its place, and the caller has its standard input for a socket.
        flags = 0 if number is None else _ADDFD_SETFD
        request = _ADDFD_REQUEST.pack(call.id, flags, fd, number or 0, os.O_CLOEXEC if cloexec else 0)
        try:
            given = int(fcntl.ioctl(self.fd, _ADDFD, bytearray(request)))
        except OSError as error:
            if error.errno != errno.ENOENT:
                return False
            self.drop(call)
            return True
        self.answer(call, given)
        return True

    def give_up_outstanding(self) -> None:
        """In place of a process that has died: whoever waits for it is interrupted, and may ask again."""
        for (number,) in _ID.iter_unpack(self._outstanding[:]):
            if number:
                self._send(_RESPONSE.pack(number, 0, -errno.EINTR, 0))

    def drop(self, call: Notification) -> None:
        """It need not be answered: its caller is gone, or was stopped and asks again."""
        self._done(call.id)

    def _done(self, number: int) -> None:
        if number == self._latest:
            self._latest = 0
            self._outstanding[: _ID.size] = _NO_ID
        else:
            self._replace(number, 0)

    def _replace(self, old: int, new: int, after: int = 0) -> None:
        """Put `new` in the place of `old`; one too many is not noted."""
        packed = _ID.pack(old)
        at = self._outstanding.find(packed, after)
        while at >= 0:
            if at % _ID.size == 0:
                self._outstanding[at : at + _ID.size] = _ID.pack(new)
                return
            at = self._outstanding.find(packed, at + 1)

    def _send(self, response: bytes) -> None:
        self._done(_ID.unpack_from(response)[0])
        try:
            fcntl.ioctl(self.fd, _SEND, response)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EINPROGRESS):
                raise


def supported_machine() -> Machine:
    """XfrmError ENOSYS where `xfrmi exec` cannot work, with the reason."""
    machine = this_machine()
    if machine is None:
        detail = f"exec knows the system calls of {' and '.join(MACHINES)} only, and this is {os.uname().machine}"
        raise XfrmError(errno.ENOSYS, detail=detail)
    release = os.uname().release
    numbers = [int(part) if part.isdigit() else 0 for part in release.split("-")[0].split(".")[:2]]
    if tuple(numbers) < OLDEST_KERNEL:
        raise XfrmError(errno.ENOSYS, detail=f"exec needs Linux 5.19 or newer, and this is {release}")
    return machine


def install(machine: Machine, program: bytes) -> int:
    """Put the calling thread, and all that it starts from now on, behind the filter. Returns the listener.

    XfrmError EBUSY if somebody supervises this thread already; what the kernel says, if it knows no such filters.
    """
    fprog = _Program(len(program) // 8, program)

    def attempt() -> int:
        flags = _NEW_LISTENER | _WAIT_KILLABLE_RECV
        return int(
            _libc.syscall(
                ctypes.c_long(machine.calls["seccomp"]), ctypes.c_long(_SET_MODE_FILTER), ctypes.c_long(flags),
                ctypes.byref(fprog),
            )
        )  # fmt: skip

    fd = attempt()
    # Without CAP_SYS_ADMIN here it is only for programs that gain nothing by being executed.
    if fd < 0 and ctypes.get_errno() == errno.EACCES and _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
        fd = attempt()
    if fd < 0:
        raise refused(ctypes.get_errno())
    return fd


def refused(number: int) -> XfrmError:
    """Why there is no filter, from the errno of `install`."""
    if number == errno.EBUSY:
        return XfrmError(number, detail="another program supervises this one by seccomp already")
    detail = f"this kernel, or the container, refuses seccomp user notification: {os.strerror(number)}"
    return XfrmError(number, detail=detail)
