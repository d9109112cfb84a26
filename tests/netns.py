"""Private network namespaces for tests: everything happens in a forked child, so nothing outlives the test.

`in_netns` runs the decorated test there; `Namespace` makes further namespaces inside it. As root only a network
namespace is made; otherwise a user namespace around it (root inside). Where the machine forbids both, the test is
skipped and says why.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from typing import ParamSpec

import pytest

from tests.iproute import ip

CLONE_NEWUSER = 0x1000_0000
CLONE_NEWNET = 0x4000_0000
_SECONDS = 60

P = ParamSpec("P")
_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: int) -> None:
    if getattr(_libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def sysctl(name: str, value: object) -> None:
    with open("/proc/sys/" + name.replace(".", "/"), "w") as knob:
        knob.write(str(value))


class Namespace:
    """One more network namespace, gone with the last descriptor; `with` it to work inside."""

    def __init__(self) -> None:
        before = os.open("/proc/self/ns/net", os.O_RDONLY)
        _call("unshare", CLONE_NEWNET)
        self.fd = os.open("/proc/self/ns/net", os.O_RDONLY)
        ip("link set lo up")
        _call("setns", before, CLONE_NEWNET)
        os.close(before)

    def __enter__(self) -> Namespace:
        self._outer = os.open("/proc/self/ns/net", os.O_RDONLY)
        _call("setns", self.fd, CLONE_NEWNET)
        return self

    def __exit__(self, *_: object) -> None:
        _call("setns", self._outer, CLONE_NEWNET)
        os.close(self._outer)

    def __str__(self) -> str:
        """What `ip link set ... netns` takes."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"


def _enter() -> None:
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        _call("unshare", CLONE_NEWNET)
    else:
        _call("unshare", CLONE_NEWUSER | CLONE_NEWNET)
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            with open(f"/proc/self/{name}", "w") as table:
                table.write(text)
    ip("link set lo up")


def outcome(test: Callable[[], object]) -> tuple[str, str]:
    """What became of a test, as `settle` takes it in another process: pass, skip or fail, and the words for it."""
    try:
        test()
    except pytest.skip.Exception as skip:
        return "skip", str(skip)
    except BaseException:
        return "fail", traceback.format_exc()
    return "pass", ""


def settle(verdict: str, text: str) -> None:
    """Let the test that is running now come out like this."""
    if verdict == "skip":
        pytest.skip(text)
    if verdict == "fail":
        pytest.fail(text, pytrace=False)


def enter_netns() -> None:
    """A network namespace of this process's own, `lo` up, for good; skips loudly where there is none to be had."""
    try:
        _enter()
    except OSError as error:
        pytest.skip(f"NO PRIVATE NETWORK NAMESPACE HERE, NOT TESTED: {error}")


def _child(test: Callable[[], object], report: int) -> None:
    def inside() -> None:
        enter_netns()
        test()

    signal.alarm(_SECONDS)
    os.write(report, pickle.dumps(outcome(inside)))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def in_netns(test: Callable[P, object]) -> Callable[P, None]:
    """Decorator: run the test in a forked child with a network namespace of its own, `lo` up."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            _child(lambda: test(*args, **kwargs), write)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            data = pipe.read()
        _, status = os.waitpid(child, 0)
        settle(*(pickle.loads(data) if data else ("fail", f"the child ended with wait status {status}")))

    return run


def need_other_users() -> None:
    """Skip loudly where nobody can become somebody else: not as root, or with one user in this user namespace."""
    with open("/proc/self/uid_map", encoding="ascii") as table:
        users = sum(int(line.split()[2]) for line in table)
    if os.geteuid() != 0 or users < 2:
        pytest.skip("HERE IS ONLY ONE USER, NOT TESTED")


def need_tun() -> None:
    """Skip loudly where /dev/net/tun cannot be used."""
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        pytest.skip(f"/dev/net/tun IS NOT USABLE HERE, NOT TESTED: {errno.errorcode[error.errno or 0]}")
