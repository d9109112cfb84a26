"""Giving up what is not needed: capabilities, new privileges by exec, core dumps, the memory's openness to others.

What of the data path and its control takes which capability, and when (looked up in the kernel's source, and tried:
tests/daemon/test_privileges.py):

    CAP_NET_ADMIN       making and taking over TUNs, every change of a device, traffic control, SO_MARK, large buffers;
                        per device in /proc/sys/net. As long as interfaces may come and go
    CAP_NET_RAW         raw sockets. At the start; later for UDP ports' raw siblings, and to tell the kernel a path MTU
    CAP_NET_BROADCAST   to hear of devices in other namespaces. Only by who opens the socket, not by who reads it
    CAP_SYS_ADMIN       to enter a namespace that a device was moved to. At the start, to find devices there
    CAP_SYS_PTRACE      to find namespaces that have no name. At the start only
    CAP_SETPCAP         to give up the bounding set. At the very end of the start

A descriptor that is open goes on working without any of them: TUNs are read and written, ESP is received and sent.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
from collections.abc import Set

CAPABILITIES = {"net_bind_service": 10, "net_admin": 12, "net_raw": 13, "sys_admin": 21}
"""Those that somebody may want to keep, by bit number."""

_PR_SET_DUMPABLE, _PR_CAPBSET_READ, _PR_CAPBSET_DROP = 4, 23, 24
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
_SETPCAP = 8
_HEADER, _VERSION_3 = struct.Struct("=Ii"), 0x2008_0522
_DATA = struct.Struct("=6I")
"""Effective, permitted, inheritable: their lower halves, then their upper."""

_libc = ctypes.CDLL(None, use_errno=True)


def close_memory() -> None:
    """No core dump, and nobody but root may look into this process (ptrace, /proc/PID/mem). For forks as well, until
    they exec. To be called before the first key is there.

    PR_SET_DUMPABLE is what counts: a limit of 0 does not stop a core_pattern that is a pipe. It gives /proc/PID to
    root, but a process may always look at itself. In a user namespace "root" is that one's, if it has exec'd there.
    """
    _prctl(_PR_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def no_new_privileges() -> None:
    """No exec will give this process more than it has (set-uid, file capabilities)."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def use_capabilities() -> None:
    """Put into effect what is permitted: a program's file may permit without that (`setcap ...=p`), and then it starts
    also where there is nothing to permit, and can say so itself."""
    effective, permitted = capabilities()
    if effective != permitted:
        _set_capabilities(permitted, permitted)


def keep_capabilities(names: Set[str]) -> None:
    """Of the capabilities that there are keep those named, for good; none of them can be inherited by exec.

    The calling thread's alone: to be called while there is no other. OSError EPERM.
    """
    wanted = sum(1 << CAPABILITIES[name] for name in names)
    effective, permitted = capabilities()
    if effective >> _SETPCAP & 1:  # without it, what bounds us is what somebody else has chosen
        number = 0
        while (bound := _libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0)) >= 0:
            if bound and not wanted >> number & 1:
                _prctl(_PR_CAPBSET_DROP, number)
            number += 1
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _set_capabilities(permitted & wanted, permitted & wanted)


def capabilities() -> tuple[int, int]:
    """Effective and permitted, of the calling thread."""
    data = ctypes.create_string_buffer(_DATA.size)
    if _libc.capget(_HEADER.pack(_VERSION_3, 0), data):
        raise _error("capget")
    effective, permitted, _, effective_high, permitted_high, _ = _DATA.unpack(data.raw)
    return effective | effective_high << 32, permitted | permitted_high << 32


def _set_capabilities(effective: int, permitted: int) -> None:
    halves = [word >> shift & 0xFFFF_FFFF for shift in (0, 32) for word in (effective, permitted, 0)]
    if _libc.capset(_HEADER.pack(_VERSION_3, 0), _DATA.pack(*halves)):
        raise _error("capset")


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        raise _error("prctl")


def _error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")
