"""`xfrmi lab demo`, the program: it holds, it says what is missing, and whatever ends it, it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import xfrmi
from tests.oracle.spread import EVERYTHING
from xfrmi.lab.demo import CHECKS
from xfrmi.lab.demo_checks import MEGABYTE, TRANSFER
from xfrmi.lab.preflight import Lacking, prepare

ROOT = Path(xfrmi.__file__).parents[1]
LOOK_EVERY = 0.2
"""Seconds. All of /proc is read then."""


def unusable() -> str:
    """Why the demo cannot run here, '' if it can. Asked in a child: it may have to enter a user namespace."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            prepare()
        except Lacking as lack:
            os.write(write, str(lack).encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        return pipe.read()


@pytest.fixture(scope="module")
def demo_runs() -> None:
    if why := unusable():
        pytest.skip(f"NO DEMO ON THIS MACHINE, NOT TESTED: {why}")


PROGRAM = """\
import sys
from xfrmi.cli.main import main
from xfrmi.lab import demo, demo_checks
while demo.CHECKS[0][0] != sys.argv[1]:
    demo.CHECKS = demo.CHECKS[1:]
demo_checks.TRANSFER = int(sys.argv[2])
sys.exit(main(["lab", "demo"]))
"""
"""`xfrmi lab demo`, from one of its checks on, with transfers of so many bytes."""


class Demo:
    """The demo as a process, in a folder for temporary files of its own, and all its descendants. It `begins_with` this
    check; all of them cost ten seconds."""

    def __init__(self, folder: Path, begins_with: str = CHECKS[0][0], transfer: int = TRANSFER) -> None:
        self.folder = folder
        self.before = surroundings()
        self._looked = 0.0
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, begins_with, str(transfer)],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(folder)},
            stdout=open(folder.with_suffix(".out"), "w"),  # noqa: SIM115
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self.family: dict[int, str] = {}
        """pid -> start time, which tells it from a later process with the same pid."""

    @property
    def out(self) -> str:
        return self.folder.with_suffix(".out").read_text()

    def look(self) -> None:
        """Note who belongs to it. Children of children count."""
        parents = {pid: stat for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if (stat := stat_of(pid))}
        known = {self.process.pid} | set(self.family)
        while new := {pid for pid, (parent, _) in parents.items() if parent in known} - known:
            known |= new
        for pid in known & set(parents):
            self.family[pid] = parents[pid][1]

    def look_now_and_then(self) -> None:
        if time.monotonic() - self._looked > LOOK_EVERY:
            self.look()
            self._looked = time.monotonic()

    def wait_for(self, text: str) -> None:
        """Until `text` is on its screen."""
        deadline = time.monotonic() + 60
        while text not in self.out:
            assert time.monotonic() < deadline, self.out
            assert self.process.poll() is None, f"{self.out}\n{self.process.stderr and self.process.stderr.read()}"
            self.look_now_and_then()
            time.sleep(0.02)
        self.look()

    def end(self) -> tuple[int, str]:
        """Wait for it. Exit status and what it wrote to stderr."""
        while self.process.poll() is None:
            self.look_now_and_then()
            time.sleep(0.02)
        assert self.process.stderr is not None
        return self.process.returncode, self.process.stderr.read()

    def alive(self) -> list[int]:
        return [pid for pid, start in self.family.items() if (stat := stat_of(pid)) and stat[1] == start]

    def left_behind(self) -> dict[str, object]:
        """What is still there of it."""
        deadline = time.monotonic() + 5
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        remains: dict[str, object] = {"processes": self.alive(), "files": list(self.folder.iterdir())}
        remains |= {what: found - self.before[what] for what, found in surroundings().items()}
        return {what: found for what, found in remains.items() if found}


def surroundings() -> dict[str, set[str]]:
    """What a lab could leave behind beside its own processes and files. A namespace without a process needs a mount."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return {
        "links": set(os.listdir("/sys/class/net")),
        "runtime directories": set(map(str, Path("/run").glob("xfrmi/*"))),
        "namespaces": {line for line in mounts if " - nsfs " in line},
    }


def stat_of(pid: int) -> tuple[int, str] | None:
    """(parent, start time) of a process that runs; None for one that is gone or only waits to be buried."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else (int(fields[1]), fields[19])


