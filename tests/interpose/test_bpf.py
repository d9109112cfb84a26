"""The filter, run by an interpreter of its own: which calls stop, on every machine whose numbers are known."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from xfrmi.interpose import bpf
from xfrmi.interpose.bpf import MACHINES, Machine

FIRST, END = 960, 1024
ALLOW, ASK = bpf.SECCOMP_RET_ALLOW, bpf.SECCOMP_RET_USER_NOTIF


def verdict(program: bytes, audit: int, nr: int, *args: int) -> int:
    """What the kernel would do: linux/filter.h, the few instructions that are used."""
    data = struct.pack("=iIQ6Q", nr, audit, 0, *args, *[0] * (6 - len(args)))
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator = at = 0
    while True:
        operation, then, otherwise, k = code[at]
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, k)
            case 0x54:
                accumulator &= k
            case 0x15:
                at += then if accumulator == k else otherwise
            case 0x35:
                at += then if accumulator >= k else otherwise
            case 0x06:
                return int(k)
            case _:
                raise AssertionError(operation)


@pytest.fixture(params=MACHINES.values(), ids=MACHINES.keys())
def machine(request: pytest.FixtureRequest) -> Machine:
    assert isinstance(request.param, Machine)
    return request.param


def test_descriptors_of_the_range_stop(machine: Machine) -> None:
    program = bpf.assemble(machine, FIRST, END)
    for name in set(bpf.FD_CALLS) & set(machine.calls):
        for fd, expected in ((0, ALLOW), (959, ALLOW), (960, ASK), (1023, ASK), (1024, ALLOW), (2**32 - 1, ALLOW)):
            assert verdict(program, machine.audit, machine.calls[name], fd) == expected, (name, fd)
        # The kernel looks at the lower half of a descriptor only.
        assert verdict(program, machine.audit, machine.calls[name], 1 << 32 | 960) == ASK


def test_of_sockets_only_two_kinds_of_netlink(machine: Machine) -> None:
    program = bpf.assemble(machine, FIRST, END)
    nr = machine.calls["socket"]
    for family in range(20):
        for protocol in range(23):
            expected = ASK if family == 16 and protocol in (0, 6) else ALLOW
            assert verdict(program, machine.audit, nr, family, 3, protocol) == expected


def test_files_opened_for_reading(machine: Machine) -> None:
    program = bpf.assemble(machine, FIRST, END)
    at_cwd = 2**64 - 100
    for flags, expected in (
        (os.O_RDONLY, ASK), (os.O_CLOEXEC, ASK), (os.O_RDONLY | os.O_NONBLOCK, ASK), (os.O_WRONLY, ALLOW),
        (os.O_RDWR, ALLOW), (os.O_CREAT, ALLOW), (os.O_DIRECTORY, ALLOW), (os.O_PATH | os.O_CLOEXEC, ALLOW),
    ):  # fmt: skip
        assert verdict(program, machine.audit, machine.calls["openat"], at_cwd, 1, flags) == expected
        if "open" in machine.calls:
            assert verdict(program, machine.audit, machine.calls["open"], 1, flags) == expected


def test_socket_options(machine: Machine) -> None:
    program = bpf.assemble(machine, FIRST, END)
    nr = machine.calls["setsockopt"]
    anywhere = {(0, 17), (41, 35), (17, 100), (17, 104)}
    for level in (0, 1, 6, 17, 41, 58, 270):
        for option in range(120):
            expected = ASK if (level, option) in anywhere else ALLOW
            assert verdict(program, machine.audit, nr, 5, level, option) == expected
            in_range = ASK if (level, option) in anywhere or (level == 270 and option in (1, 2)) else ALLOW
            assert verdict(program, machine.audit, nr, 1000, level, option) == in_range


def test_nothing_else_stops(machine: Machine) -> None:
    program = bpf.assemble(machine, FIRST, END)
    watched = set(machine.calls.values())
    for nr in range(600):
        if nr not in watched:
            assert verdict(program, machine.audit, nr, 1000, 1000, 0) == ALLOW


def test_other_ways_to_a_socket_lead_to_no_xfrm(machine: Machine) -> None:
    """32-bit programs, x32, io_uring; a machine that is none of these is left alone."""
    program = bpf.assemble(machine, FIRST, END)
    none, no_rings = bpf.SECCOMP_RET_ERRNO | errno.EPROTONOSUPPORT, bpf.SECCOMP_RET_ERRNO | errno.ENOSYS
    ways = [(machine.compat_audit, machine.compat_socket)]
    if machine is MACHINES["x86_64"]:
        ways.append((machine.audit, 0x40000000 | machine.calls["socket"]))
        assert verdict(program, machine.compat_audit, machine.compat_socketcall, 1) == ASK
        assert verdict(program, machine.compat_audit, machine.compat_socketcall, 2) == ALLOW
        assert verdict(program, machine.audit, 0x40000000 | machine.calls["io_uring_setup"]) == no_rings
    for audit, nr in ways:
        assert verdict(program, audit, nr, 16, 3, 6) == none
        assert verdict(program, audit, nr, 16, 3, 0) == ALLOW
        assert verdict(program, audit, nr, 2, 3, 6) == ALLOW
        assert verdict(program, audit, nr + 1, 16, 3, 6) == ALLOW
    assert verdict(program, machine.audit, machine.calls["io_uring_setup"], 8) == no_rings
    assert verdict(program, 0xDEAD, machine.calls["socket"], 16, 3, 6) == ALLOW


def test_a_descriptor_of_another_process(machine: Machine) -> None:
    program = bpf.assemble(machine, FIRST, END)
    for fd, expected in ((3, ALLOW), (960, ASK), (1024, ALLOW)):
        assert verdict(program, machine.audit, machine.calls["pidfd_getfd"], 5, fd, 0) == expected


def test_the_kernel_takes_it() -> None:
    """Few enough instructions, jumps only forward: in a child, since it is for good."""
    machine = bpf.this_machine()
    if machine is None:
        pytest.skip(f"THE SYSTEM CALLS OF {os.uname().machine} ARE NOT KNOWN, NOT TESTED")
    from xfrmi.interpose.seccomp import install

    child = os.fork()
    if not child:
        try:
            install(machine, bpf.assemble(machine, FIRST, END))
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
