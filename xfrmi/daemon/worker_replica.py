"""A worker's engine, kept like its parent's: each message from above is one change, what traffic does is told above.

Everything in here is named by the parent's keys. What the engine does by itself on the way (a limit that is reached, a
larval state for a flow) happens here at once, so that no packet too many goes; the parent hears of it, does the same to
its own tables, and its message about that finds nothing left to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xfrmi.core.acquire import larval
from xfrmi.core.events import Acquire, Event, Mapping, StateExpired, StateReplayed
from xfrmi.core.policy import Policy
from xfrmi.core.replay import Sequence, make_sequence, make_window
from xfrmi.core.saved import unnumbered
from xfrmi.core.state import KM_ACQ, State
from xfrmi.daemon import worker_channel as channel
from xfrmi.daemon.worker_marks import MarkedSequence, Marks, marked_window
from xfrmi.daemon.worker_usage import Usage
from xfrmi.wire.xfrm_const import SaDir
from xfrmi.wire.xfrm_types import StateInfo

if TYPE_CHECKING:
    from xfrmi.core.engine import Engine
    from xfrmi.core.interface import Interface
    from xfrmi.daemon.worker_tables import WorkerSad

Identity = tuple[bytes, int, int, object]


class Replica:
    """The tables of one worker."""

    def __init__(
        self,
        engine: Engine,
        sad: WorkerSad,
        marks: Marks,
        tell: Callable[[channel.Up], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`sad` is the engine's."""
        self._engine = engine
        self._sad = sad
        self._marks = marks
        self._tell = tell
        self._clock = clock
        self._states: dict[int, State] = {}
        self._places: dict[int, int] = {}
        self._keys: dict[Identity, int] = {}
        self._larvals: set[State] = set()
        """Those that the parent knows."""
        self._policies: dict[int, Policy] = {}
        self.interfaces: dict[int, Interface] = {}
        self._usage = Usage(engine)
        self._changes: dict[type, Callable[[Any], None]] = {
            channel.StateIn: self._state_in,
            channel.StateUsed: self._state_used,
            channel.StateChanged: self._state_changed,
            channel.StateOut: self._state_out,
            channel.PolicyIn: self._policy_in,
            channel.PolicyOut: self._policy_out,
            channel.DefaultsSet: self._defaults_set,
            channel.DeviceChanged: self._device_changed,
            channel.Listeners: self._listeners,
            channel.Learned: self._learned,
            channel.Ask: self._ask,
            channel.Brace: self._brace,
            channel.GoOn: self._go_on,
        }
        engine.subscribe(self._happened)

    def apply(self, message: channel.Down) -> None:
        """Everything that comes without descriptors."""
        self._changes[type(message)](message)

    def add_interface(self, message: channel.DeviceIn) -> Interface:
        link = message.link
        interface = self._engine.add_interface(link.name, link.if_id, link.link, link.external)
        interface.takes = message.takes
        self.interfaces[message.key] = interface
        self._device_changed(channel.DeviceChanged(message.key, link))
        return interface

    def remove_interface(self, message: channel.DeviceOut) -> Interface:
        self.report()
        interface = self.interfaces.pop(message.key)
        self._usage.forget_device(message.key)
        self._engine.delete_interface(interface.name)
        return interface

    def report(self) -> None:
        """Tell what has been counted since the last time. Of states, where it is noted which have been used, only those
        are looked at."""
        states, aevents = self._states, self._sad.aevents
        if (used := aevents.noted) is not None:
            aevents.noted = set()
            states = {key: state for key, state in states.items() if state in used}
        for report in self._usage.reports(self.interfaces, states, self._policies):
            self._tell(report)

    # States ------------------------------------------------------------------------------------------------------

    def _state_in(self, message: channel.StateIn) -> None:
        now = self._clock()
        info = message.info
        if message.key in self._states:
            self._state_anew(message, self._states[message.key], now)
            return
        if message.km == KM_ACQ:
            if (own := self._sad.awaits(info)) is not None and own not in self._larvals:
                self._sad.remove(own)
            state = larval(info, now)
            self._larvals.add(state)
        else:
            state = State(unnumbered(info), km=message.km, now=now)
            state.info = info
        state.dir = message.role
        state.dying = message.dying
        state.lastused = info.lastused
        state.iv_salt, state.iv_counter = message.iv_salt, message.iv_counter
        self._states[message.key] = state
        self._places[message.key] = message.place
        self._keys[_identity(info)] = message.key
        self._begin(message.key, state, message.numbers)
        self._usage.begin_state(message.key, state)
        self._sad.insert(state, now)
        if message.role == SaDir.OUT:
            self._engine.watch_nat(state, now)

    def _begin(self, key: int, state: State, numbers: channel.Numbers) -> None:
        """Let it go on from `numbers`. What a state that only opens would send is refused: its numbers are used up."""
        place = self._places[key]
        sequence, window = make_sequence(state.info, state.sequence.may_wrap), make_window(state.info)
        sequence.last, window.top, window.seen = numbers
        window.late, window.replayed = state.window.late, state.window.replayed
        if state.dir == SaDir.OUT:
            state.sequence = MarkedSequence(sequence, self._marks, place)
        else:
            state.sequence = Sequence((1 << 64) - 1, sequence.esn)
        state.window = marked_window(window, self._marks, place)

    def _state_anew(self, message: channel.StateIn, state: State, now: float) -> None:
        """It was told before; before anything was done with it here, it has become this."""
        info = message.info
        self._sad.recount(state, info.current)
        state.lastused, state.km = info.lastused, message.km
        state.iv_salt, state.iv_counter = message.iv_salt, message.iv_counter
        self._begin(message.key, state, message.numbers)
        self._usage.begin_state(message.key, state)
        self._sad.aevents.reset(state)
        self._sad.revise(state, info, message.dying, now)
        if message.role == SaDir.OUT:
            self._engine.watch_nat(state, now)

    def _state_used(self, message: channel.StateUsed) -> None:
        state = self._states.get(message.key)
        if state is None or state not in self._sad:
            return
        state.bytes, state.packets, state.use_time, state.lastused = message.counted
        state.iv_counter = message.iv_counter
        self._begin(message.key, state, message.numbers)
        self._usage.begin_state(message.key, state)
        self._sad.aevents.reset(state)
        self._sad.generation += 1

    def _state_changed(self, message: channel.StateChanged) -> None:
        state = self._states.get(message.key)
        if state is None or state not in self._sad:
            return
        if message.recounted:
            self._sad.recount(state, message.info.current)
            self._usage.begin_state(message.key, state)
        if message.numbers is not None:
            self._begin(message.key, state, message.numbers)
            self._usage.renumbered(message.key)
            self._sad.aevents.reset(state)
            self._sad.aevents.used(state)
        self._sad.revise(state, message.info, message.dying, self._clock())
        if state.dir == SaDir.OUT:
            self._engine.watch_nat(state, self._clock())

    def _state_out(self, message: channel.StateOut) -> None:
        state = self._states.pop(message.key, None)
        if state is None:
            return
        self._larvals.discard(state)
        self._usage.forget_state(message.key)
        del self._places[message.key]
        identity = _identity(state.info)
        if self._keys.get(identity) == message.key:
            del self._keys[identity]
        if state in self._sad:
            self._sad.remove(state)

    # Policies ----------------------------------------------------------------------------------------------------

    def _policy_in(self, message: channel.PolicyIn) -> None:
        policy = Policy(message.info)
        policy.rank = message.rank
        policy.add_time = message.info.current.add_time
        policy.use_time = message.info.current.use_time
        self._policies[message.key] = policy
        self._usage.begin_policy(message.key, policy)
        self._engine.spd.place(policy)

    def _policy_out(self, message: channel.PolicyOut) -> None:
        self._usage.forget_policy(message.key)
        self._engine.spd.remove(self._policies.pop(message.key))

    def _defaults_set(self, message: channel.DefaultsSet) -> None:
        self._engine.spd.set_default(*message.defaults)

    # The rest ----------------------------------------------------------------------------------------------------

    def _device_changed(self, message: channel.DeviceChanged) -> None:
        link = message.link
        interface = self.interfaces[message.key]
        if link.name != interface.name:
            self._engine.interfaces.rename(interface, link.name)
        if link.if_id != interface.if_id:
            self._engine.change_interface(link.name, link.if_id, link.link)
        interface.ifindex, interface.mtu = link.ifindex, link.mtu
        interface.up, interface.away = link.up, link.away
        interface.flows.clear()
        interface.verdicts.clear()

    def _listeners(self, message: channel.Listeners) -> None:
        self._engine.acquire_listeners = message.acquire
        self._engine.sad.aevents.listeners = message.aevents

    def _learned(self, message: channel.Learned) -> None:
        self._engine.router.learned.update(message.paths)

    def _ask(self, message: channel.Ask) -> None:
        if message.report:
            self.report()
        self._tell(channel.Answered(message.serial))

    def _brace(self, message: channel.Brace) -> None:
        self._sad.aevents.noted = None
        self.report()
        self._sad.aevents.noted = set()

    def _go_on(self, message: channel.GoOn) -> None:
        self._sad.aevents.noted = None

    def _happened(self, event: Event) -> None:
        """The engine's events: what only a packet can bring about."""
        if isinstance(event, Acquire):
            self._tell(channel.Needed(event.state, event.template, event.policy))
            return
        if not isinstance(event, StateExpired | StateReplayed | Mapping):
            return
        info = event.state if isinstance(event, Mapping) else event.info
        key = self._keys.get(_identity(info))
        if key is None:  # a larval state of our own has waited long enough
            return
        usage = self._usage.of_state(key, self._states[key])
        if usage is not None:
            self._tell(channel.Report(states=(usage,)))
        self._tell(channel.Happened(key, event))


def _identity(info: StateInfo) -> Identity:
    """3.1. Larval states without an SPI are many: their seq tells them apart."""
    return info.dst, info.spi, info.proto, info.mark if info.spi else info.seq