@pytest.fixture
def demo(demo_runs: None, request: pytest.FixtureRequest) -> Iterator[Demo]:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # not tmp_path: a lab avoids folders as deep as that
        folder = Path(name, "tmp")
        folder.mkdir()
        running = Demo(folder, *getattr(request, "param", ()))
        yield running
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()


@pytest.mark.parametrize("demo", [(CHECKS[0][0], 2 * MEGABYTE)], indirect=True, ids=["with two megabytes"])
def test_every_check_holds(demo: Demo) -> None:
    status, errors = demo.end()
    assert (status, errors) == (0, ""), demo.out
    ticked = [line.split("✓")[1].strip() for line in demo.out.splitlines() if "✓" in line]
    assert len(ticked) == 1 + len(CHECKS)
    for (name, _, _), line in zip(CHECKS, ticked[1:], strict=True):
        assert line.startswith(name)
    assert "✗" not in demo.out
    assert "All held" in demo.out
    assert max(map(len, demo.out.splitlines())) <= 120
    assert len(demo.out.splitlines()) <= 24, "one screen"
    assert "\x1b" not in demo.out, "no colours into a file"
    assert demo.left_behind() == {}


PLACES: dict[str, tuple[str, str, float, signal.Signals]] = {
    "begins": ("ping", "moon", 0, signal.SIGINT),
    "hosts come up": ("ping", "moon", 0.3, signal.SIGTERM),
    "in a transfer": ("ping", "✓ ping", 0.3, signal.SIGINT),
    "in the rekey": ("if_id 43", "✓ if_id 43", 0.3, signal.SIGHUP),
}
"""The first check, what is on the screen, so many seconds later, and the signal."""
if EVERYTHING:
    PLACES["first packets"] = ("ping", "✓ hosts", 0, signal.SIGTERM)
    PLACES["near the end"] = ("rekey", "✓ rekey", 0, signal.SIGTERM)


@pytest.mark.parametrize(
    ("demo", "seen", "delay", "number"),
    [((first,), *rest) for first, *rest in PLACES.values()],
    indirect=["demo"],
    ids=PLACES,
)
def test_interrupted(demo: Demo, seen: str, delay: float, number: signal.Signals) -> None:
    """130, one sentence, and nothing left, once `seen` is on the screen and `delay` seconds later."""
    demo.wait_for(seen)
    time.sleep(delay)
    demo.process.send_signal(number)
    status, errors = demo.end()
    assert (status, errors) == (130, "xfrmi: interrupted; everything is cleaned up\n")
    assert demo.left_behind() == {}


def test_impatience_changes_nothing(demo: Demo) -> None:
    """A second and a third Ctrl-C while it clears away."""
    demo.wait_for("✓ ping")
    for _ in range(3):
        demo.process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    status, errors = demo.end()
    assert (status, errors) == (130, "xfrmi: interrupted; everything is cleaned up\n")
    assert demo.left_behind() == {}


def test_killed(demo: Demo) -> None:
    """SIGKILL leaves no time to remove files; programs and namespaces go with it all the same."""
    demo.wait_for("✓ ping")
    assert len(demo.alive()) >= 3, "the demo and two daemons at least"
    demo.process.kill()
    demo.process.wait()
    assert set(demo.left_behind()) <= {"files"}


DROPPED = """
import os, signal, sys, types
from xfrmi.lab import demo

class Callback:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

@types.coroutine
def answer():
    yield

async def request():
    try:
        await answer()
    finally:
        await answer()

def check(hosts):
    asked = request()
    asked.send(None)
    Callback()
    return True, "went on"

demo.CHECKS = (("first", "", check), ("second", "", check))
sys.exit(demo.main())
"""


@pytest.mark.usefixtures("demo_runs")
def test_an_interrupt_that_python_dropped_is_not_lost() -> None:
    """In a callback of its own (after a fork, in a finalizer) Python drops what a signal handler raises. And a request
    that was waited for in that moment fails once more when it is collected: nobody needs to hear of that."""
    demo = subprocess.run([sys.executable, "-c", DROPPED], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (demo.returncode, demo.stderr) == (130, "xfrmi: interrupted; everything is cleaned up\n")
    assert "went on" not in demo.stdout
