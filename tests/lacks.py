"""Taking things away from the machine, for real: a forked child loses them in a mount or user namespace of its own."""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from xfrmi.cli.main import main
from xfrmi.lab.namespace import become_root_in_user_namespace

CLONE_NEWNS = 0x0002_0000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
CAPABILITY_VERSION_3 = 0x2008_0522
NOBODY = 65534
UNUSED_MINOR = 254

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="ONLY ROOT CAN MAKE SUCH A DEVICE, NOT TESTED")

_libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def own_mounts() -> None:
    """What is mounted from now on is seen by this process only."""
    if os.geteuid() != 0:
        become_root_in_user_namespace()
    call("unshare", CLONE_NEWNS)
    call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)


def empty_dev_net() -> None:
    own_mounts()
    call("mount", b"tmpfs", b"/dev/net", b"tmpfs", 0, None)


def closed_tun() -> None:
    empty_dev_net()
    os.mknod("/dev/net/tun", stat.S_IFCHR | 0o600, os.makedev(10, 200))
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def tun_without_driver() -> None:
    empty_dev_net()
    os.mknod("/dev/net/tun", stat.S_IFCHR | 0o666, os.makedev(10, UNUSED_MINOR))


def closed_proc_sys() -> None:
    own_mounts()
    call("mount", b"/proc/sys", b"/proc/sys", None, MS_BIND, None)
    call("mount", b"none", b"/proc/sys", None, MS_REMOUNT | MS_BIND | MS_RDONLY, None)


def no_more_user_namespaces() -> None:
    """As on a machine that forbids them: the limit of a user namespace counts for those inside it."""
    become_root_in_user_namespace()
    Path("/proc/sys/user/max_user_namespaces").write_text("0")
    no_capabilities()


def no_capabilities() -> None:
    """An ordinary user from here on, whatever the uid says."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    call("capset", header, (ctypes.c_uint32 * 6)())


def run_after(lose: Callable[[], None], folder: Path, *words: str) -> tuple[int, str, str]:
    """Exit status, stdout, stderr of `xfrmi words..` after `lose`. Skips where this machine does not let us lose it."""
    out, err, excuse = folder / "out", folder / "err", folder / "excuse"
    child = os.fork()
    if child == 0:
        try:
            sys.stdout, sys.stderr = out.open("w", buffering=1), err.open("w", buffering=1)
            try:
                lose()
            except OSError as error:
                excuse.write_text(str(error))
                os._exit(99)
            os._exit(main(list(words)))
        finally:
            os._exit(98)
    _, status = os.waitpid(child, 0)
    if excuse.exists():
        pytest.skip(f"CANNOT TAKE THAT AWAY HERE, NOT TESTED: {excuse.read_text()}")
    return os.waitstatus_to_exitcode(status), out.read_text(), err.read_text()
