"""Network namespaces without names, held by a file descriptor.

Nothing is bound into a file system, so nothing can be left behind: when the process ends, however it ends, its
namespaces end with it, and the children it started get a signal (PR_SET_PDEATHSIG). Ordinary users get one user
namespace first, in which they are root; network namespaces made inside it are theirs.

Python 3.11 has no os.unshare, hence the C library directly.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import IO, Any

from xfrmi.dev.netns import CLONE_NEWNET, enter, inside, open_netns

CLONE_NEWUSER = 0x1000_0000
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _unshare(flags: int) -> None:
    if _libc.unshare(flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "unshare")


def become_root_in_user_namespace() -> None:
    """Enter a user namespace of our own, as its root. The process must have one thread. Raises OSError.

    A network namespace comes with it: one may only return (setns) to a namespace that one's own user namespace owns.
    """
    uid, gid = os.geteuid(), os.getegid()
    _unshare(CLONE_NEWUSER | CLONE_NEWNET)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as table:
            table.write(text)


class Namespace:
    """One network namespace. `with` it, and sockets opened in the block live there for good.

    The block moves the calling thread only; a socket belongs to the namespace it was opened in, wherever it is used.
    """

    def __init__(self) -> None:
        """Raises OSError where network namespaces are not to be had."""
        outside = open_netns()
        try:
            _unshare(CLONE_NEWNET)
            self.fd = open_netns()
            enter(outside)
        finally:
            os.close(outside)
        self._blocks: list[AbstractContextManager[None]] = []

    def __enter__(self) -> Namespace:
        block = inside(self.fd)
        block.__enter__()
        self._blocks.append(block)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._blocks.pop().__exit__(kind, error, trace)

    def popen(
        self,
        command: Sequence[str],
        *,
        stdin: int | IO[Any] = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        env: dict[str, str] | None = None,
        cwd: str | None = None,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.Popen[str]:
        """Start a program in here; it is killed if we die."""
        parent = os.getpid()

        def settle() -> None:
            enter(self.fd)
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # we died between fork and prctl
                os._exit(1)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())

        return subprocess.Popen(
            list(command),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=env,
            cwd=cwd,
            pass_fds=pass_fds,
            text=True,
            preexec_fn=settle,
            start_new_session=True,  # a Ctrl-C is ours to handle: programs are stopped in order
        )

    def run(
        self, command: Sequence[str], env: dict[str, str] | None = None, cwd: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in here to its end; output is captured."""
        process = self.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, cwd=cwd)
        try:
            out, err = process.communicate()
        except BaseException:
            process.kill()
            process.wait()
            raise
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def sysctl(name: str, value: int | str) -> None:
    """Set net.* of the namespace the calling thread is in: sysctl('net.ipv4.ip_forward', 1)."""
    with open("/proc/sys/" + name.replace(".", "/"), "w", encoding="ascii") as knob:
        knob.write(str(value))


def xfrmi_command(*arguments: str) -> list[str]:
    """This very xfrmi, as a program to start."""
    return [sys.executable, "-m", "xfrmi", *arguments]
