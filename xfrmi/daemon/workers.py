"""`xfrmi daemon --workers N`: several processes carry the packets of one network namespace.

Why processes: one interpreter runs on one processor at a time. What may be shared between them and what may not is the
whole design, and it comes from three rules: a sequence number is used once, an IV is used once under one key, and every
number received is looked at in one window.

Looked at and not taken:
 - Any worker seals with any state, numbers in blocks from shared memory. Never twice, but out of order by a block: a
   worker that is kept from running between sealing and sending falls out of the peer's replay window. With exact
   reservations under a lock the same happens, only less often. That is why RFC 9611 has states for one processor.
 - One process per direction and no more. Right for two processors and one tunnel; no way to use a third.
 - Workers with SO_REUSEPORT and the kernel's hash. A hash knows addresses and ports, which are one for a whole tunnel.

Taken: every state has one home for each direction, and whatever needs it goes there.

    `pcpu-num k`, k < N      worker k seals or opens with it (RFC 9611)
    all others               worker 0 seals, worker 1 opens: both directions of any tunnel use two processors

    main process   tables, control sockets, devices, timers: daemon/main.py as ever. It touches no packet
    worker k       a replica of what it is the home of, and the data path of a daemon without workers, unchanged

Out, a TUN has a queue for each worker. Queue 0 is always attached, queue k while there is a state of this if_id that
worker k seals with, or a policy with cpu-acquire; the kernel spreads flows over the attached ones. A packet for which a
worker has no state, or which it would have to refuse, is handed to worker 0, which decides about it, asks for states
(acquire) and tells the sender. Packets for the host are written to a queue that is never attached, so that answers are
not steered to who opened.

In, the sockets of a port are one group, and each worker has raw sockets of its own. Classic BPF reads the SPI: pinned
ones go to the home of their state, all others to worker 1 (dev/steering.py). Sockets and queues are opened here and
stay open here: what arrives while a worker is away waits for its successor.

Changes of the tables go down as they happen, and who asked for one is answered when the workers have it. What was
counted comes up once a second, and whenever somebody asks, before he is answered (worker_usage.py). A worker that dies
is replaced at once, by a fork of this process, and starts from the tables here: numbers go on above its last mark, IVs
from a range that was never used (2^48 of them; State.iv_counter is here the first of the next range, and goes along
when a state migrates), windows from the highest number accepted (worker_marks.py). While it is away nothing leaves or
enters in its stead. When this process dies, the workers end. When another takes its place: worker_handover.py.

Not done: packets that need two states of different homes (a nest of a bound and an unbound one) find no way.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from xfrmi.core.engine import Engine
from xfrmi.core.events import Event, Mapping, StateExpired, StateReplayed
from xfrmi.core.policy import Policy
from xfrmi.core.state import KM_ACQ, KM_EXPIRED, KM_VALID, State
from xfrmi.core.timers import earliest
from xfrmi.daemon import worker_channel as channel
from xfrmi.daemon.data_path import port_for
from xfrmi.daemon.loop import Loop
from xfrmi.daemon.worker import Kit, run_worker
from xfrmi.daemon.worker_handover import IV_RANGE, IVS, Hands
from xfrmi.daemon.worker_homes import Homes
from xfrmi.daemon.worker_marks import Marks, resume_sequence, resume_window
from xfrmi.daemon.worker_processes import Processes
from xfrmi.daemon.worker_queues import QueuedDevices, Queues
from xfrmi.daemon.worker_relay import relay
from xfrmi.daemon.worker_tables import ToldSad, ToldSpd
from xfrmi.daemon.worker_traces import Traces
from xfrmi.daemon.worker_usage import add_up
from xfrmi.daemon.xfrm_device import XfrmDevice
from xfrmi.errors import XfrmError
from xfrmi.wire.xfrm_attr import XfrmMsg
from xfrmi.wire.xfrm_const import SaDir
from xfrmi.wire.xfrm_types import Current, StateInfo

if TYPE_CHECKING:
    from xfrmi.daemon.credentials import Credentials
    from xfrmi.daemon.handover_sockets import Given
    from xfrmi.daemon.session import RequestHandler

_NOT_COUNTING = frozenset({int(kind) for kind in (XfrmMsg.NEWSA, XfrmMsg.NEWPOLICY, XfrmMsg.ALLOCSPI)})
"""Requests for which no counter is looked at, and of which there may be thousands."""

_HEADER = struct.Struct("=4xH")


class _Known:
    """A state of this process, and where it is."""

    __slots__ = ("homes", "key", "place")

    def __init__(self, key: int, place: int, homes: list[tuple[int, int]]) -> None:
        self.key = key
        self.place = place
        self.homes = homes
        """Worker and role."""


class Workers:
    """All workers of a daemon, and the journal of its tables. Nothing runs before `start`."""

    def __init__(
        self,
        engine: Engine,
        loop: Loop,
        count: int,
        log: Callable[[str], None],
        clock: Callable[[], float] = time.time,
        given: Given | None = None,
    ) -> None:
        """`engine` was made with ToldSad and ToldSpd. `given`: sockets of another process, which has all there is until
        `begin`. XfrmError EPERM without CAP_NET_RAW."""
        self.count = count
        self._engine = engine
        self._loop = loop
        self._log = log
        self._pid = os.getpid()
        self._clock = clock
        self._marks = Marks()
        self._left: list[int] = []
        """Places of states that are gone, which a worker may not know yet."""
        self.homes = Homes(count, engine.router, given)
        self._processes = Processes(count, loop, self._run, self._take, log, clock)
        self._queues = Queues(count, self.homes, self._processes.send, given is None)
        self.traces = Traces(count, engine.interfaces, loop, self._processes.send, self._processes.settle)
        """Who listens to packets."""
        self.hands = Hands(engine, self.homes, self._processes, self._queues)
        """From one process to another."""
        self._relays = [relay() for _ in range(count - 1)]
        self._last_key = 0
        self._held = False
        self._states: dict[int, State] = {}
        self._known: dict[State, _Known] = {}
        self._policies: dict[int, Policy] = {}
        self._policy_keys: dict[Policy, int] = {}
        self._listeners = channel.Listeners(0, 0)
        self._gone: Callable[[XfrmDevice], bool] = lambda device: False
        sad, spd = engine.sad, engine.spd
        assert isinstance(sad, ToldSad) and isinstance(spd, ToldSpd)
        self._sad = sad
        sad.journal = spd.journal = self
        engine.subscribe(self._open_port)

    # Life of the workers -----------------------------------------------------------------------------------------

    @property
    def pids(self) -> list[int]:
        """0 for one that is away."""
        return self._processes.pids

    def make_devices(self, log: Callable[[str], None]) -> QueuedDevices:
        """The devices of the daemon."""
        devices = QueuedDevices(self._queues, self.refresh, self._engine, self._loop, lambda device: None, log)
        self._gone = devices.gone
        return devices

    def start(self, held: bool = False) -> None:
        """`held`: they are to look at no packet before `go_on`."""
        self._held = held
        for number in range(self.count):
            self._begin(number)
        if held:
            self.refresh()
            self._processes.gather()
            self._held = False

    def _begin(self, number: int) -> None:
        self._number_anew(number)
        self._processes.begin(number)
        self.traces.begin(number)

    def _run(self, number: int, down: socket.socket, up: socket.socket) -> None:
        """In the child."""
        relays = [ends[1] for ends in self._relays] if not number else [self._relays[number - 1][0]]
        run_worker(
            Kit(
                number, self._engine.kernel_quirks, self._marks, self.homes.underlays[number], down, up, relays,
                self._queues.of_worker(number), self._tables(number), self._log, self._held,
            ),
            self._pid,
        )  # fmt: skip

    def _number_anew(self, number: int) -> None:
        """Where the states of a worker go on. Here, not in the child: what it gets nobody may get again."""
        for state, known in self._known.items():
            for worker, role in known.homes:
                if worker == number:
                    if role == SaDir.OUT:
                        resume_sequence(state.sequence, self._marks, known.place)
                        state.reserve_ivs(IV_RANGE)
                    else:
                        resume_window(state.window, self._marks, known.place)
                    self._sad.aevents.used(state)

    def _tables(self, number: int) -> Iterator[channel.Down]:
        """All that a worker has to know, in the order in which it came to be. IV ranges have been taken."""
        yield channel.DefaultsSet(self._defaults())
        for key, policy in self._policies.items():
            yield channel.PolicyIn(key, policy.snapshot(), policy.rank)
        for state, known in self._known.items():
            for worker, role in known.homes:
                if worker == number:
                    yield self._state_message(state, known, role, state.iv_counter - IV_RANGE)
        yield self._listeners

    def tick(self, now: float) -> None:
        for number in self._processes.due(now):
            self._begin(number)
        self.traces.tick(now)

    def next_deadline(self) -> float | None:
        return earliest((self._processes.next_deadline, self.traces.next_deadline))

    def close(self) -> None:
        """End them all, sockets too."""
        self._processes.close()
        for ends in self._relays:
            for end in ends:
                end.close()
        self.homes.close()

    # Down --------------------------------------------------------------------------------------------------------

    def tell_listeners(self) -> None:
        """How many hear of acquires and aevents may have changed."""
        now = channel.Listeners(self._engine.acquire_listeners, self._engine.sad.aevents.listeners)
        if now != self._listeners:
            self._listeners = now
            self._processes.send_all(now)

    def _open_port(self, event: Event) -> None:
        if (wanted := port_for(event, self._engine.router)) is None:
            return
        family, port = wanted
        try:
            opened = self.homes.listen(family, port)
        except XfrmError as error:
            self._log(f"ESP in UDP will not be received on port {port}: {error}")
            return
        for number, fd in enumerate(opened):
            self._processes.send(number, channel.PortOpened(family, port), (fd,))
        if opened:
            self._log(f"UDP port {port} open for ESP")

    def everywhere(self, handle: RequestHandler) -> RequestHandler:
        """`handle`, with all counters being those of now, and in effect everywhere when it returns."""

        def fresh(datagram: bytes, credentials: Credentials) -> Iterator[bytes]:
            if len(datagram) < _HEADER.size or _HEADER.unpack_from(datagram)[0] not in _NOT_COUNTING:
                self.refresh()
            answers = handle(datagram, credentials)
            self._processes.settle()
            return answers

        return fresh

    # Journal -----------------------------------------------------------------------------------------------------

    def state_coming(self, state: State) -> None:
        place = self._marks.take(state.sequence.last, state.window.top)
        self._last_key += 1
        self._known[state] = _Known(self._last_key, place, [])

    def state_in(self, state: State) -> None:
        known = self._known[state]
        self._states[known.key] = state
        known.homes = self.homes.enter(state)
        self._queues.adjust(state.if_id)
        for number, role in known.homes:
            first_iv = state.reserve_ivs(IV_RANGE) if role == SaDir.OUT else 0
            self._processes.send(number, self._state_message(state, known, role, first_iv))

    def _state_message(self, state: State, known: _Known, role: int, first_iv: int) -> channel.StateIn:
        if role == SaDir.OUT and first_iv + IV_RANGE > IVS:
            role = SaDir.IN  # 65535 workers have sealed with it: rather none than one that begins again
        return channel.StateIn(
            known.key, role, known.place, _info(state), _numbers(state), state.km, state.dying, state.iv_salt, first_iv
        )

    def state_anew(self, state: State, more: bool) -> None:
        """Somebody else has gone on with it meanwhile, and hands it over as it is now: used, and changed if `more`."""
        if state.km == KM_ACQ:
            self.state_out(state)
            self.state_coming(state)
            self.state_in(state)
            return
        known = self._known[state]
        self._marks.move(known.place, state.sequence.last, state.window.top)
        for number, role in known.homes:
            first_iv = state.reserve_ivs(IV_RANGE) if role == SaDir.OUT else 0
            if more or first_iv + IV_RANGE > IVS:
                self._processes.send(number, self._state_message(state, known, role, first_iv))
            else:
                counted = state.bytes, state.packets, state.use_time, state.lastused
                self._processes.send(number, channel.StateUsed(known.key, _numbers(state), counted, first_iv))
        for if_id in self.homes.moved(state):
            self._queues.adjust(if_id)

    def state_changed(self, state: State, renumbered: bool = False, recounted: bool = False) -> None:
        known = self._known[state]
        numbers = _numbers(state) if renumbered else None
        for number, _ in known.homes:
            message = channel.StateChanged(known.key, _info(state), state.dying, numbers, recounted)
            self._processes.send(number, message)
        for if_id in self.homes.moved(state):
            self._queues.adjust(if_id)

    def state_out(self, state: State) -> None:
        known = self._known.pop(state)
        del self._states[known.key]
        for number, _ in known.homes:
            self._processes.send(number, channel.StateOut(known.key))
        self._left.append(known.place)
        self._queues.adjust(self.homes.leave(state))

    def policy_in(self, policy: Policy) -> None:
        self._last_key += 1
        self._policies[self._last_key] = policy
        self._policy_keys[policy] = self._last_key
        self.homes.count_policy(policy, 1)
        self._queues.adjust(policy.if_id)
        self._processes.send_all(channel.PolicyIn(self._last_key, policy.snapshot(), policy.rank))

    def policy_out(self, policy: Policy) -> None:
        key = self._policy_keys.pop(policy)
        del self._policies[key]
        self.homes.count_policy(policy, -1)
        self._queues.adjust(policy.if_id)
        self._processes.send_all(channel.PolicyOut(key))

    def defaults_set(self) -> None:
        self._processes.send_all(channel.DefaultsSet(self._defaults()))

    def _defaults(self) -> tuple[int, int, int]:
        """As Spd.set_default takes them."""
        defaults = self._engine.spd.defaults
        return defaults[0], defaults[2], defaults[1]

    # Up ----------------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Have every worker take in what it was told, and tell what it has counted up to now."""
        left, self._left = self._left, []
        self._processes.refresh()
        for place in left:
            self._marks.give_back(place)

    def _take(self, message: channel.Up) -> None:
        if isinstance(message, channel.Report):
            add_up(message, self._engine, self._queues.interfaces, self._states, self._policies)
        elif isinstance(message, channel.Happened):
            if (state := self._states.get(message.key)) is not None and state.km == KM_VALID:
                self._happened(state, message.event)
        elif isinstance(message, channel.Needed):
            self._sad.needed(message.state, message.template, message.policy, self._clock())
        elif isinstance(message, channel.Held):
            self._engine.router.learned.update(message.learned)
        elif isinstance(message, channel.DeviceGone) and (device := self._queues.device(message.key)) is not None:
            self._gone(device)

    def _happened(self, state: State, event: Event) -> None:
        """As if it had happened here."""
        if isinstance(event, StateExpired):
            if state.on_limit is not None and (event.hard or not state.dying):
                if event.hard:
                    state.km = KM_EXPIRED
                else:
                    state.dying = True
                state.on_limit(state, event.hard)
        elif isinstance(event, Mapping):
            if state.on_mapping is not None:
                state.on_mapping(state, event.new_src, event.new_sport)
        elif isinstance(event, StateReplayed):
            self._sad.replayed(state, event.cause)


def _numbers(state: State) -> channel.Numbers:
    return state.sequence.last, state.window.top, state.window.seen


def _info(state: State) -> StateInfo:
    current = Current(state.bytes, state.packets, state.add_time, state.use_time)
    return replace(state.info, current=current, lastused=state.lastused)
