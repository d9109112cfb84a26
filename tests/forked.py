"""`xfrmi` as a copy of the test's process instead of a Python program that begins anew.

Beginning costs a daemon half a second of processor time, most of it for imports, and the tests start hundreds. A copy
has all of that already, if the test's process has it: tests/system/conftest.py imports it. (This module does not, for
the bench imports it on its way, and asks for a user namespace before numpy has made threads.) From the fork on nothing
tells it from `xfrmi ...`, except what `ps` shows: descriptors, environment, signals and what Python keeps per process
are as in a new one. Where memory itself is looked at, or how a program begins, a real one is due (`Lab`,
tests/daemon/test_main.py, everything with subprocess).
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from tempfile import TemporaryFile
from typing import TypeAlias

from xfrmi.cli.main import main
from xfrmi.dev.netns import enter
from xfrmi.lab.namespace import PR_SET_PDEATHSIG, xfrmi_command
from xfrmi.lab.topology import Lab, Node

_libc = ctypes.CDLL(None)

Done: TypeAlias = subprocess.CompletedProcess[str]


class Forked:
    """As much of a subprocess.Popen as anybody asks of xfrmi's."""

    def __init__(self, pid: int, args: list[str]) -> None:
        self.pid = pid
        self.args = args
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.poll() is None:
            fd = os.pidfd_open(self.pid)
            try:
                ended, _, _ = select.select([fd], [], [], timeout)
            finally:
                os.close(fd)
            if not ended:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.poll()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def begin(
    words: list[str],
    stdin: int,
    stdout: int,
    stderr: int,
    env: Mapping[str, str] | None = None,
    first: Callable[[], object] = lambda: None,
) -> Forked:
    """`xfrmi WORDS` with these descriptors, which stay the caller's; the child does `first` before anything else."""
    child = os.fork()
    if child:
        return Forked(child, xfrmi_command(*words))
    try:
        gc.freeze()  # nothing of the parent's is finalized: that could close a descriptor whose number is another's now
        first()
        _become_a_program(words, (stdin, stdout, stderr), dict(os.environ if env is None else env))
        status = main(words)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    except SystemExit as end:  # of argparse
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(1)


def _become_a_program(words: list[str], streams: tuple[int, int, int], env: Mapping[str, str]) -> None:
    faulthandler.disable()
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number, fd in enumerate([os.dup(fd) for fd in streams]):
        os.dup2(fd, number)
    os.closerange(3, 1 + max(map(int, os.listdir("/proc/self/fd"))))
    os.environ.clear()
    os.environ.update(env)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    sys.unraisablehook, sys.excepthook = sys.__unraisablehook__, sys.__excepthook__
    sys.orig_argv = xfrmi_command(*words)
    sys.argv = sys.orig_argv[2:]


def run(words: list[str], env: Mapping[str, str] | None = None, stdin: str = "", seconds: float = 60) -> Done:
    """`xfrmi WORDS` to its end, in a session of its own; output is captured. TimeoutExpired when it has been killed."""
    with TemporaryFile("w+") as given, TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        given.write(stdin)
        given.seek(0)
        process = begin(words, given.fileno(), out.fileno(), err.fileno(), env, os.setsid)
        try:
            status = process.wait(seconds)
        finally:
            process.kill()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(process.args, status, out.read(), err.read())


class ForkedNode(Node):
    """Its daemons are copies of this process."""

    def launch_daemon(self, *options: str) -> Forked:  # type: ignore[override]
        parent = os.getpid()

        def settle() -> None:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it died between fork and prctl
                os._exit(1)
            enter(self.fd)
            os.setsid()

        with open(self.folder / "daemon.log", "ab") as log, open(os.devnull, "rb") as nothing:
            said = log.fileno()
            program = begin(["daemon", *options], nothing.fileno(), said, said, self.env, settle)
        self.programs.append(program)  # type: ignore[arg-type]
        return program


class ForkedLab(Lab):
    """A lab of such nodes."""

    def node(self, name: str) -> Node:
        node = ForkedNode(name, self.folder)
        self.nodes.append(node)
        return node
