"""Where labs are while they are up: one directory (0700) each below the runtime directory, with what others must know.

    <base>/labs/NAME/lab.json        the keeper, the nodes, the links
    <base>/labs/NAME/NODE/           the node's control sockets and logs
    <base>/labs/NAME/keeper.log

The same for root and for an ordinary user, each in a base directory of his own (xfrmi/daemon/runtime.py). A lab is
alive as long as its keeper is: the process with this pid that began at this time.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from xfrmi.daemon import runtime
from xfrmi.lab.plan import LabError

FILE = "lab.json"
COUNTS = ".counts"
"""The end of the name of a link's file of counters."""
LAB_ID, LAB_FOLDER, LAB_NODE = "XFRMI_LAB_ID", "XFRMI_LAB_FOLDER", "XFRMI_LAB_NODE"
"""In the environment of what runs in a lab."""
HANG_UP_SECONDS = 1.0


@dataclass
class NodeRecord:
    kind: str
    fd: int
    """The keeper's descriptor of its network namespace."""
    inode: int
    xfrm: bool
    """Whether it has a daemon."""
    addresses: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class LinkRecord:
    name: str
    faults: str = ""
    """In the beginning; `Running.setting` is what it does now."""
    counts: str = ""
    """Its file of counters, where it has a process."""

    @property
    def stem(self) -> str:
        """What the names of its files begin with; '' where it has no process."""
        return self.counts.removesuffix(COUNTS)


@dataclass
class Record:
    """lab.json."""

    name: str
    id: str
    """No other lab has it, whatever its name."""
    file: str
    pid: int
    started: str
    """Of the keeper, as /proc has it."""
    state: str = "building"
    """Or "up"."""
    rootless: bool = False
    supervised: bool = True
    nodes: dict[str, NodeRecord] = field(default_factory=dict)
    links: list[LinkRecord] = field(default_factory=list)
    programs: dict[str, int] = field(default_factory=dict)
    """What is to be running, and its pid."""

    @property
    def alive(self) -> bool:
        return start_time(self.pid) == self.started

    def write(self, folder: Path) -> None:
        new = folder / f"{FILE}.new"
        new.touch(0o600)
        new.write_text(json.dumps(asdict(self), indent=1))
        new.rename(folder / FILE)


def read_record(folder: Path) -> Record | None:
    """None where there is none that can be believed."""
    try:
        values = json.loads((folder / FILE).read_text())
        values["nodes"] = {name: NodeRecord(**_known(NodeRecord, node)) for name, node in values["nodes"].items()}
        values["links"] = [LinkRecord(**_known(LinkRecord, link)) for link in values["links"]]
        return Record(**_known(Record, values))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _known(kind: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    """Another version of xfrmi may have written more; its lab is a lab all the same."""
    return {one.name: values[one.name] for one in fields(kind) if one.name in values}


def start_time(pid: int) -> str:
    """What tells a process from a later one with its pid; '' if it has ended."""
    found = _stat(pid)
    return found[19] if found and found[0] not in "ZX" else ""


def parent(pid: int) -> int:
    """0 if it has ended."""
    found = _stat(pid)
    return int(found[1]) if found else 0


def _stat(pid: int) -> list[str]:
    """What /proc says of a process behind its name, from the state on; nothing if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def new_folder(name: str) -> Path:
    """Make the directory of a new lab. FileExistsError if there is one; LabError where none may be made."""
    labs = Path(runtime.base_directory(), "labs")
    try:
        labs.mkdir(0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"cannot make {labs}: {error.strerror}; set XFRMI_RUNTIME_DIR to a directory of yours") from None
    if not runtime.trusted(str(labs)) or not runtime.trusted(str(labs.parent), runtime.OTHERS_MAY):
        raise LabError(f"{labs} is not a directory of this user alone; set XFRMI_RUNTIME_DIR to one that is")
    folder = labs / name
    folder.mkdir(0o700)
    return folder


def folders() -> Iterator[Path]:
    """Of all labs of this user, up or not, by name."""
    if LAB_FOLDER in os.environ:  # inside a lab there are others to be found by it
        yield from sorted(path for path in Path(os.environ[LAB_FOLDER]).parent.glob("*") if path.is_dir())
        return
    for base in runtime.base_directories():
        labs = Path(base, "labs")
        if runtime.trusted(str(labs)) and runtime.trusted(base, runtime.OTHERS_MAY):
            yield from sorted(path for path in labs.iterdir() if path.is_dir())


def find(name: str = "") -> Path:
    """The directory of a lab: the one named, the one we are in, or the only one there is. LabError."""
    if not name and LAB_FOLDER in os.environ:
        return Path(os.environ[LAB_FOLDER])
    known = list(folders())
    if name:
        for folder in known:
            if folder.name == name:
                return folder
        names = ", ".join(folder.name for folder in known) or "none"
        raise LabError(f'no lab "{name}" is up (up: {names})')
    if not known:
        raise LabError("no lab is up; bring one up: xfrmi lab up FILE")
    if len(known) > 1:
        raise LabError(f"several labs are up: name one with --lab: {', '.join(folder.name for folder in known)}")
    return known[0]


def processes_of(record: Record, by_namespace: bool = True) -> dict[int, str]:
    """What runs in the lab but its keeper, with start times: known by the network namespace, or by an environment that
    names the lab. Once the keeper has let go of them only by the latter: others may have got the numbers of its
    namespaces."""
    inodes = {node.inode for node in record.nodes.values()} if by_namespace and record.alive else set()
    sign = f"{LAB_ID}={record.id}".encode()
    found = {}
    for pid in (int(entry) for entry in os.listdir("/proc") if entry.isdigit()):
        if pid in (record.pid, os.getpid()):
            continue
        with contextlib.suppress(OSError):
            in_it = inodes and os.stat(f"/proc/{pid}/ns/net").st_ino in inodes
            if in_it or sign in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found[pid] = start_time(pid)
    return found


def hang_up(processes: dict[int, str]) -> None:
    """SIGHUP, which shells do not ignore; then, for those that do, SIGKILL."""
    for number in (signal.SIGHUP, signal.SIGKILL):
        processes = {pid: started for pid, started in processes.items() if start_time(pid) == started}
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + HANG_UP_SECONDS
        while any(start_time(pid) == started for pid, started in processes.items()) and time.monotonic() < deadline:
            time.sleep(0.02)
