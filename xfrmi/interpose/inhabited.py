"""Does anybody need a network namespace besides ourselves?

A supervisor holds a descriptor of each namespace that it has seen a program in, and a daemon that it has started there
is an inhabitant: without this question `ip netns del` would free nothing. As for the kernel a namespace is needed by
threads in it, by mounts (`ip netns` gives names so) and by open descriptors.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator


class Inhabited:
    def __init__(self) -> None:
        self._found: dict[int, str] = {}
        """Who needs a namespace was found at this path, and mostly is there the next time."""

    def ask(self, netns: int, but_for: Collection[int]) -> bool:
        """Of the namespace with this inode. Processes `but_for` do not count."""
        if self._is_there(self._found.get(netns, ""), netns) or _is_mounted("self", netns):
            return True
        mounts = {_inode("/proc/self/ns/mnt")}
        for process in _processes(but_for):
            for path in _held_at(process):
                if self._is_there(path, netns):
                    self._found[netns] = path
                    return True
            mount = _inode(f"/proc/{process}/ns/mnt")
            if mount not in mounts:
                mounts.add(mount)
                if _is_mounted(process, netns):
                    return True
        self._found.pop(netns, None)
        return False

    @staticmethod
    def _is_there(path: str, netns: int) -> bool:
        if "/fd/" not in path:
            return bool(path) and _inode(path) == netns
        with contextlib.suppress(OSError):
            return os.readlink(path) == f"net:[{netns}]"
        return False


def _processes(but_for: Collection[int]) -> Iterator[str]:
    return (name for name in os.listdir("/proc") if name.isdigit() and int(name) not in but_for)


def _held_at(process: str) -> Iterator[str]:
    for kind, suffix in (("task", "/ns/net"), ("fd", "")):
        with contextlib.suppress(OSError):
            yield from (f"/proc/{process}/{kind}/{name}{suffix}" for name in os.listdir(f"/proc/{process}/{kind}"))


def _inode(path: str) -> int:
    """0 if it is gone, or not ours to see."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def _is_mounted(process: str, netns: int) -> bool:
    with contextlib.suppress(OSError), open(f"/proc/{process}/mountinfo", "rb") as file:
        return b" net:[%d] " % netns in file.read()
    return False
