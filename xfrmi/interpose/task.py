"""A supervised thread, seen from the supervisor: its memory, its descriptors, its namespaces, what it may.

Everything is asked of /proc and the kernel at the moment it is needed, by thread id. A thread id may be somebody
else's by then: who opens something by it asks Listener.is_waiting afterwards.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

CAP_NET_ADMIN = 12
PIDFD_THREAD = os.O_EXCL
"""Since Linux 6.9; before, a pidfd is of a process, and its threads share the descriptors as good as always."""
_PIDFD_OPEN, _PIDFD_GETFD = ctypes.c_long(434), ctypes.c_long(438)
"""System calls as young as these have one number on all machines."""
MOST_PIDFDS = 64
MOST_IOVECS = 1024
"""UIO_MAXIOV"""

_IOVEC = struct.Struct("@QQ")
MSGHDR = struct.Struct("@QI4xQQQQi4x")
"""name, namelen, iov, iovlen, control, controllen, flags."""
MMSGHDR_SIZE = 64

_CAP_VERSION_3 = 0x20080522
_CAP_HEADER, _CAP_DATA = struct.Struct("=Ii"), struct.Struct("=6I")

_CHAR = ctypes.c_char.from_buffer
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
for _call in (_libc.process_vm_readv, _libc.process_vm_writev):
    _call.restype = ctypes.c_ssize_t
    _call.argtypes = (
        ctypes.c_int, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_ulong
    )  # fmt: skip


_pidfds: dict[int, int] = {}
"""Of threads that have asked lately, by thread id."""
_ports: dict[int, int] = {}
"""What netlink sockets of theirs are called by default, as long as there is a pidfd."""


def _getfd(pidfd: int, number: int) -> int:
    return int(_libc.syscall(_PIDFD_GETFD, ctypes.c_long(pidfd), ctypes.c_long(number), ctypes.c_long(0)))


def _forget(tid: int) -> None:
    os.close(_pidfds.pop(tid))
    _ports.pop(tid, None)


def _checked(fd: int) -> int:
    if fd < 0:
        raise _error()
    return fd


class Span(NamedTuple):
    """Bytes in the memory of a thread."""

    address: int
    length: int


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def open_numbers(numbers: range) -> Iterator[tuple[Task, int]]:
    """Every socket of every process that we can see with a descriptor in this range."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            task = Task(int(entry))
            yield from ((task, number) for number in numbers if task.socket_inode(number))


