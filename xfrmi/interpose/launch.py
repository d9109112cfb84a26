"""`xfrmi exec`: a supervisor beside the program, and then the program itself, in the process that was asked for it.

The supervisor is nobody's child (forked twice), in a session of its own, and not behind the filter. The program keeps
pid, parent, standard streams, terminal and signals: what waits for it, or notifies systemd, notices nothing. A daemon
that has to be started is the supervisor's business, too, in whichever namespace a supervised program needs one.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xfrmi.daemon import runtime
from xfrmi.dev.netns import OWN_NETNS, inside, netns_inode, open_netns
from xfrmi.errors import XfrmError
from xfrmi.interpose import bpf, seccomp
from xfrmi.interpose.bpf import Machine
from xfrmi.interpose.seccomp import Listener

CARRIERS = 64
"""Numbers for descriptors of carriers, for each process."""
FD_SETSIZE = 1024
"""Above that select() cannot wait for them."""
START_SECONDS = 20.0
"""A daemon has this long to come up."""


@dataclass(frozen=True)
class Options:
    stay: bool = False
    """Leave a daemon running that was started for this."""
    verbose: bool = False
    """Say what is intercepted."""


def execute(command: Sequence[str], options: Options, say: Callable[[str], None]) -> None:
    """Become the program `command`, supervised. Returns only by raising: XfrmError, or OSError of the program's start.

    `say` tells the user something he should know before the program begins.
    """
    machine = seccomp.supported_machine()
    if seccomp.is_supervised(machine):
        os.execvp(command[0], list(command))
    fds = carrier_numbers()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if not os.fork():
        ours.close()
        _become_supervisor(theirs, machine, fds, options)
    theirs.close()
    os.wait()
    _expect(ours, say)
    listener = seccomp.install(machine, bpf.assemble(machine, fds.start, fds.stop))
    socket.send_fds(ours, [b"listener"], [listener])
    os.close(listener)
    _expect(ours, say)
    ours.close()
    os.execvp(command[0], list(command))


def carrier_numbers() -> range:
    """Descriptors for carriers: as high as select() and the limit of open files let them be."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    end = FD_SETSIZE if soft == resource.RLIM_INFINITY else min(FD_SETSIZE, soft)
    if end < 2 * CARRIERS:
        raise XfrmError(errno.EMFILE, detail=f"exec needs a limit of {2 * CARRIERS} open files or more: ulimit -n 1024")
    return range(end - CARRIERS, end)


def _expect(link: socket.socket, say: Callable[[str], None]) -> None:
    """Wait for the supervisor. XfrmError with what it could not do."""
    text = link.recv(1 << 16)
    if not text:
        raise XfrmError(errno.ECONNRESET, detail="the supervisor did not start; this is a bug of xfrmi")
    message = json.loads(text)
    if "error" in message:
        raise XfrmError(message["errno"], detail=message["error"])
    if message["say"]:
        say(message["say"])


def _tell(link: socket.socket, **message: object) -> None:
    link.send(json.dumps(message).encode())


# The supervisor's side


def _become_supervisor(link: socket.socket, machine: Machine, fds: range, options: Options) -> None:
    """In a child, which ends at once and leaves the supervisor to init."""
    if os.fork():
        os._exit(0)
    status = 1
    try:
        os.setsid()
        _supervise(link, machine, fds, options)
        status = 0
    except XfrmError as error:
        _tell(link, errno=error.errno, error=error.detail or str(error))
    finally:
        os._exit(status)


def _supervise(link: socket.socket, machine: Machine, fds: range, options: Options) -> None:
    # Imported here: the program that is about to begin has nothing of it.
    from xfrmi.interpose.supervisor import Supervisor
    from xfrmi.interpose.trace import Trace
    from xfrmi.interpose.worlds import Worlds

    trace = Trace(os.dup(2)) if options.verbose else None
    _detach_streams()
    starter = Starter(options.stay)
    worlds = Worlds(starter.start)
    worlds.at(open_netns()).attach(start=True)
    _tell(link, say=starter.said)
    _, (listener,), _, _ = socket.recv_fds(link, 64, 1)
    supervisor = Supervisor(Listener(listener), machine, fds, worlds, report_fault, trace)
    _tell(link, say="")
    link.close()
    supervisor.run()


def _detach_streams() -> None:
    """Who waits for the end of the program's output must not wait for us."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null, stream)
    os.close(null)


class Starter:
    """Starts daemons."""

    def __init__(self, stay: bool) -> None:
        self._stay = stay
        self.said = ""
        """What there is to say about the last start."""

    def start(self, netns_fd: int) -> None:
        """One in the namespace of this descriptor, ready to be asked. XfrmError with its last words if it fails."""
        command = [sys.executable, "-m", "xfrmi", "daemon", *([] if self._stay else ["--while-used"])]
        with inside(netns_fd):
            inode = netns_inode()
            log = f"{_log_directory()}/{inode}.log"
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
        until = "" if self._stay else "; it goes with the last program that needs it"
        self.said = f"started a daemon for this network namespace (pid {daemon.pid}, log {log}){until}"


def report_fault(text: str) -> None:
    """A fault of the supervisor, for whoever looks into it: its streams lead nowhere."""
    path = f"{_log_directory()}/exec.log"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "a") as log:
        log.write(f"supervisor {os.getpid()}: {text}\n")


def _log_directory() -> str:
    base = runtime.base_directory()
    os.makedirs(base, 0o700, exist_ok=True)
    if not runtime.trusted(base, runtime.OTHERS_MAY):
        raise XfrmError(
            errno.EPERM, detail=f"{base} is not a directory of this user alone; set XFRMI_RUNTIME_DIR to one that is"
        )
    return base


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
