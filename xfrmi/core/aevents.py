"""What a state has counted, told to who wants to keep a copy of it, and set by who has one (kernel-behaviour 3.7; RFC
documents of the kernel call it xfrm sync). A standby that knows the counters can take a tunnel over.

While anybody listens, a state's counters are told

    as a replay update   when a sequence number, sent or received, is `packets` beyond the one told last
    as timer expired     when they have moved at all and `tenths` of a second have passed since; after such a time in
                         which nothing moved, with the first packet

The kernel asks after each packet. Here each burst asks once, and not even that while nobody listens.

Who is about to hand over keeps a copy, too, that of its successor, and has it noted which states are used (noting.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final, NamedTuple

from xfrmi.core.events import EventSink, StateReplayed
from xfrmi.core.replay import make_sequence, make_window
from xfrmi.core.state import KM_ACQ, KM_VALID, State
from xfrmi.core.timers import Timers
from xfrmi.wire.xfrm_const import SA_XFLAG_OSEQ_MAY_WRAP
from xfrmi.wire.xfrm_event_msg import AE_CAUSE_REPLAY, AE_CAUSE_TIMER
from xfrmi.wire.xfrm_types import StateInfo

Position = tuple[int, int, int]
"""The last number sent, the highest one received, and which of those below that have been received."""


class Thresholds(NamedTuple):
    packets: int
    """0: tell of everything."""
    tenths: int
    """Tenths of a second, 0: never because of time."""


DEFAULT: Final = Thresholds(2, 10)
"""sysctl net.core.xfrm_aevent_rseqth, xfrm_aevent_etime."""
_NONE: Final = Thresholds(0, 0)


def thresholds_of(state: State) -> Thresholds:
    """Those of NEWSA or NEWAE, else the default ones; a larval state has none."""
    if state.km == KM_ACQ:
        return _NONE
    packets, tenths = state.info.replay_thresh, state.info.etimer_thresh
    return Thresholds(DEFAULT.packets if packets is None else packets, DEFAULT.tenths if tenths is None else tenths)


class Told:
    """What was told last, and whether a whole time has passed since in which nothing moved."""

    __slots__ = ("idle", "position")

    def __init__(self, position: Position, idle: bool) -> None:
        self.position = position
        self.idle = idle


class Aevents:
    """The aevents that traffic causes."""

    def __init__(self, emit: EventSink) -> None:
        self.wanted = False
        """Does anybody want to know? Then `moved` is to be called, for whatever packets have done to a state."""
        self._listeners = 0
        self._noted: set[State] | None = None
        self._emit = emit
        self.told: dict[State, Told] = {}
        self.timers: Timers[State] = Timers()

    @property
    def listeners(self) -> int:
        """How many listen."""
        return self._listeners

    @listeners.setter
    def listeners(self, count: int) -> None:
        self._listeners = count
        self.wanted = bool(count) or self._noted is not None

    @property
    def noted(self) -> set[State] | None:
        """Where it is noted, if anywhere, which states are used."""
        return self._noted

    @noted.setter
    def noted(self, where: set[State] | None) -> None:
        self._noted = where
        self.listeners = self._listeners

    def used(self, state: State) -> None:
        """By whoever counts for it elsewhere: nobody is told, but it is noted."""
        if self._noted is not None:
            self._noted.add(state)

    def moved(self, states: Iterable[State], now: float) -> None:
        """Packets have used these states, all that a burst needed; or were refused by them. Call it while `wanted`."""
        if self._noted is not None:
            self._noted.update(states)
        if self._listeners:
            for state in states:
                if state.km == KM_VALID:
                    self._look(state, now)

    def reset(self, state: State) -> None:
        """Its numbers have been set: nothing has moved since."""
        self.used(state)
        if (told := self.told.get(state)) is not None:
            told.position = _position(state)

    def forget(self, state: State) -> None:
        if self.told.pop(state, None) is not None:
            self.timers.cancel(state)

    def tick(self, now: float) -> None:
        for state in self.timers.due(now):
            told = self.told[state]
            if self.listeners and _position(state) != told.position:
                self._tell(state, told, AE_CAUSE_TIMER, now)
            else:
                told.idle = True

    def next_deadline(self) -> float | None:
        return self.timers.next_deadline()

    def _look(self, state: State, now: float) -> None:
        told = self.told.get(state) or self._begin(state, now)
        position = _position(state)
        if position == told.position:
            return
        packets = thresholds_of(state).packets
        if not all(0 <= new - old < packets for new, old in zip(position[:2], told.position, strict=False)):
            self._tell(state, told, AE_CAUSE_REPLAY, now)
        elif told.idle:
            self._tell(state, told, AE_CAUSE_TIMER, now)

    def _begin(self, state: State, now: float) -> Told:
        """As if somebody had listened from its first packet on."""
        tenths = thresholds_of(state).tenths
        first = state.add_time + tenths / 10
        told = self.told[state] = Told(_configured(state.info), bool(tenths) and first <= now)
        if first > now:
            self.timers.set(state, first)
        return told

    def _tell(self, state: State, told: Told, cause: int, now: float) -> None:
        told.position = _position(state)
        self._emit(StateReplayed(state.snapshot(), cause))
        if tenths := thresholds_of(state).tenths:
            self.timers.set(state, now + tenths / 10)
            told.idle = False


def _position(state: State) -> Position:
    return state.sequence.last, state.window.top, state.window.seen


def _configured(info: StateInfo) -> Position:
    window = make_window(info)
    return make_sequence(info, False).last, window.top, window.seen


def restart(state: State, info: StateInfo) -> None:
    """Let the counters of `state` continue from those in `info`; its drop counts stay, and its IVs count on."""
    window = make_window(info)
    window.late, window.replayed = state.window.late, state.window.replayed
    state.info, state.window = info, window
    state.sequence = make_sequence(info, bool(state.extra_flags & SA_XFLAG_OSEQ_MAY_WRAP))


def set_thresholds(state: State, packets: int | None, tenths: int | None) -> None:
    """None: as it is."""
    info = state.info
    state.info = replace(
        info,
        replay_thresh=info.replay_thresh if packets is None else packets,
        etimer_thresh=info.etimer_thresh if tenths is None else tenths,
    )
