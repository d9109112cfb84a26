"""Which worker is the home of a state, and the sockets that bring its packets there. See workers.py.

The sockets belong to the main process, which opens them all and keeps them: the place of a socket in its group is what
the kernel's program answers with, and must not change when a worker goes.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from xfrmi.core.router import Router
from xfrmi.core.state import KM_ACQ
from xfrmi.dev.steering import MAX_PINNED, admit, spread
from xfrmi.dev.underlay import Underlay
from xfrmi.wire.xfrm_const import POLICY_CPU_ACQUIRE, Dir, SaDir

if TYPE_CHECKING:
    from xfrmi.core.policy import Policy
    from xfrmi.core.state import State

SEALER, OPENER = 0, 1
"""Homes of the states that are for no processor."""


class _Entry:
    """What a state was counted as when it came, or was changed last."""

    __slots__ = ("seals", "spi")

    def __init__(self, spi: int | None, seals: tuple[int, int] | None) -> None:
        self.spi = spi
        self.seals = seals


class Homes:
    def __init__(self, count: int, router: Router) -> None:
        """XfrmError EPERM without CAP_NET_RAW."""
        self._count = count
        self.underlays: list[Underlay] = []
        """Those of the workers."""
        self._entries: dict[State, _Entry] = {}
        self._owners: dict[int, tuple[int, int]] = {}  # SPI -> (worker, how many states that open)
        self._pins: dict[int, int] = {}
        self._bound: Counter[tuple[int, int]] = Counter()  # (if_id, worker) -> states for that processor that seal
        self._acquiring: Counter[int] = Counter()  # if_id -> policies with the flag cpu-acquire
        try:
            for _ in range(count):
                self.underlays.append(Underlay(router))
        except BaseException:
            self.close()
            raise
        self._ports: dict[tuple[int, int], int] = {}
        self._steer()

    def enter(self, state: State) -> list[tuple[int, int]]:
        """Worker and role of each home of a new state; a larval one is waited for by who seals and by who opens."""
        cpu = state.info.pcpu
        bound = cpu if cpu is not None and cpu < self._count and state.km != KM_ACQ else None
        homes = []
        entry = self._entries[state] = _Entry(None, None)
        if state.dir != SaDir.IN or state.km == KM_ACQ:
            homes.append((SEALER if bound is None else bound, int(SaDir.OUT)))
            if bound is not None:
                entry.seals = state.if_id, bound
                self._bound[entry.seals] += 1
        if state.dir != SaDir.OUT or state.km == KM_ACQ:
            entry.spi = state.spi
            homes.append((self._own(state.spi, bound), int(SaDir.IN)))
        return homes

    def moved(self, state: State) -> tuple[int, ...]:
        """The if_ids for which something is different, now that the state may have another one."""
        entry = self._entries[state]
        if entry.seals is None or entry.seals[0] == state.if_id:
            return ()
        before, worker = entry.seals
        self._bound[entry.seals] -= 1
        entry.seals = state.if_id, worker
        self._bound[entry.seals] += 1
        return before, state.if_id

    def leave(self, state: State) -> int:
        """Its if_id, as it was counted."""
        entry = self._entries.pop(state)
        if entry.seals is not None:
            self._bound[entry.seals] -= 1
        if entry.spi is not None:
            worker, count = self._owners.pop(entry.spi)
            if count > 1:
                self._owners[entry.spi] = worker, count - 1
            elif self._pins.pop(entry.spi, None) is not None:
                self._steer()
        return entry.seals[0] if entry.seals is not None else state.if_id

    def count_policy(self, policy: Policy, step: int) -> None:
        """One more, or one less: some want every worker to have packets, so that it asks for a state of its own."""
        if policy.flags & POLICY_CPU_ACQUIRE and policy.dir == Dir.OUT:
            self._acquiring[policy.if_id] += step

    def seals(self, if_id: int, worker: int) -> bool:
        """Is there a state of this if_id that only `worker` seals with, or shall there be one?"""
        return self._bound[if_id, worker] > 0 or self._acquiring[if_id] > 0

    def listen(self, family: int, port: int) -> list[int]:
        """Open a port for all workers: the descriptor for each, none if it is open already. Raises XfrmError."""
        devices = [underlay.listen(family, port, shared=True) for underlay in self.underlays]
        fds = [device.fileno() for device in devices if device is not None]
        if fds:
            self._ports[family, port] = fds[0]
            spread(fds[0], self._pins, OPENER)
        return fds

    def close(self) -> None:
        for underlay in self.underlays:
            underlay.close()

    def _own(self, spi: int, wanted: int | None) -> int:
        """The worker at which this SPI arrives. All states that share it, towards whatever address, have one home."""
        worker, count = self._owners.get(spi, (OPENER, 0))
        if not count and wanted is not None and wanted != OPENER and len(self._pins) < MAX_PINNED:
            worker = self._pins[spi] = wanted
            self._steer()
        self._owners[spi] = worker, count + 1
        return worker

    def _steer(self) -> None:
        for number, underlay in enumerate(self.underlays):
            for family, fd in underlay.raw_sockets:
                admit(fd, family, self._pins, OPENER, number)
        for fd in self._ports.values():
            spread(fd, self._pins, OPENER)
