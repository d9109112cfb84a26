"""The worlds of all supervised programs, one for each network namespace they have been seen in."""

from __future__ import annotations

import os
from collections.abc import Callable

from xfrmi.dev.netns import open_netns
from xfrmi.errors import XfrmError
from xfrmi.interpose.task import Task
from xfrmi.interpose.world import World


class Worlds:
    def __init__(self, start_daemon: Callable[[int], None]) -> None:
        """`start_daemon`: see World."""
        self._start_daemon = start_daemon
        self._worlds: dict[int, World] = {}

    def of(self, task: Task) -> World | None:
        """Where the thread is now; None if it cannot be told."""
        try:
            return self.at(open_netns(task.netns_path()))
        except XfrmError:
            return None

    def at(self, netns_fd: int) -> World:
        """Of the namespace that a descriptor is of. Takes the descriptor."""
        inode = os.fstat(netns_fd).st_ino
        world = self._worlds.get(inode)
        if world is None:
            world = self._worlds[inode] = World(netns_fd, self._start_daemon)
        else:
            os.close(netns_fd)
        return world

    def find(self, inode: int) -> World | None:
        return self._worlds.get(inode)

    def close(self) -> None:
        """Leave the daemons: those that were started for us go when we were the last."""
        for world in self._worlds.values():
            world.close()
