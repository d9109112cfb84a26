"""The process that a lab lives in after `lab up` has returned: it holds the namespaces and is the parent of what runs.

    python -m xfrmi.lab.keeper FOLDER < plan (pickled by `running.up`, which made the folder)

One line of JSON on standard output says how the building went. From then on it sleeps until a signal: SIGTERM ends
the lab and whatever runs in it; the end of a program of it is logged. If its directory is taken away nobody can find
the lab any more, so it ends by itself. If it is killed, the kernel sends its children SIGKILL and forgets the
namespaces with the last process in them; `lab down` sees to the rest.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from xfrmi.lab.build import Built, build
from xfrmi.lab.plan import LabError, Plan
from xfrmi.lab.preflight import Lacking, prepare
from xfrmi.lab.registry import (
    COUNTS,
    LAB_FOLDER,
    LAB_ID,
    LinkRecord,
    NodeRecord,
    Record,
    hang_up,
    processes_of,
    read_record,
    start_time,
)
from xfrmi.lab.topology import Lab

STOPS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
LOOK_SECONDS = 2.0
"""It looks so often whether its directory is still there."""


class _Stopped(BaseException):
    """While it was being built. Not an Exception: nobody may take it for a failure of his own."""


class _Stopping:
    """The handler while building: raises once. Python may drop what a handler raises (see demo.Interrupt), so the
    keeper asks again when it has built."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        for again in STOPS:
            signal.signal(again, signal.SIG_IGN)
        self.asked = True
        raise _Stopped


def keep(folder: Path, plan: Plan, record: Record) -> int:
    """Build the lab and stay with it. The exit status."""
    stopping = _Stopping()
    for number in STOPS:
        signal.signal(number, stopping)
    lab = None
    try:
        record.rootless = prepare() != "as root"
        lab = Lab(folder)
        built = build(plan, lab)
        if stopping.asked:
            raise _Stopped
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS | {signal.SIGCHLD})
        _write_down(plan, built, record, folder)
        _report(up=record.name)
        _stay(built, folder, record.id)
        return 0
    except (LabError, Lacking) as error:
        _report(error=str(error))
    except _Stopped:
        _report(error="stopped")
    except ModuleNotFoundError as error:
        _report(error=f"labs need {error.name}; install it: pip install 'xfrmi[lab]'")
    except Exception as error:  # whatever it is, who waits for an answer gets one
        _report(error=f"{type(error).__name__}: {error}")
    finally:
        if lab is not None:
            _end(lab, folder, record)
    return 1


def _end(lab: Lab, folder: Path, record: Record) -> None:
    strays = processes_of(record)
    lab.close(and_folder=False)
    hang_up(strays)
    hang_up(processes_of(record, by_namespace=False))  # those begun in the meantime
    if _is_mine(folder, record.id):
        shutil.rmtree(folder, ignore_errors=True)


def _write_down(plan: Plan, built: Built, record: Record, folder: Path) -> None:
    record.state = "up"
    record.supervised = built.supervised
    for planned in plan.nodes.values():
        fd = built.nodes[planned.name].fd
        addresses = {device: [placed.word for placed in words] for device, words in planned.addresses.items()}
        record.nodes[planned.name] = NodeRecord(planned.kind, fd, os.fstat(fd).st_ino, planned.has_xfrm, addresses)
    for link in plan.links:
        counts = f"{link.file_name}{COUNTS}" if link.faults or link.changeable else ""
        record.links.append(LinkRecord(link.name, link.faults.describe(), counts))
    record.programs = {name: program.pid for name, program in built.programs.items()}
    record.write(folder)


def _report(**message: str) -> None:
    """To who waits for it. BrokenPipeError if he has given up: then there is to be no lab."""
    print(json.dumps(message), flush=True)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _is_mine(folder: Path, lab_id: str) -> bool:
    """Or it has been removed, and perhaps another lab of that name has been brought up there."""
    found = read_record(folder)
    return found is not None and found.id == lab_id


def _stay(built: Built, folder: Path, lab_id: str) -> None:
    running = dict(built.programs)
    while True:
        for name, program in list(running.items()):
            if program.poll() is not None:
                print(f"{time.strftime('%H:%M:%S')} {name} ended with status {program.returncode}", file=sys.stderr,
                      flush=True)  # fmt: skip
                del running[name]
        came = signal.sigtimedwait(STOPS | {signal.SIGCHLD}, LOOK_SECONDS)
        if came is None and not _is_mine(folder, lab_id):
            print(f"{folder} has been taken away, so the lab ends", file=sys.stderr, flush=True)
        elif came is None or came.si_signo == signal.SIGCHLD:
            continue
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        return


def main() -> int:
    folder = Path(sys.argv[1])
    plan, record = pickle.load(sys.stdin.buffer)
    record.pid, record.started = os.getpid(), start_time(os.getpid())
    record.write(folder)
    os.environ[LAB_ID] = record.id
    os.environ[LAB_FOLDER] = str(folder)
    return keep(folder, plan, record)


if __name__ == "__main__":
    sys.exit(main())
