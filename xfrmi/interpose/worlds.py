"""The worlds of all supervised programs, one for each network namespace they have been seen in."""

from __future__ import annotations

import os

from xfrmi.daemon.loop import Loop
from xfrmi.dev.netns import netns_inode, open_netns
from xfrmi.errors import XfrmError
from xfrmi.interpose.starter import Starter
from xfrmi.interpose.task import Task
from xfrmi.interpose.world import World


class Worlds:
    def __init__(self, starter: Starter, loop: Loop) -> None:
        self._starter = starter
        self._loop = loop
        self._worlds: dict[int, World] = {}

    def of(self, task: Task) -> World | None:
        """Where the thread is now; None if it cannot be told."""
        path = task.netns_path()
        try:
            return self._worlds.get(netns_inode(path)) or self.at(open_netns(path))
        except XfrmError:
            return None

    def at(self, netns_fd: int) -> World:
        """Of the namespace that a descriptor is of. Takes the descriptor."""
        inode = os.fstat(netns_fd).st_ino
        world = self._worlds.get(inode)
        if world is None:
            world = self._worlds[inode] = World(netns_fd, self._starter, self._loop)
        else:
            os.close(netns_fd)
        return world

    def find(self, inode: int) -> World | None:
        return self._worlds.get(inode)

    def next_look(self) -> float | None:
        return min((world.look_at for world in self._worlds.values() if world.look_at is not None), default=None)

    def look(self, now: float) -> None:
        """For daemons that have ended and may be there again."""
        for world in self._worlds.values():
            if world.look_at is not None and world.look_at <= now:
                world.look()

    def close(self) -> None:
        """Leave the daemons: those that were started for us go when we were the last."""
        for world in self._worlds.values():
            world.close()
