"""The tables of a daemon with workers: a SAD and an SPD that tell a journal of every change, as it happens; and the SAD
of a worker, which is told.

What is told is what has become of the tables, never the request that caused it, so that all ways of changing them
(requests, expiries, migration, acquires) are one to a worker.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from xfrmi.core.acquire import larval
from xfrmi.core.events import Acquire, StateReplayed
from xfrmi.core.policy import Policy
from xfrmi.core.sad import Sad
from xfrmi.core.spd import Spd
from xfrmi.core.state import State
from xfrmi.core.state_index import output_key
from xfrmi.wire.xfrm_types import Current, PolicyInfo, Replay, ReplayEsn, StateId, StateInfo, Template


class Journal(Protocol):
    """Who is told."""

    def state_coming(self, state: State) -> None:
        """About to be inserted; raises XfrmError where there is no room."""

    def state_in(self, state: State) -> None: ...

    def state_changed(self, state: State, renumbered: bool = False, recounted: bool = False) -> None:
        """`renumbered`: its sequence numbers and window have been set; `recounted`: its counters have."""

    def state_out(self, state: State) -> None: ...

    def policy_in(self, policy: Policy) -> None: ...

    def policy_out(self, policy: Policy) -> None: ...

    def defaults_set(self) -> None: ...


class ToldSad(Sad):
    """Set `journal` before there is anything to tell."""

    journal: Journal

    def insert(self, state: State, now: float) -> None:
        self.journal.state_coming(state)
        super().insert(state, now)
        self.journal.state_in(state)

    def remove(self, state: State) -> None:
        super().remove(state)
        self.journal.state_out(state)

    def update(self, info: StateInfo, now: float) -> State:
        state = super().update(info, now)
        if state in self:
            self.journal.state_changed(state)
        return state

    def set_replay(
        self,
        state_id: StateId,
        replay: Replay | None = None,
        replay_esn: ReplayEsn | None = None,
        current: Current | None = None,
        replay_thresh: int | None = None,
        etimer_thresh: int | None = None,
    ) -> State:
        before = self.find(state_id).sequence
        state = super().set_replay(state_id, replay, replay_esn, current, replay_thresh, etimer_thresh)
        self.journal.state_changed(state, state.sequence is not before, current is not None)
        return state

    def alloc_spi(self, info: StateInfo, low: int, high: int, now: float) -> State:
        state = super().alloc_spi(info, low, high, now)
        self.journal.state_out(state)
        self.journal.state_coming(state)
        self.journal.state_in(state)
        return state

    def _limit_reached(self, state: State, hard: bool) -> None:
        super()._limit_reached(state, hard)
        if not hard:
            self.journal.state_changed(state)

    # What workers say ----------------------------------------------------------------------------------------------

    def needed(self, info: StateInfo, template: Template, policy: PolicyInfo, now: float) -> None:
        """A packet needs a state like `info`, and nobody may have asked for one yet."""
        key = output_key(info)
        if not self.acquire_listeners or self.index.larval_waiting(key, info.mark.value, info.pcpu) is not None:
            return
        if info.pcpu is None and any(True for _ in self.index.candidates(key, 0)):
            return  # it has come meanwhile
        state = larval(replace(info, seq=self._next_acquire_seq()), now)
        self.insert(state, now)
        self._emit(Acquire(state.snapshot(), template, policy))

    def replayed(self, state: State, cause: int) -> None:
        """Its numbers have moved by so much that listeners hear of it."""
        self._emit(StateReplayed(state.snapshot(), cause))


class ToldSpd(Spd):
    journal: Journal

    def place(self, policy: Policy) -> None:
        super().place(policy)
        self.journal.policy_in(policy)

    def remove(self, policy: Policy) -> None:
        super().remove(policy)
        self.journal.policy_out(policy)

    def point(self, policy: Policy, templates: tuple[Template, ...]) -> None:
        super().point(policy, templates)
        self.journal.policy_out(policy)
        self.journal.policy_in(policy)

    def set_default(self, input: int, forward: int, output: int) -> None:
        super().set_default(input, forward, output)
        self.journal.defaults_set()


class WorkerSad(Sad):
    """Of one worker: the states that it is the home of."""

    def awaits(self, info: StateInfo) -> State | None:
        """The larval state that this worker has made by itself for what `info` is the parent's."""
        return self.index.larval_waiting(output_key(info), info.mark.value, info.pcpu)

    def revise(self, state: State, info: StateInfo, dying: bool, now: float) -> None:
        """What UPDSA, or a soft limit, has made of it."""
        with self.index.moving(state):
            state.update(info)
            state.info, state.dying = info, dying
        self.generation += 1
        self._arm(state, now)

    def recount(self, state: State, current: Current) -> None:
        """What NEWAE has made of its counters."""
        with self.index.moving(state):
            state.add_time = current.add_time
        state.bytes, state.packets, state.use_time = current.bytes, current.packets, current.use_time
        self.generation += 1

