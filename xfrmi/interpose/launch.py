"""`xfrmi exec`: a supervisor beside the program, and then the program itself, in the process that was asked for it.

The supervisor is nobody's child (forked twice), in a session of its own, and not behind the filter. The program keeps
pid, parent, standard streams, terminal and signals: what waits for it, or notifies systemd, notices nothing. A daemon
that has to be started is the supervisor's business, too, in whichever namespace a supervised program needs one.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import socket
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xfrmi.dev.netns import open_netns
from xfrmi.dev.privileges import close_memory
from xfrmi.dev.sockets import under_exec
from xfrmi.errors import XfrmError
from xfrmi.interpose import bpf, seccomp
from xfrmi.interpose.bpf import Machine
from xfrmi.interpose.seccomp import Listener
from xfrmi.interpose.starter import Starter, log_directory
from xfrmi.interpose.task import Task

PR_SET_PTRACER = 0x59616D61
MOST_CARRIERS, LEAST_CARRIERS = 256, 64
"""Numbers for descriptors of carriers, for each process: test suites, for instance, hold on to many sockets. A file of
the program's own among them costs a stop for each call that uses it, so no more than half of all numbers."""
FD_SETSIZE = 1024
"""Above that select() cannot wait for them."""
MOST_RESTARTS = 20


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
    if under_exec():  # the supervisor of the program around this one sees to it
        os.execvp(command[0], list(command))
    fds = carrier_numbers()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program = os.getpid()
    if not os.fork():
        ours.close()
        _become_supervisor(theirs, program, machine, fds, options)
    theirs.close()
    os.wait()
    _let_look(_expect(ours, say))
    ours.send(b"may look")
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
    count = min(MOST_CARRIERS, end // 2)
    if count < LEAST_CARRIERS:
        detail = f"exec needs a limit of {2 * LEAST_CARRIERS} open files or more: ulimit -n 1024"
        raise XfrmError(errno.EMFILE, detail=detail)
    return range(end - count, end)


def _let_look(supervisor: int) -> None:
    """Where Yama restricts ptrace, only ancestors may look into a program, and whom it allows. This fails elsewhere."""
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(supervisor), 0, 0, 0)


def _expect(link: socket.socket, say: Callable[[str], None]) -> int:
    """Wait for the supervisor; its process. XfrmError with what it could not do."""
    text = link.recv(1 << 16)
    if not text:
        raise XfrmError(errno.ECONNRESET, detail="the supervisor did not start; this is a bug of xfrmi")
    message = json.loads(text)
    if "error" in message:
        raise XfrmError(message["errno"], detail=message["error"])
    if message["say"]:
        say(message["say"])
    return int(message["pid"])


def _tell(link: socket.socket, **message: object) -> None:
    link.send(json.dumps(message | {"pid": os.getpid()}).encode())


# The supervisor's side


def _become_supervisor(
    link: socket.socket, program: int, machine: Machine, fds: range, options: Options
) -> None:
    """In a child, which ends at once and leaves the supervisor to init."""
    if os.fork():
        os._exit(0)
    status = 1
    try:
        os.setsid()
        _supervise(link, program, machine, fds, options)
        status = 0
    except XfrmError as error:
        _tell(link, errno=error.errno, error=error.detail or str(error))
    finally:
        os._exit(status)


def _supervise(link: socket.socket, program: int, machine: Machine, fds: range, options: Options) -> None:
    # Imported here: the program that is about to begin has nothing of it.
    from xfrmi.daemon.loop import Loop
    from xfrmi.interpose.supervisor import Supervisor
    from xfrmi.interpose.worlds import Worlds

    trace = None
    if options.verbose:
        from xfrmi.interpose.trace import Trace

        trace = Trace(os.dup(2))
    _detach_streams()
    close_memory()  # keys that programs set pass through it
    # Meant for the program, and sent to all of its group (systemd does that): as long as it takes to end, it needs us.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    starter = Starter(options.stay)
    held = Worlds(starter, Loop())
    held.at(open_netns()).attach(start=True)
    _tell(link, say=starter.said)
    link.recv(64)
    _look_into(program)
    _tell(link, say="")
    _, (listener_fd,), _, _ = socket.recv_fds(link, 64, 1)
    _tell(link, say="")
    link.close()
    listener = Listener(listener_fd)

    def supervise(after: bool) -> None:
        loop = Loop()
        worlds = Worlds(starter, loop)
        worlds.at(open_netns())  # devices of this one may be met elsewhere before anybody asks here
        supervisor = Supervisor(listener, machine, fds, loop, worlds, report_fault, trace)
        if after:
            supervisor.adopt()
        supervisor.run()

    _keep_up(supervise)


def _look_into(program: int) -> None:
    """Try it once, while it can still be told. XfrmError EPERM with what is in the way."""
    try:
        os.close(Task(program).copy_fd(0))
    except OSError as error:
        if error.errno != errno.EPERM:  # there is no descriptor 0
            return
        scope = _read("/proc/sys/kernel/yama/ptrace_scope")
        profile = _read(f"/proc/{program}/attr/apparmor/current") or _read(f"/proc/{program}/attr/current")
        if scope == "2":
            why = "kernel.yama.ptrace_scope is 2: sudo sysctl -w kernel.yama.ptrace_scope=1"
        elif scope == "3":
            why = "kernel.yama.ptrace_scope is 3, which stays so until the next boot; then sysctl.conf must say 1"
        elif profile.endswith("(enforce)"):
            name = profile.removesuffix(" (enforce)")
            why = f'the AppArmor profile "{name}" lacks "ptrace (read, readby, trace, tracedby)": aa-complain {name}'
        else:
            why = "it takes CAP_SYS_PTRACE here (container: --cap-add SYS_PTRACE), or a security module forbids it"
        detail = f"the supervisor may not look into the programs that it is to supervise; {why}"
        raise XfrmError(errno.EPERM, detail=detail) from None


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _keep_up(supervise: Callable[[bool], None]) -> None:
    """Without a supervisor, supervised programs could not even open a file. So it is a child of this process, which
    does nothing but hold what a new one needs if that child is killed: the listener, and the daemon's interest."""
    for after in range(MOST_RESTARTS + 1):
        child = os.fork()
        if not child:
            status = 1
            try:
                supervise(after > 0)
                status = 0
            except Exception:
                report_fault(traceback.format_exc())
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return
        report_fault(f"its supervisor {child} ended with wait status {status}; there is a new one\n")


def _detach_streams() -> None:
    """Who waits for the end of the program's output must not wait for us."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null, stream)
    os.close(null)


def report_fault(text: str) -> None:
    """A fault of the supervisor, for whoever looks into it: its streams lead nowhere."""
    path = f"{log_directory()}/exec.log"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "a") as log:
        log.write(f"supervisor {os.getpid()}: {text}\n")
