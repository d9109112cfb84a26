"""The states and policies of a hand-over, told again and again: all of them at first, then what has changed since.

Only the last time nobody else does anything meanwhile, and it is the one that packets wait for: what it costs grows
with what has happened since the time before, not with the tables. Each thing that was told has a number, its key.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress
from operator import attrgetter, ne
from typing import TYPE_CHECKING, Generic, TypeVar

from xfrmi.core.noting import note_policies, note_states
from xfrmi.core.saved import (
    FIELDS,
    SavedPolicy,
    SavedState,
    add_saved_policy,
    add_saved_state,
    change_saved_policy,
    change_saved_state,
    remove_saved_state,
    save_policy,
    save_state,
)
from xfrmi.daemon.handover_format import (
    AT_ONCE,
    KEYS_AT_ONCE,
    PoliciesIn,
    PoliciesOut,
    StatesIn,
    StatesOut,
    in_batches,
)
from xfrmi.daemon.self_describing import check_unknown

_FIELDS = frozenset(FIELDS)

if TYPE_CHECKING:
    from xfrmi.core.engine import Engine
    from xfrmi.core.policy import Policy
    from xfrmi.core.state import State
    from xfrmi.wire.xfrm_types import StateInfo

_use_time = attrgetter("use_time")
_iv_counter = attrgetter("iv_counter")

T = TypeVar("T")
S = TypeVar("S")


class _Keys(Generic[T]):
    """Of all that the other one has been told of."""

    def __init__(self) -> None:
        self._keys: dict[T, int] = {}
        self._last = 0

    def give(self, item: T) -> int:
        """Its own, or a new one."""
        key = self._keys.get(item)
        if key is None:
            key = self._last = self._keys[item] = self._last + 1
        return key

    def take_back(self, items: Iterable[T]) -> Iterator[tuple[int, ...]]:
        """Of those that have one. In batches."""
        keys = [self._keys.pop(item) for item in items if item in self._keys]
        return in_batches(sorted(keys), KEYS_AT_ONCE)


class TablesTold:
    """By who has them."""

    def __init__(self, engine: Engine) -> None:
        """From now on until `end` it is noted what happens to them."""
        self._engine = engine
        self._states: _Keys[State] = _Keys()
        self._policies: _Keys[Policy] = _Keys()
        self._noted_states, self._noted_policies = note_states(engine), note_policies(engine)
        self._infos: dict[State, StateInfo] = {}
        self._iv_counters: dict[State, int] = {}
        self._use_times: dict[Policy, int] = {}

    def end(self) -> None:
        self._noted_states.end()
        self._noted_policies.end()

    def everything(self) -> Iterator[StatesIn | StatesOut | PoliciesIn | PoliciesOut]:
        """At first all there is; after that what is different from the last time. Things may come, change and go while
        it is taken: then it is to be taken again."""
        yield from self._of_states()
        yield from self._of_policies()

    def _of_states(self) -> Iterator[StatesIn | StatesOut]:
        sad, keys = self._engine.sad, self._states
        changed = self._noted_states.take()
        # Also new ones; and noted or not, an IV counter is never told too low: an IV used twice would give away the key
        # of the ICV.
        states, counters = sad.dump(), self._iv_counters
        changed.update(compress(states, map(ne, map(counters.get, states), map(_iv_counter, states))))
        gone = [state for state in changed if state not in sad]
        for some in keys.take_back(gone):
            yield StatesOut(some)
        for state in gone:
            self._infos.pop(state, None)
            counters.pop(state, None)
        for batch, saved in _in_turn(sad.index.in_order(changed), sad.__contains__, self._save_state):
            yield StatesIn(tuple(zip(map(keys.give, batch), saved, strict=True)))

    def _save_state(self, state: State) -> SavedState:
        saved = save_state(self._engine, state, self._infos.get(state))
        self._infos[state], self._iv_counters[state] = state.info, state.iv_counter
        return saved

    def _save_policy(self, policy: Policy) -> SavedPolicy:
        return save_policy(self._engine, policy)

    def _of_policies(self) -> Iterator[PoliciesIn | PoliciesOut]:
        spd, keys, times = self._engine.spd, self._policies, self._use_times
        noted = self._noted_policies.take()
        gone = [policy for policy in noted if policy not in spd]
        for some in keys.take_back(gone):
            yield PoliciesOut(some)
        for policy in gone:
            times.pop(policy, None)
        policies = spd.dump()[::-1]
        used = list(compress(policies, map(ne, map(times.get, policies), map(_use_time, policies))))  # or new
        times.update(zip(used, map(_use_time, used), strict=True))
        for batch, saved in _in_turn([*used, *noted.difference(used)], spd.__contains__, self._save_policy):
            yield PoliciesIn(tuple(zip(map(keys.give, batch), saved, strict=True)))


def _in_turn(
    items: Sequence[T], is_there: Callable[[T], bool], save: Callable[[T], S]
) -> Iterator[tuple[list[T], list[S]]]:
    """In batches, each as it is when it is taken; those that have gone by then are left out."""
    for batch in in_batches(items, AT_ONCE):
        there = list(filter(is_there, batch))
        if there:
            yield there, list(map(save, there))


class TablesHeard:
    """By who gets them."""

    def __init__(self) -> None:
        self._waiting: list[StatesIn | StatesOut | PoliciesIn | PoliciesOut] = []
        self._states: dict[int, State] = {}
        self._policies: dict[int, Policy] = {}
        self._engine: Engine | None = None
        self._state_changed: Callable[[State, bool], None] = _nothing
        self._check: Callable[[SavedPolicy], None] = _nothing

    def use(
        self,
        engine: Engine,
        state_changed: Callable[[State, bool], None] | None = None,
        check: Callable[[SavedPolicy], None] | None = None,
    ) -> None:
        """Where they go, those that have been heard of too. `state_changed(state, more)` is called when one has been
        used, or has become another if `more`; `check(saved)` before a policy is added: XfrmError if it may not be."""
        self._engine = engine
        self._state_changed = state_changed or _nothing
        self._check = check or _nothing
        for message in self._waiting:
            self.take(message)
        self._waiting.clear()

    def take(self, message: StatesIn | StatesOut | PoliciesIn | PoliciesOut) -> None:
        """XfrmError."""
        engine = self._engine
        if engine is None:
            self._waiting.append(message)
            return
        match message:
            case StatesOut(keys):
                for key in keys:
                    remove_saved_state(engine, self._states.pop(key))
            case PoliciesOut(keys):
                for key in keys:
                    engine.spd.remove(self._policies.pop(key))
            case StatesIn(states):
                for key, saved in states:
                    self._take_state(engine, key, saved)
            case PoliciesIn(policies):
                for key, one in policies:
                    self._take_policy(engine, key, one)

    def _take_state(self, engine: Engine, key: int, saved: SavedState) -> None:
        for name in saved.fields.keys() - _FIELDS:
            check_unknown(f"{name} of a state", saved.fields[name])
        if (state := self._states.get(key)) is not None:
            self._state_changed(state, change_saved_state(engine, state, saved))
        else:
            self._states[key] = add_saved_state(engine, saved, secrets.token_bytes)

    def _take_policy(self, engine: Engine, key: int, saved: SavedPolicy) -> None:
        if (policy := self._policies.get(key)) is not None:
            change_saved_policy(engine, policy, saved)
        else:
            self._check(saved)
            self._policies[key] = add_saved_policy(engine, saved)


def _nothing(*_: object) -> None:
    pass