class Task:
    __slots__ = ("tid",)

    def __init__(self, tid: int) -> None:
        self.tid = tid

    # Memory

    def read(self, address: int, length: int) -> bytes:
        """OSError EFAULT, ESRCH, EPERM."""
        buffer = bytearray(length)
        self.read_into(buffer, [Span(address, length)])
        return bytes(buffer)

    def read_into(self, buffer: bytearray, spans: list[Span]) -> int:
        """Gather the spans into the beginning of `buffer`. Returns the number of bytes, all of them."""
        return self._move(_libc.process_vm_readv, buffer, spans)

    def write(self, address: int, data: bytes) -> None:
        self._move(_libc.process_vm_writev, bytearray(data), [Span(address, len(data))])

    def scatter(self, data: bytearray, length: int, spans: list[Span], more: list[tuple[int, bytes]]) -> None:
        """Write the first `length` bytes of `data` over the spans, as far as they reach, and `more` to its addresses.
        All at once: to begin costs more than to do it."""
        room: list[Span] = []
        moved = 0
        for span in spans:
            if moved >= length:
                break
            room.append(Span(span.address, min(span.length, length - moved)))
            moved += room[-1].length
        small = bytearray().join(piece for _, piece in more)
        room += [Span(address, len(piece)) for address, piece in more]
        self._move(_libc.process_vm_writev, data, room, small, moved)

    def _move(
        self, call: object, buffer: bytearray, spans: list[Span], behind: bytearray | None = None, part: int = 0
    ) -> int:
        """Between `spans` and `buffer`, or its first `part` bytes and what is `behind`."""
        length = sum(span.length for span in spans)
        if not length:
            return 0
        assert length <= len(buffer) or behind
        local = _IOVEC.pack(ctypes.addressof(_CHAR(buffer)), part if behind else length)
        if behind:
            local += _IOVEC.pack(ctypes.addressof(_CHAR(behind)), len(behind))
        remote = b"".join([_IOVEC.pack(*span) for span in spans])
        moved = call(self.tid, local, 2 if behind else 1, remote, len(spans), 0)  # type: ignore[operator]
        if moved != length:
            raise _error() if moved < 0 else OSError(errno.EFAULT, os.strerror(errno.EFAULT))
        return length

    def iovecs(self, address: int, count: int) -> list[Span]:
        if count > MOST_IOVECS:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        return [Span(*pair) for pair in _IOVEC.iter_unpack(self.read(address, count * _IOVEC.size))]

    def string(self, address: int, most: int) -> bytes:
        """Up to a NUL; longer ones are cut off."""
        page = 4096
        text = b""
        while len(text) < most:
            piece = self.read(address, min(page - address % page, most - len(text)))
            head, end, _ = piece.partition(b"\0")
            text += head
            if end:
                break
            address += len(piece)
        return text

    # Descriptors

    def pidfd(self) -> int:
        """Readable when the thread (before Linux 6.9: the process) has ended. OSError ESRCH."""
        fd: int = _libc.syscall(_PIDFD_OPEN, ctypes.c_long(self.tid), ctypes.c_long(PIDFD_THREAD))
        if fd < 0 and ctypes.get_errno() == errno.EINVAL:
            fd = _libc.syscall(_PIDFD_OPEN, ctypes.c_long(self.process()), ctypes.c_long(0))
        return _checked(fd)

    def copy_fd(self, number: int) -> int:
        """A descriptor of ours for what is the thread's descriptor `number`. OSError EBADF, EPERM, ESRCH."""
        pidfd = _pidfds.get(self.tid)
        if pidfd is not None:
            fd = _getfd(pidfd, number)
            if fd >= 0 or ctypes.get_errno() != errno.ESRCH:
                return _checked(fd)
            _forget(self.tid)  # an earlier thread of this number
        elif len(_pidfds) >= MOST_PIDFDS:
            _forget(next(iter(_pidfds)))
        pidfd = _pidfds[self.tid] = self.pidfd()
        return _checked(_getfd(pidfd, number))

    @staticmethod
    def inode_through(pidfd: int, number: int) -> int:
        """Of the descriptor `number` of the process that a pidfd means; 0 if there is none."""
        fd = _getfd(pidfd, number)
        if fd < 0:
            return 0
        try:
            return os.fstat(fd).st_ino
        finally:
            os.close(fd)

    def has_fd(self, number: int) -> bool:
        return os.path.lexists(f"/proc/{self.tid}/fd/{number}")

    def socket_inode(self, number: int) -> int:
        """0 if the descriptor is none, or of no socket."""
        try:
            kind, _, rest = os.readlink(f"/proc/{self.tid}/fd/{number}").partition(":[")
        except OSError:
            return 0
        return int(rest[:-1]) if kind == "socket" else 0

    # What it is

    def status(self, *names: str) -> list[str]:
        """Fields of /proc/TID/status. OSError if it is gone."""
        with open(f"/proc/{self.tid}/status", "rb", buffering=0) as file:
            text = file.read(8192).decode("ascii", "replace")
        found = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
        return [found.get(name, "0") for name in names]

    def process(self) -> int:
        return int(self.status("Tgid")[0])

    def port(self) -> int:
        """The process as itself counts it: what a netlink socket is called by default. To be asked after `copy_fd`,
        which finds out whether this is still the thread it was."""
        port = _ports.get(self.tid)
        if port is None:
            port = _ports[self.tid] = int(self.status("NStgid")[0].split()[-1])
        return port

    def name(self) -> str:
        try:
            with open(f"/proc/{self.tid}/comm", "rb") as file:
                return file.read().decode("utf-8", "replace").rstrip("\n")
        except OSError:
            return "?"

    def netns_path(self) -> str:
        return f"/proc/{self.tid}/ns/net"

    def may_configure(self, owners: frozenset[int]) -> bool:
        """CAP_NET_ADMIN in one of the user namespaces `owners` (inodes)? As ns_capable() of the kernel has it."""
        # capget() tells of other threads, too, and in a microsecond; to print and read their status takes fifty.
        data = ctypes.create_string_buffer(_CAP_DATA.size)
        if _libc.capget(_CAP_HEADER.pack(_CAP_VERSION_3, self.tid), data):
            return False
        effective: int = _CAP_DATA.unpack_from(data)[0]
        try:
            return bool(effective >> CAP_NET_ADMIN & 1) and os.stat(f"/proc/{self.tid}/ns/user").st_ino in owners
        except OSError:
            return False

    def signal_waits(self) -> bool:
        """Is there a signal that it does not block? One that has a handler: any other would have ended the wait."""
        try:
            own, shared, blocked = (int(mask, 16) for mask in self.status("SigPnd", "ShdPnd", "SigBlk"))
        except OSError:
            return False
        return bool((own | shared) & ~blocked)
