"""Daemons that are copies of the test's process instead of Python programs that begin anew.

Beginning costs half a second of processor time, most of it for imports, and the tests start hundreds. A copy has all of
that already. From the fork on nothing tells it from `xfrmi daemon`, except what `ps` shows: descriptors, environment,
signals and what Python keeps per process are as in a new one. Where memory itself is looked at, or what a program says
while it starts, a real one is due (`Lab`, tests/daemon/test_main.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

import xfrmi.daemon.main
import xfrmi.daemon.workers  # noqa: F401
from xfrmi.cli.main import main
from xfrmi.dev.netns import enter
from xfrmi.lab.namespace import PR_SET_PDEATHSIG, xfrmi_command
from xfrmi.lab.topology import Lab, Node

_libc = ctypes.CDLL(None)


class Forked:
    """As much of a subprocess.Popen as anybody asks of a daemon's."""

    def __init__(self, pid: int, args: list[str]) -> None:
        self.pid = pid
        self.args = args
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._look(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._look(0 if deadline is None else os.WNOHANG) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _look(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


class ForkedNode(Node):
    """Its daemons are copies of this process."""

    def launch_daemon(self, *options: str) -> Forked:  # type: ignore[override]
        words = ["daemon", *options]
        parent = os.getpid()
        child = os.fork()
        if child:
            program = Forked(child, xfrmi_command(*words))
            self.programs.append(program)  # type: ignore[arg-type]
            return program
        try:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            enter(self.fd)
            os.setsid()
            _become_a_program(words, self.env, self.folder / "daemon.log")
            status = main(words)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)


def _become_a_program(words: list[str], env: Mapping[str, str], log: Path) -> None:
    gc.freeze()  # nothing of the parent's is finalized, which could close a descriptor that has got another's number
    faulthandler.disable()
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666), 1)
    os.dup2(1, 2)
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > 2:
            with contextlib.suppress(OSError):  # the one of the listing
                os.close(number)
    os.environ.clear()
    os.environ.update(env)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    sys.unraisablehook, sys.excepthook = sys.__unraisablehook__, sys.__excepthook__
    sys.orig_argv = xfrmi_command(*words)
    sys.argv = sys.orig_argv[2:]


class ForkedLab(Lab):
    """A lab of such nodes."""

    def node(self, name: str) -> Node:
        node = ForkedNode(name, self.folder)
        self.nodes.append(node)
        return node
