"""Labs that are up: bringing them up, running programs in their nodes, taking them down.

    with up(read_lab("lab.toml")) as lab:          # or a Plan made in Python
        print(lab.run("moon", "ping", "-c1", "10.0.42.2").stdout)

Works from any process, notebooks included: what lives in namespaces lives in a keeper (see `keeper`), and only children
enter them. Rootless labs are entered through the keeper's user namespace, which belongs to this user.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import secrets
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from xfrmi.dev.netns import CLONE_NEWNET, setns
from xfrmi.lab import registry
from xfrmi.lab.build import under_exec
from xfrmi.lab.labfile import read_lab
from xfrmi.lab.link_change import change, changed
from xfrmi.lab.link_setting import Setting, setting_now
from xfrmi.lab.namespace import CLONE_NEWUSER
from xfrmi.lab.plan import LabError, Plan
from xfrmi.lab.registry import LAB_FOLDER, LAB_ID, LAB_NODE, LinkRecord, NodeRecord, Record, read_record, start_time

SOCKET = "4294967295/route"
"""The longest path of a control socket, below a node's directory."""
MAX_SOCKET_PATH = 107
STOP_SECONDS = 15.0


class Running:
    """A lab that is up, by its directory."""

    def __init__(self, folder: Path) -> None:
        """LabError if there is no lab there that works."""
        self.folder = folder
        record = read_record(folder)
        if record is None or not record.alive:
            name = folder.name
            raise LabError(f'lab "{name}" is down, its keeper has ended; clean up with: xfrmi lab down {name}')
        if record.state != "up":
            raise LabError(f'lab "{record.name}" is being built')
        self.record = record

    @property
    def name(self) -> str:
        return self.record.name

    def node(self, name: str) -> NodeRecord:
        if name not in self.record.nodes:
            raise LabError(f'lab "{self.name}" has no node "{name}"; it has {", ".join(self.record.nodes)}')
        return self.record.nodes[name]

    def link(self, end: str) -> LinkRecord:
        """By one of its ends, "moon:eth0", or by the nodes it joins, "moon:sun". LabError."""
        links = self.record.links
        nodes = set(end.split(":"))
        found = [link for link in links if end in link.name.split()] or [
            link for link in links if {one.partition(":")[0] for one in link.name.split()} == nodes
        ]
        if len(found) == 1:
            return found[0]
        known = ", ".join(link.name.replace(" ", " -- ") for link in found or links) or "none"
        raise LabError(
            f'"{end}" is more than one link of lab "{self.name}": {known}' if found else
            f'lab "{self.name}" has no link "{end}": an end as "moon:eth0" was expected, or its nodes as "moon:sun"; '
            f"it has {known}"
        )  # fmt: skip

    def setting(self, end: str) -> Setting:
        """What a link does now."""
        link = self.link(end)
        now = setting_now(self.folder, link.stem) if link.stem else Setting()
        if now is None:
            raise LabError(f"link {link.name} has not begun yet")
        return now

    def change_link(self, end: str, *, on: bool | None = None, **faults: object) -> Setting:
        """Change what a link does, in both directions: faults as in a lab file, loss="10%", delay="20ms"; those not
        named stay. `on=False` pulls the cable. It is in force when this returns. LabError."""
        now = self.setting(end)
        return self.set_link(end, changed(now if on is None else replace(now, on=on), faults))

    def set_link(self, end: str, wanted: Setting) -> Setting:
        link = self.link(end)
        if not link.stem:
            file = self.record.file or "FILE"
            raise LabError(
                f"link {link.name} is a plain cable, which does nothing to packets; bring the lab up so that its links "
                f"can be changed: xfrmi lab down {self.name}; xfrmi lab up --changeable {file}"
            )
        pid = self.record.programs.get(f"link {link.name}", 0)
        # Whoever else has its number now is left alone.
        if not start_time(pid) or registry.parent(pid) != self.record.pid:
            raise LabError(f"the process of link {link.name} has ended; take the lab down and bring it up again")
        change(self.folder / link.stem, pid, wanted)
        return wanted

    def plan(self) -> Plan:
        """What its file says, with the links as they are now. LabError."""
        if not self.record.file:
            raise LabError(f'lab "{self.name}" was made by a program: there is no lab file of it')
        plan = read_lab(self.record.file)
        now = {link.name: self.setting(link.name.split()[0]) for link in self.record.links if link.stem}
        plan.links = [
            replace(link, faults=now[link.name].faults, pulled=not now[link.name].on) if link.name in now else link
            for link in plan.links
        ]
        return plan

    def environment(self, node: str) -> dict[str, str]:
        """For programs in a node: `xfrmi` finds the node's daemon, and `xfrmi lab` this lab."""
        here = os.path.dirname(sys.executable)
        path = os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        return {
            **os.environ,
            "PATH": path if here in path.split(":") else f"{path}:{here}",
            "XFRMI_RUNTIME_DIR": str(self.folder / node),
            LAB_ID: self.record.id,
            LAB_FOLDER: str(self.folder),
            LAB_NODE: node,
        }

    def enter(self, node: str) -> None:
        """Move the calling process, which has one thread, into a node. LabError."""
        record = self.node(node)
        for kind, path in self._doors(record):
            if kind == CLONE_NEWUSER and os.stat(path).st_ino == os.stat("/proc/self/ns/user").st_ino:
                continue  # a shell of this lab: in it already, and nobody may enter twice
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if number := setns(fd, kind):
                raise LabError(f'cannot enter node "{node}" of lab "{self.name}": {os.strerror(number)}')
            os.close(fd)

    def _doors(self, node: NodeRecord) -> list[tuple[int, str]]:
        keeper = f"/proc/{self.record.pid}"
        user = [(CLONE_NEWUSER, f"{keeper}/ns/user")] if self.record.rootless else []
        return [*user, (CLONE_NEWNET, f"{keeper}/fd/{node.fd}")]

    def popen(self, node: str, *command: str, native: bool = False, **options: Any) -> subprocess.Popen[str]:
        """Start a program in a node. Where the node has a daemon it runs under `xfrmi exec`, unless `native`: its xfrm
        is the emulator's."""
        supervised = self.node(node).xfrm and self.record.supervised and not native
        return subprocess.Popen(
            under_exec(command) if supervised else list(command),
            env=self.environment(node), text=True, preexec_fn=lambda: self.enter(node), **options,
        )  # fmt: skip

    def run(
        self, node: str, *command: str, native: bool = False, timeout: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in a node to its end; its output is captured."""
        process = self.popen(
            node, *command, native=native, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            process.communicate()
            raise
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def down(self) -> None:
        down(self.folder)

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()


def up(plan: Plan, file: str = "") -> Running:
    """Bring a lab up; it stays when this process ends. LabError, and then there is nothing left of it."""
    folder = _claim(plan.name)
    longest = max((f"{folder}/{node}/{SOCKET}" for node in plan.nodes), key=len, default="")
    if len(os.fsencode(longest)) > MAX_SOCKET_PATH:
        folder.rmdir()
        raise LabError(f"{folder} is too deep for control sockets: set XFRMI_RUNTIME_DIR to a shorter path")
    record = Record(plan.name, secrets.token_hex(8), file, os.getpid(), start_time(os.getpid()))
    keeper = None
    try:
        record.write(folder)
        with open(folder / "keeper.log", "wb") as log:
            keeper = subprocess.Popen(
                [sys.executable, "-m", "xfrmi.lab.keeper", str(folder)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd="/", start_new_session=True,
            )  # fmt: skip
        out = _converse(keeper, pickle.dumps((plan, record)))
        answer = json.loads(out) if out else {"error": f"its keeper ended: {_last_line(folder / 'keeper.log')}"}
        if "error" in answer:
            raise LabError(answer["error"])
        return Running(folder)
    except BaseException:
        if keeper is not None and keeper.poll() is None:
            keeper.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                keeper.wait(STOP_SECONDS)
        down(folder)
        raise


def _converse(keeper: subprocess.Popen[bytes], plan: bytes) -> bytes:
    """Give it the plan and take its one line; it goes on running."""
    assert keeper.stdin is not None and keeper.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        keeper.stdin.write(plan)
        keeper.stdin.close()
    with keeper.stdout:
        return keeper.stdout.readline()


def _claim(name: str) -> Path:
    """The lab's directory; what a lab that crashed has left under this name goes first."""
    for _ in range(2):
        try:
            return registry.new_folder(name)
        except FileExistsError:
            folder = next((folder for folder in registry.folders() if folder.name == name), None)
            record = read_record(folder) if folder else None
            if folder is None or (record is not None and record.alive):
                raise LabError(f'a lab "{name}" is up already; take it down with: xfrmi lab down {name}') from None
            down(folder)
    raise LabError(f'somebody else is bringing up a lab "{name}"')


def down(folder: Path) -> None:
    """End everything that runs in a lab, in whatever condition it is, and remove its directory."""
    record = read_record(folder)
    if record is not None:
        strays = registry.processes_of(record)
        if record.alive and record.pid != os.getpid():  # `up` has not got as far as a keeper
            _end(record.pid)
        registry.hang_up(strays)
        registry.hang_up(registry.processes_of(record))  # those begun in the meantime
    shutil.rmtree(folder, ignore_errors=True)


def down_from_inside(folder: Path) -> None:
    """The same for a program of the lab: the keeper does it, and ends the caller and its shell, too."""
    record = read_record(folder)
    if record is None or not record.alive:
        down(folder)
    else:
        _end(record.pid, [signal.SIGTERM])  # as long as we live: the shell is not to go on meanwhile


def _end(keeper: int, numbers: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGKILL)) -> None:
    """The keeper ends its children and then itself. Returns when it has, or has had its time for each signal."""
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(keeper)
        try:
            for number in numbers:
                signal.pidfd_send_signal(fd, number)
                if select.select([fd], [], [], STOP_SECONDS)[0]:
                    return
        finally:
            os.close(fd)


def _last_line(log: Path) -> str:
    try:
        return (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
    except OSError:
        return "it said nothing"
