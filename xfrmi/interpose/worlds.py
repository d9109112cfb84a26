"""The worlds of all supervised programs, one for each network namespace they have been seen in."""

from __future__ import annotations

import os
from collections.abc import Callable

from xfrmi.daemon.loop import Loop
from xfrmi.dev.netns import netns_inode, open_netns
from xfrmi.errors import XfrmError
from xfrmi.interpose.inhabited import Inhabited
from xfrmi.interpose.starter import Starter
from xfrmi.interpose.task import Task
from xfrmi.interpose.world import World

SWEEP_INTERVAL = 2.0
"""Seconds between looks whether anybody still needs the namespaces that we know besides our own."""


class Worlds:
    def __init__(self, starter: Starter, loop: Loop) -> None:
        self.in_use: Callable[[World], bool] = lambda world: True
        """Does a supervised program have a netlink socket there?"""
        self._inhabited = Inhabited()
        self._home = netns_inode()
        self._sweep_at: float | None = None
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
            if inode != self._home and self._sweep_at is None:
                self._sweep_at = self._loop.clock() + SWEEP_INTERVAL
        else:
            os.close(netns_fd)
        return world

    def find(self, inode: int) -> World | None:
        return self._worlds.get(inode)

    def next_look(self) -> float | None:
        times = (self._sweep_at, *(world.look_at for world in self._worlds.values()))
        return min((time for time in times if time is not None), default=None)

    def look(self, now: float) -> None:
        """For daemons that have ended and may be there again, and for namespaces that nobody needs any more."""
        if self._sweep_at is not None and self._sweep_at <= now:
            self._sweep()
            self._sweep_at = now + SWEEP_INTERVAL if len(self._worlds) > 1 else None
        for world in self._worlds.values():
            if world.look_at is not None and world.look_at <= now:
                world.look()

    def _sweep(self) -> None:
        """Let go of those. Daemons that were started for us in them end, and with them the namespace."""
        for inode, world in list(self._worlds.items()):
            ours = {os.getpid(), world.daemon_pid} if inode in self._starter.started else {os.getpid()}
            if inode != self._home and not self.in_use(world) and not self._inhabited.ask(inode, ours):
                del self._worlds[inode]
                world.close()

    def close(self) -> None:
        """Leave the daemons: those that were started for us go when we were the last."""
        for world in self._worlds.values():
            world.close()
