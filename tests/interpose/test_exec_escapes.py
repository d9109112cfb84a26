"""Ways around the supervisor: each is closed with an errno that says so, or leads to a socket that works."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.interpose.supervised import EXEC, daemon
from tests.netns import in_netns

COMMON = """
import array, ctypes, errno, mmap, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def number(call, *arguments):
    "The errno of a call that fails, 0 for one that does not."
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return 0
def system(*arguments):
    if libc.syscall(*(ctypes.c_long(a) for a in arguments)) < 0:
        raise OSError(ctypes.get_errno(), "")
def ask(s):
    s.send(struct.pack("=IHHIII", 20, 35, 1, 1, 0, 0))
    return struct.unpack_from("=4xH", s.recv(4096))[0] == 34
s = socket.socket(16, 3, 6)
fd = s.fileno()
"""

NUMBERS = """
assert number(os.dup2, fd, 7) == "ENOTSUP", "a number that the filter does not know"
assert number(os.fstat, 7) == "EBADF", "nothing has happened"
assert number(os.dup2, fd, fd) == 0
os.dup2(fd, fd + 5)
assert ask(socket.socket(16, 3, 6, fileno=fd + 5)), "another of the range"
os.dup2(1, 8), os.dup2(8, 9)
taken = os.open("/dev/null", os.O_RDWR)
os.dup2(taken, fd + 6)
assert os.write(fd + 6, b"x") == 1 and os.read(fd + 6, 1) == b"", "what is no socket of ours, with such a number"
assert ask(s)
if not os.fork():
    pidfd = os.pidfd_open(os.getppid())
    assert number(system, 438, pidfd, fd, 0) == "ENOTSUP"
    assert number(system, 438, pidfd, fd + 6, 0) in (0, "EPERM")
    os._exit(3)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 3
print("done")
"""

PASSED = """
here, there = socket.socketpair()
link = socket.socket(16, 3, 0)
socket.send_fds(here, [b"x"], [fd])
_, (arrived,), _, _ = socket.recv_fds(there, 1, 1)
assert arrived < 900
passed = socket.socket(16, 3, 6, fileno=arrived)
assert number(passed.send, struct.pack("=IHHIII", 20, 35, 1, 1, 0, 0)) == "ECONNREFUSED", "not this kernel's xfrm"
print("done")
"""

RINGS = """
assert number(system, 425, 8, ctypes.addressof(ctypes.create_string_buffer(120))) == "ENOSYS"
print("done")
"""

THIRTY_TWO_BITS = """
code = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("53 89f8 89f3 87d1 cd80 5b c3"))
low = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40)
call = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_uint] * 4)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
where = ctypes.addressof(ctypes.c_char.from_buffer(low))
def socketcall(*arguments):
    low[:12] = struct.pack("=3I", *arguments)
    return call(102, 1, where, 0)
if call(20, 0, 0, 0) == -errno.ENOSYS:
    sys.exit("no 32-bit calls here")
assert call(359, 16, 3, 6) == socketcall(16, 3, 6) == -errno.EPROTONOSUPPORT
assert call(359, 16, 3, 0) > 0 and socketcall(16, 3, 0) > 0 and socketcall(1, 1, 0) > 0
print("done")
"""


def supervised(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EXEC, "--", sys.executable, "-c", COMMON + program], capture_output=True, text=True, timeout=30
    )


@in_netns
def test_numbers_of_the_programs_choice() -> None:
    with daemon():
        done = supervised(NUMBERS)
        assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@in_netns
def test_a_socket_that_was_passed_along_reaches_nobody() -> None:
    with daemon():
        done = supervised(PASSED)
        assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@in_netns
def test_rings_are_not_there() -> None:
    with daemon():
        done = supervised(RINGS)
        assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@in_netns
def test_32_bit_calls_find_no_xfrm() -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("int 0x80 IS OF x86-64, NOT TESTED")
    with daemon():
        done = supervised(THIRTY_TWO_BITS)
        if "no 32-bit calls" in done.stderr:
            pytest.skip("THIS KERNEL HAS NO 32-BIT SYSTEM CALLS, NOT TESTED")
        assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
