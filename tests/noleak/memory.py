"""A control group whose processes the kernel kills for want of memory."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIMITS = {"cgroup": "memory.limit_in_bytes", "cgroup2": "memory.max"}
"""By the file system's type: what a group may have."""


def _hierarchy() -> tuple[Path, str] | None:
    """Where the memory controller is mounted, and the file that sets a limit."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        here, _, there = line.partition(" - ")
        kind, _, options = there.split(" ", 2)
        place = Path(here.split()[4])
        if kind == "cgroup" and "memory" in options.split(","):
            return place, LIMITS[kind]
        if kind == "cgroup2":
            with contextlib.suppress(OSError):
                if "memory" in (place / "cgroup.subtree_control").read_text().split():
                    return place, LIMITS[kind]
    return None


def lacking() -> str:
    """Why no group can be made here; empty if one can."""
    found = _hierarchy()
    if found is None:
        return "no memory controller is mounted here"
    return "" if os.access(found[0], os.W_OK) else f"no control group can be made in {found[0]}"


@contextmanager
def at_most(pid: int, more: int) -> Iterator[None]:
    """In the block this process may take so many bytes beyond those it has: they stay charged to where it came from.
    At the end it has to be gone; if it is not it is told to go (SIGTERM), for a group goes only when it is empty."""
    found = _hierarchy()
    assert found is not None
    place, limit = found
    group = place / f"xfrmi-noleak-{os.getpid()}"
    group.mkdir()
    try:
        (group / limit).write_text(str(more))
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        if not _removed(group):
            os.kill(pid, signal.SIGTERM)
            _removed(group)


def _removed(group: Path) -> bool:
    for _ in range(100):  # what the process had is given back a moment after its end
        with contextlib.suppress(OSError):
            group.rmdir()
            return True
        time.sleep(0.02)
    return False
