"""The arguments of system calls that send and receive: where the data is in the caller's memory, and what it wants.

Of the calls for many messages (sendmmsg, recvmmsg) each message is a call of its own, by its number in the vector.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import NamedTuple

from xfrmi.interpose.bpf import NETLINK_XFRM
from xfrmi.interpose.carrier import Received
from xfrmi.interpose.seccomp import Notification
from xfrmi.interpose.task import MMSGHDR_SIZE, MSGHDR, Span, Task

SENDS = frozenset({"sendto", "sendmsg", "sendmmsg", "write", "writev"})
RECEIVES = frozenset({"recvfrom", "recvmsg", "recvmmsg", "read", "readv"})

_FLAGS_AT = {"sendto": 3, "sendmsg": 2, "sendmmsg": 3}
"""Which argument."""
_SOCKADDR_NL = struct.Struct("=HHII")
_NAMELEN = struct.Struct("@I")
_CMSG = struct.Struct("@Nii")
_CONTROLLEN_FLAGS = struct.Struct("@Ni")
_MSG_NAMELEN, _MSG_CONTROLLEN = 8, 40
_MSG_TRUNC = int(socket.MSG_TRUNC)
_NOTHING = Span(0, 0)


class Outgoing(NamedTuple):
    """What a program sends."""

    spans: list[Span]
    length: int
    port: int
    """The addressee; 0 is the kernel."""
    count_at: int
    """Where the number of bytes sent is to be written besides (sendmmsg); 0 if nowhere."""
    number: int = 0
    """Of this message in the vector."""

    def done(self, task: Task) -> int:
        """Say that all was sent; what the system call returns if it was the last."""
        if not self.count_at:
            return self.length
        task.write(self.count_at, _NAMELEN.pack(self.length))
        return self.number + 1


def outgoing(task: Task, name: str, call: Notification, number: int = 0) -> Outgoing:
    """OSError EFAULT, EMSGSIZE, EOPNOTSUPP."""
    _, first, second, _, address, address_length, *_ = call.args
    first += number * MMSGHDR_SIZE
    at = _FLAGS_AT.get(name)
    if at is not None and call.args[at] & socket.MSG_OOB:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    if name == "write":
        return Outgoing([Span(first, second)], second, 0, 0)
    if name == "writev":
        return _outgoing(task.iovecs(first, second), 0, 0)
    if name == "sendto":
        return Outgoing([Span(first, second)], second, _port(task, address, address_length), 0)
    name_at, namelen, iov, iovlen, *_ = MSGHDR.unpack(task.read(first, MSGHDR.size))
    port = _port(task, name_at, namelen)
    sent = _outgoing(task.iovecs(iov, iovlen), port, first + MSGHDR.size if name == "sendmmsg" else 0)
    return sent._replace(number=number)


def _outgoing(spans: list[Span], port: int, count_at: int) -> Outgoing:
    return Outgoing(spans, sum(span.length for span in spans), port, count_at)


def netlink_address(task: Task, address: int, length: int) -> tuple[int, int]:
    """Port and groups of a sockaddr_nl. OSError EFAULT, EINVAL if it is another one."""
    if length & 0xFFFFFFFF < _SOCKADDR_NL.size:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    family, _, port, groups = _SOCKADDR_NL.unpack(task.read(address, _SOCKADDR_NL.size))
    if family != socket.AF_NETLINK:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return int(port), int(groups)


def _port(task: Task, address: int, length: int) -> int:
    return netlink_address(task, address, length)[0] if address else 0


def is_xfrm_socketcall(task: Task, call: Notification) -> bool:
    """Does a 32-bit program open NETLINK_XFRM by socketcall()? OSError EFAULT."""
    family, _, protocol = struct.unpack("=3I", task.read(call.args[1] & 0xFFFFFFFF, 12))
    return (family, protocol) == (socket.AF_NETLINK, NETLINK_XFRM)


class Incoming(NamedTuple):
    """Where a program wants to have what it receives."""

    spans: list[Span]
    room: int
    flags: int
    name: Span
    """Where the sender goes, and how much room is there."""
    namelen_at: int
    """Where its length goes."""
    control: Span
    header: int
    """Address of the msghdr; 0 if there is none."""
    vector: int
    """How many messages there is room for (recvmmsg); 0 where it is not about many."""
    number: int
    """Of this message in the vector."""

    def deliver(self, task: Task, received: Received, buffer: bytearray) -> int:
        """Write it there; what the system call returns. OSError EFAULT."""
        length = min(received.length, self.room)
        more: list[tuple[int, bytes]] = []
        if self.name.address:
            sender = _SOCKADDR_NL.pack(socket.AF_NETLINK, 0, received.port, received.groups)
            more.append((self.name.address, sender[: self.name.length]))
        if self.namelen_at:
            more.append((self.namelen_at, _NAMELEN.pack(_SOCKADDR_NL.size if self.name.address else 0)))
        if self.header:
            control = _control(received.ancillary, self.control.length)
            if control:
                more.append((self.control.address, control))
            cut = _MSG_TRUNC if received.size > length else 0
            more.append((self.header + _MSG_CONTROLLEN, _CONTROLLEN_FLAGS.pack(len(control), cut)))
        count = received.size if self.flags & socket.MSG_TRUNC else length
        if self.vector:
            more.append((self.header + MSGHDR.size, _NAMELEN.pack(count)))
        task.scatter(buffer, length, self.spans, more)
        return self.number + 1 if self.vector else count


def incoming(task: Task, name: str, call: Notification, number: int = 0) -> Incoming:
    """OSError EFAULT, EMSGSIZE."""
    _, first, second, third, address, length_at = call.args
    first += number * MMSGHDR_SIZE
    if name == "read":
        return _incoming([Span(first, second)], 0)
    if name == "readv":
        return _incoming(task.iovecs(first, second), 0)
    if name == "recvfrom":
        length = _NAMELEN.unpack(task.read(length_at, _NAMELEN.size))[0] if address and length_at else 0
        return _incoming([Span(first, second)], third)._replace(
            name=Span(address, length), namelen_at=length_at if address else 0
        )
    flags = third if name == "recvmmsg" else second
    name_at, namelen, iov, iovlen, control, controllen, _ = MSGHDR.unpack(task.read(first, MSGHDR.size))
    return _incoming(task.iovecs(iov, iovlen), flags)._replace(
        name=Span(name_at, namelen), namelen_at=first + _MSG_NAMELEN, control=Span(control, controllen), header=first,
        vector=second & 0xFFFFFFFF if name == "recvmmsg" else 0, number=number,
    )  # fmt: skip


def _incoming(spans: list[Span], flags: int) -> Incoming:
    return Incoming(spans, sum(span.length for span in spans), flags, _NOTHING, 0, _NOTHING, 0, 0, 0)


def _control(ancillary: list[tuple[int, int, bytes]], room: int) -> bytes:
    """Control messages as far as there is room for them."""
    packed = b""
    for level, kind, data in ancillary:
        length = _CMSG.size + len(data)
        message = _CMSG.pack(length, level, kind) + data + bytes(-length % 8)
        if len(packed) + length > room:
            break
        packed += message
    return packed[:room]


assert MSGHDR.size + 8 == MMSGHDR_SIZE
