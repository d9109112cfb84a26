"""The states of a hand-over, told twice: all of them while packets pass, and what has changed when none do."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from xfrmi.core.saved import (
    FIELDS,
    SavedState,
    add_saved_state,
    change_saved_state,
    look_of,
    remove_saved_state,
    save_state,
)
from xfrmi.daemon.handover_format import AT_ONCE, KEYS_AT_ONCE, StatesIn, StatesOut, in_batches
from xfrmi.daemon.self_describing import check_unknown

_FIELDS = frozenset(FIELDS)

if TYPE_CHECKING:
    from xfrmi.core.engine import Engine
    from xfrmi.core.state import State


class StatesTold:
    """By who has them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._last_key = 0
        self._told: dict[State, tuple[int, object]] = {}
        """Key, and look when it was told."""

    def everything(self) -> Iterator[StatesIn | StatesOut]:
        """At first all there are; the second time what is different now. States may come and go while it is taken the
        first time."""
        sad = self._engine.sad
        gone = [state for state in self._told if state not in sad]
        for keys in in_batches([self._told.pop(state)[0] for state in gone], KEYS_AT_ONCE):
            yield StatesOut(keys)
        news: list[tuple[int, SavedState]] = []
        for state in reversed(sad.dump()):
            if state not in sad:  # since we began
                continue
            look = look_of(self._engine, state)
            key, before = self._told.get(state, (0, None))
            if look == before:
                continue
            if not key:
                self._last_key += 1
                key = self._last_key
            self._told[state] = key, look
            news.append((key, save_state(self._engine, state)))
            if len(news) == AT_ONCE:
                yield StatesIn(tuple(news))
                news = []
        if news:
            yield StatesIn(tuple(news))


class StatesHeard:
    """By who gets them."""

    def __init__(self) -> None:
        self._waiting: dict[int, SavedState] = {}
        self._states: dict[int, State] = {}
        self._engine: Engine | None = None
        self._changed: Callable[[State], None] = _nothing

    def use(self, engine: Engine, changed: Callable[[State], None] | None = None) -> None:
        """Where they go, those that have been heard of too. `changed(state)` is called when one has become another."""
        self._engine = engine
        self._changed = changed or _nothing
        for key, saved in self._waiting.items():
            self._states[key] = add_saved_state(engine, saved, secrets.token_bytes)
        self._waiting.clear()

    def take(self, message: StatesIn | StatesOut) -> None:
        engine = self._engine
        if isinstance(message, StatesIn):
            for _, saved in message.states:
                for name in saved.fields.keys() - _FIELDS:
                    check_unknown(f"{name} of a state", saved.fields[name])
        if engine is None:
            assert isinstance(message, StatesIn), "before it was told twice"
            self._waiting.update(message.states)
        elif isinstance(message, StatesOut):
            for key in message.keys:
                remove_saved_state(engine, self._states.pop(key))
        else:
            for key, saved in message.states:
                if (state := self._states.get(key)) is not None:
                    change_saved_state(engine, state, saved)
                    self._changed(state)
                else:
                    self._states[key] = add_saved_state(engine, saved, secrets.token_bytes)


def _nothing(state: State) -> None:
    pass
