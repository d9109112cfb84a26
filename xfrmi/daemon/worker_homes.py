"""Which worker is the home of a state, and the sockets that bring its packets there. See workers.py.

The sockets belong to the main process, which opens them all and keeps them: the place of a socket in its group is what
the kernel's program answers with, and must not change when a worker goes.

Those that another process hands over have packets in them. So they stay in their places, and SPIs are steered to the
same ones as before; what is new is only who reads which. A worker may read several, and what nobody would read is for
worker 1. Sockets that are missing come behind them. Nothing is steered anew before `begin`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from xfrmi.core.router import Router
from xfrmi.core.state import KM_ACQ
from xfrmi.daemon.handover_sockets import OPENER, Given
from xfrmi.dev.device import taken_apart
from xfrmi.dev.steering import MAX_PINNED, admit, drain, let_join, spread
from xfrmi.dev.underlay import Underlay
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6, POLICY_CPU_ACQUIRE, Dir, SaDir

if TYPE_CHECKING:
    from xfrmi.core.policy import Policy
    from xfrmi.core.state import State

SEALER = 0
"""The home of the states that are for no processor, on the way out; on the way in that is OPENER."""


class _Entry:
    """What a state was counted as when it came, or was changed last."""

    __slots__ = ("seals", "spi")

    def __init__(self, spi: int | None, seals: tuple[int, int] | None) -> None:
        self.spi = spi
        self.seals = seals


class _Port:
    """A UDP port: a socket of the group, and for whom each was opened, by place."""

    __slots__ = ("fd", "opened_for")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.opened_for: list[int] = []


class Homes:
    def __init__(self, count: int, router: Router, given: Given | None = None) -> None:
        """`given`: by another process, which has them until `begin`. XfrmError EPERM without CAP_NET_RAW."""
        self._count = count
        self.underlays: list[Underlay] = []
        """Those of the workers."""
        self._entries: dict[State, _Entry] = {}
        self._owners: dict[int, tuple[int, int]] = {}  # SPI -> (worker, how many states that open)
        self._pins = given.pins if given is not None else {}  # SPI -> place of a raw socket; told until `begin`
        self._begun = given is None
        self._bound: Counter[tuple[int, int]] = Counter()  # (if_id, worker) -> states for that processor that seal
        self._acquiring: Counter[int] = Counter()  # if_id -> policies with the flag cpu-acquire
        self._ports: dict[tuple[int, int], _Port] = {}
        self._opened_for = list(given.readers) if given is not None else []
        """Of the raw sockets of a family, by place: for which worker, of this or of an earlier daemon. Packets are
        steered by this, which stays true however many workers there are."""
        inherited = len(self._opened_for)
        readers = set(map(self._reader, self._opened_for))
        self._opened_for += [worker for worker in range(count) if worker not in readers]
        self._readers = list(map(self._reader, self._opened_for))
        self._default = given.default if given is not None else self._readers.index(OPENER)
        """The place where SPIs arrive that are not pinned."""
        try:
            for number in range(count):
                self.underlays.append(self._underlay(number, router, given))
        except BaseException:
            self.close()
            raise
        self._raw = {family: self._in_their_places(family) for family in (AF_INET, AF_INET6)}
        for family, fds in self._raw.items():
            for fd in fds[inherited:] if inherited else ():
                admit(fd, family, {}, 0, None)
                drain(fd)  # copies of what others read
        self._steer()

    def _underlay(self, number: int, router: Router, given: Given | None) -> Underlay:
        if given is None:
            return Underlay(router)
        places = [place for place, reader in enumerate(self._readers) if reader == number]
        esp = {family: [fds[place] for place in places if place < len(fds)] for family, fds in given.esp.items()}
        return Underlay(router, esp=esp, icmp={} if number else given.icmp)

    def _reader(self, worker: int) -> int:
        """Who reads what that worker of another process has read."""
        return worker if worker < self._count else OPENER

    def _in_their_places(self, family: int) -> list[int]:
        """The descriptors of the raw sockets of a family; none if the machine has not got it."""
        of_workers = [[fd for of, fd in underlay.raw_sockets if of == family] for underlay in self.underlays]
        return [of_workers[reader].pop(0) for reader in self._readers] if all(of_workers) else []

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
            elif self._begun and self._pins.pop(entry.spi, None) is not None:
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
            opened = self._ports[family, port] = _Port(fds[0])
            opened.opened_for += range(self._count)
            self._spread(opened)
        return fds

    def adopt_port(self, family: int, port: int, reader: int, fd: int) -> int:
        """Go on with a socket that another process has bound, and `reader` has read; given in the order of places.
        Returns the worker that is to read it."""
        worker = self._reader(reader)
        self.underlays[worker].listen(family, port, fd=fd)
        self._ports.setdefault((family, port), _Port(fd)).opened_for.append(reader)
        return worker

    def complete_ports(self) -> Iterator[tuple[int, int, int, int, tuple[tuple[bytes, bytes], ...]]]:
        """Open for each worker what it has not been given: family, port, worker, descriptor; and datagrams that were
        for OPENER. Raises XfrmError."""
        for (family, port), opened in self._ports.items():
            readers = set(map(self._reader, opened.opened_for))
            for worker in range(self._count):
                if worker in readers:
                    continue
                let_join(opened.fd)
                device = self.underlays[worker].listen(family, port, shared=True)
                assert device is not None
                opened.opened_for.append(worker)
                spread(opened.fd, {}, opened.opened_for.index(OPENER))
                # The first to join is chosen by a hash until there is a program.
                strays = [(bytes(header), bytes(esp)) for header, esp in taken_apart(device.recv_burst())]
                yield family, port, worker, device.fileno(), tuple(strays)

    def begin(self) -> None:
        """What was handed over is ours."""
        self._begun = True
        self._pins = {spi: place for spi, place in self._pins.items() if spi in self._owners}
        self._steer()

    @property
    def sockets(self) -> Given:
        """For another process, but the UDP sockets."""
        icmp = {errors.family: errors.fileno() for errors in self.underlays[0].icmp_errors}
        return Given(self._raw, self._opened_for, icmp, self._pins, self._default)

    @property
    def udp_sockets(self) -> Iterator[tuple[int, int, int, int]]:
        """Family, port, for whom it was opened and descriptor, by place."""
        of_workers = [list(underlay.udp_sockets) for underlay in self.underlays]
        for (family, port), opened in self._ports.items():
            for reader in opened.opened_for:
                fds = of_workers[self._reader(reader)]
                at = next(at for at, found in enumerate(fds) if found[:2] == (family, port))
                yield family, port, reader, fds.pop(at)[3]

    def close(self) -> None:
        for underlay in self.underlays:
            underlay.close()

    def _own(self, spi: int, wanted: int | None) -> int:
        """The worker at which this SPI arrives. All states that share it, towards whatever address, have one home."""
        worker, count = self._owners.get(spi, (OPENER, 0))
        if not count and spi in self._pins:
            worker = self._readers[self._pins[spi]]
        elif not count and self._begun and wanted is not None and wanted != OPENER and len(self._pins) < MAX_PINNED:
            worker = wanted
            self._pins[spi] = self._readers.index(wanted)
            self._steer()
        self._owners[spi] = worker, count + 1
        return worker

    def _steer(self) -> None:
        if not self._begun:
            return
        for family, fds in self._raw.items():
            for place, fd in enumerate(fds):
                admit(fd, family, self._pins, self._default, place)
        for port in self._ports.values():
            self._spread(port)

    def _spread(self, port: _Port) -> None:
        default = port.opened_for.index(OPENER)
        places = {reader: port.opened_for.index(reader) for reader in port.opened_for}
        pins = {spi: places.get(self._opened_for[place], default) for spi, place in self._pins.items()}
        spread(port.fd, pins, default)
