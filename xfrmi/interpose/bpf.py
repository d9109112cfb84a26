"""The seccomp filter: which system calls of supervised programs stop and ask. Classic BPF, assembled here.

Numbers: linux/seccomp.h, linux/filter.h, linux/audit.h, asm/unistd.h. The program looks at 64 bytes (seccomp_data:
number, architecture, instruction pointer, six arguments) and may only jump forward.
"""

from __future__ import annotations

import errno
import os
import platform
import struct
from typing import NamedTuple

SECCOMP_RET_ALLOW, SECCOMP_RET_USER_NOTIF, SECCOMP_RET_ERRNO = 0x7FFF0000, 0x7FC00000, 0x00050000

AF_NETLINK = 16
SYS_SOCKET = 1
NETLINK_ROUTE, NETLINK_USERSOCK, NETLINK_XFRM = 0, 2, 6
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NETLINK_DROP_MEMBERSHIP = 270, 1, 2
SOL_IP, IP_XFRM_POLICY = 0, 17
SOL_IPV6, IPV6_XFRM_POLICY = 41, 35
SOL_UDP, UDP_ENCAP, UDP_GRO = 17, 100, 104

OTHER_OPENS = os.O_ACCMODE | os.O_CREAT | os.O_DIRECTORY | os.O_PATH
"""Flags of open() that reading a file of /proc never has."""


class Machine(NamedTuple):
    """What differs between architectures. `fd_calls` have the descriptor as their first argument."""

    audit: int
    calls: dict[str, int]
    highest: int
    """System call numbers from here on are another ABI's (x32), with this added."""
    compat_audit: int
    """AUDIT_ARCH_* of 32-bit programs."""
    compat_socket: int
    compat_socketcall: int
    """Their numbers; 0 if there is none. The second has its arguments in memory."""


FD_CALLS = (
    "sendto", "sendmsg", "sendmmsg", "write", "writev", "recvfrom", "recvmsg", "recvmmsg", "read", "readv", "bind",
    "connect", "dup", "dup2", "dup3", "fcntl",
)  # fmt: skip

MACHINES = {
    "x86_64": Machine(
        0xC000003E,
        {
            "read": 0, "write": 1, "open": 2, "readv": 19, "writev": 20, "dup": 32, "dup2": 33, "socket": 41,
            "connect": 42, "sendto": 44, "recvfrom": 45, "sendmsg": 46, "recvmsg": 47, "bind": 49, "setsockopt": 54,
            "fcntl": 72, "openat": 257, "dup3": 292, "recvmmsg": 299, "sendmmsg": 307, "seccomp": 317,
            "io_uring_setup": 425, "pidfd_getfd": 438,
        },
        0x40000000, 0x40000003, 359, 102,
    ),
    "aarch64": Machine(
        0xC00000B7,
        {
            "dup": 23, "dup3": 24, "fcntl": 25, "openat": 56, "read": 63, "write": 64, "readv": 65, "writev": 66,
            "socket": 198, "bind": 200, "connect": 203, "sendto": 206, "recvfrom": 207, "setsockopt": 208,
            "sendmsg": 211, "recvmsg": 212, "recvmmsg": 243, "sendmmsg": 269, "seccomp": 277, "io_uring_setup": 425,
            "pidfd_getfd": 438,
        },
        0xFFFFFFFF, 0x40000028, 281, 0,
    ),
}  # fmt: skip
"""By the name in `uname -m`."""

_LD, _JEQ, _JGE, _AND, _RET = 0x20, 0x15, 0x35, 0x54, 0x06
_NR, _ARCH, _ARGS = 0, 4, 16
_INSTRUCTION = struct.Struct("=HBBI")


