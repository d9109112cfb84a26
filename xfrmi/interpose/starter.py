"""Starting daemons for supervised programs, in whichever namespace one is needed."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
import time

from xfrmi.daemon import runtime
from xfrmi.dev.netns import OWN_NETNS, inside, netns_inode
from xfrmi.errors import XfrmError

START_SECONDS = 20.0
"""A daemon has this long to come up."""
KEEP = "--keep", "sys_admin", "--keep", "net_bind_service"
"""Programs move devices to other namespaces, and choose ports for UDP encapsulation, as they do with a kernel."""


class Starter:
    """Starts daemons."""

    def __init__(self, stay: bool) -> None:
        self._stay = stay
        self.said = ""
        """What there is to say about the last start."""
        self.started: set[int] = set()
        """Namespaces (inodes) where the daemon is one of ours."""

    def start(self, netns_fd: int) -> None:
        """One in the namespace of this descriptor, ready to be asked. XfrmError with its last words if it fails."""
        command = [sys.executable, "-m", "xfrmi", "daemon", *KEEP, *([] if self._stay else ["--while-used"])]
        with inside(netns_fd):
            inode = netns_inode()
            directory = log_directory()
            _forget_logs(directory)
            log = f"{directory}/{inode}.log"
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                daemon = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=descriptor, stderr=descriptor, start_new_session=True,
                    cwd="/", env=_environment(),
                )  # fmt: skip
            finally:
                os.close(descriptor)
            deadline = time.monotonic() + START_SECONDS
            while not _listens():
                if daemon.poll() is not None or time.monotonic() > deadline:
                    raise XfrmError(errno.ECONNREFUSED, detail=_last_words(log))
                time.sleep(0.01)
        self.started.add(inode)
        until = "" if self._stay else "; it goes with the last program that needs it"
        self.said = f"started a daemon for this network namespace (pid {daemon.pid}, log {log}){until}"


def log_directory() -> str:
    base = runtime.base_directory()
    os.makedirs(base, 0o700, exist_ok=True)
    if not runtime.trusted(base, runtime.OTHERS_MAY):
        raise XfrmError(
            errno.EPERM, detail=f"{base} is not a directory of this user alone; set XFRMI_RUNTIME_DIR to one that is"
        )
    return base


def _forget_logs(directory: str) -> None:
    """Those of daemons that have ended: what they said was for those who wondered why."""
    for entry in os.listdir(directory):
        inode, _, suffix = entry.partition(".")
        if suffix == "log" and inode.isdigit() and not os.path.exists(f"{directory}/{inode}"):
            with contextlib.suppress(OSError):
                os.unlink(f"{directory}/{entry}")


def _environment() -> dict[str, str]:
    """The daemon is not what systemd waits for, and works in no directory of ours."""
    environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (package, environment.get("PYTHONPATH"))))
    return environment


def _listens() -> bool:
    """The last socket that a daemon opens takes connections."""
    directory = runtime.find_directory(OWN_NETNS)
    if directory is None:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(f"{directory}/{runtime.JSON_SOCKET}")
        except OSError:
            return False
    return True


def _last_words(log: str) -> str:
    with open(log, encoding="utf-8", errors="replace") as file:
        lines = file.read().strip().splitlines()
    said = lines[-1].removeprefix("xfrmi: ") if lines else f"it said nothing in {START_SECONDS:.0f} seconds"
    return f"no daemon serves this network namespace, and none could be started: {said}"