class _Assembler:
    """Instructions with names for places; jumps are resolved at the end."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, str, str]] = []
        self._places: dict[str, int] = {}

    def at(self, place: str) -> None:
        self._places[place] = len(self._code)

    def load(self, offset: int) -> None:
        self._code.append((_LD, offset, "", ""))

    def load_arg(self, number: int) -> None:
        """The lower half of an argument: those looked at are ints, and the kernel ignores the rest, too."""
        self.load(_ARGS + 8 * number)

    def keep(self, mask: int) -> None:
        self._code.append((_AND, mask, "", ""))

    def equal(self, value: int, then: str = "", otherwise: str = "") -> None:
        self._code.append((_JEQ, value, then, otherwise))

    def at_least(self, value: int, then: str = "", otherwise: str = "") -> None:
        self._code.append((_JGE, value, then, otherwise))

    def end(self, verdict: int) -> None:
        self._code.append((_RET, verdict, "", ""))

    def bytes(self) -> bytes:
        program = b""
        for here, (code, value, then, otherwise) in enumerate(self._code):
            program += _INSTRUCTION.pack(code, self._distance(here, then), self._distance(here, otherwise), value)
        return program

    def _distance(self, here: int, place: str) -> int:
        return self._places[place] - here - 1 if place else 0


def this_machine() -> Machine | None:
    """None where nobody has written down the numbers."""
    return MACHINES.get(platform.machine())


def assemble(machine: Machine, first_fd: int, end_fd: int) -> bytes:
    """The filter for carriers with descriptors in [first_fd, end_fd), as an array of sock_filter."""
    calls = machine.calls
    asm = _Assembler()
    asm.load(_ARCH)
    asm.equal(machine.audit, otherwise="compat")
    asm.load(_NR)
    asm.at_least(machine.highest, then="other_abi")
    for name in FD_CALLS:
        if name in calls:
            asm.equal(calls[name], then="descriptor")
    asm.equal(calls["openat"], then="openat")
    if "open" in calls:
        asm.equal(calls["open"], then="open")
    asm.equal(calls["socket"], then="socket")
    asm.equal(calls["pidfd_getfd"], then="foreign_descriptor")
    asm.equal(calls["io_uring_setup"], then="no_rings")
    asm.equal(calls["setsockopt"], then="setsockopt", otherwise="allow")

    # Requests of other kinds are looked at no closer: who wants NETLINK_XFRM by them is told that there is none.
    asm.at("compat")
    asm.equal(machine.compat_audit, otherwise="allow")
    asm.load(_NR)
    asm.equal(machine.compat_socket, then="foreign_socket", otherwise="" if machine.compat_socketcall else "allow")
    if machine.compat_socketcall:
        asm.equal(machine.compat_socketcall, otherwise="allow")
        asm.load_arg(0)
        asm.equal(SYS_SOCKET, then="ask", otherwise="allow")
    asm.at("other_abi")
    asm.equal(machine.highest | calls["socket"], then="foreign_socket")
    asm.equal((machine.highest | calls["io_uring_setup"]) & 0xFFFFFFFF, then="no_rings", otherwise="allow")
    asm.at("foreign_socket")
    asm.load_arg(0)
    asm.equal(AF_NETLINK, otherwise="allow")
    asm.load_arg(2)
    asm.equal(NETLINK_XFRM, then="no_protocol", otherwise="allow")
    asm.at("no_protocol")
    asm.end(SECCOMP_RET_ERRNO | errno.EPROTONOSUPPORT)
    # What is sent and received by a ring passes no filter.
    asm.at("no_rings")
    asm.end(SECCOMP_RET_ERRNO | errno.ENOSYS)

    asm.at("openat")
    asm.load_arg(2)
    asm.keep(OTHER_OPENS)
    asm.equal(0, then="ask", otherwise="allow")
    asm.at("open")
    asm.load_arg(1)
    asm.keep(OTHER_OPENS)
    asm.equal(0, then="ask", otherwise="allow")

    asm.at("socket")
    asm.load_arg(0)
    asm.equal(AF_NETLINK, otherwise="allow")
    asm.load_arg(2)
    asm.equal(NETLINK_ROUTE, then="ask")
    asm.equal(NETLINK_XFRM, then="ask", otherwise="allow")

    asm.at("setsockopt")
    asm.load_arg(1)
    asm.equal(SOL_NETLINK, then="membership")
    asm.equal(SOL_UDP, then="udp")
    asm.equal(SOL_IP, then="ip")
    asm.equal(SOL_IPV6, otherwise="allow")
    asm.load_arg(2)
    asm.equal(IPV6_XFRM_POLICY, then="ask", otherwise="allow")
    asm.at("ip")
    asm.load_arg(2)
    asm.equal(IP_XFRM_POLICY, then="ask", otherwise="allow")
    asm.at("udp")
    asm.load_arg(2)
    asm.equal(UDP_ENCAP, then="ask")
    asm.equal(UDP_GRO, then="ask", otherwise="allow")
    asm.at("membership")
    asm.load_arg(2)
    asm.equal(NETLINK_ADD_MEMBERSHIP, then="descriptor")
    asm.equal(NETLINK_DROP_MEMBERSHIP, then="descriptor", otherwise="allow")

    asm.at("foreign_descriptor")
    asm.load_arg(1)
    asm.at_least(end_fd, then="allow")
    asm.at_least(first_fd, then="ask", otherwise="allow")
    asm.at("descriptor")
    asm.load_arg(0)
    asm.at_least(end_fd, then="allow")
    asm.at_least(first_fd, then="ask", otherwise="allow")
    asm.at("allow")
    asm.end(SECCOMP_RET_ALLOW)
    asm.at("ask")
    asm.end(SECCOMP_RET_USER_NOTIF)
    return asm.bytes()
