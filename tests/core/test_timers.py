"""core.timers."""

from __future__ import annotations

import gc
import weakref

from hypothesis import given
from hypothesis import strategies as st

from xfrmi.core.timers import SLACK, Timers


class Thing:
    pass


def test_due_in_order_and_only_once() -> None:
    timers: Timers[str] = Timers()
    for name, when in (("b", 2.0), ("a", 1.0), ("c", 3.0)):
        timers.set(name, when)
    assert timers.next_deadline() == 1.0
    assert list(timers.due(2.0)) == ["a", "b"]
    assert list(timers.due(2.0)) == []
    assert timers.next_deadline() == 3.0
    assert len(timers) == 1


def test_setting_again_moves_the_deadline() -> None:
    timers: Timers[str] = Timers()
    timers.set("a", 1.0)
    timers.set("a", 5.0)
    assert timers.next_deadline() == 5.0
    assert list(timers.due(4.0)) == []
    timers.set("a", 2.0)
    assert list(timers.due(4.0)) == ["a"]
    assert timers.next_deadline() is None


def test_what_is_set_while_due_is_honoured() -> None:
    timers: Timers[str] = Timers()
    timers.set("a", 1.0)
    seen = []
    for name in timers.due(2.0):
        seen.append(name)
        if name == "a":
            timers.set("b", 2.0)
            timers.set("a", 3.0)
    assert seen == ["a", "b"]
    assert timers.next_deadline() == 3.0


def test_cancelled_things_are_not_kept_alive() -> None:
    timers: Timers[Thing] = Timers()
    thing = Thing()
    gone = weakref.ref(thing)
    timers.set(thing, 1.0)
    timers.cancel(thing)
    del thing
    gc.collect()
    assert gone() is None


def test_leftovers_are_bounded() -> None:
    timers: Timers[int] = Timers()
    for number in range(10_000):
        timers.set(number % 10, float(number))
    assert len(timers._heap) <= 2 * len(timers) + SLACK + 1


@given(st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), st.integers(0, 20)))), st.integers(0, 20))
def test_against_a_dict(steps: list[tuple[int, int | None]], now: int) -> None:
    timers: Timers[int] = Timers()
    model: dict[int, int] = {}
    for item, when in steps:
        if when is None:
            timers.cancel(item)
            model.pop(item, None)
        else:
            timers.set(item, when)
            model[item] = when
    assert timers.next_deadline() == min(model.values(), default=None)
    assert sorted(timers.due(now)) == sorted(item for item, when in model.items() if when <= now)
    assert timers.next_deadline() == min((when for when in model.values() if when > now), default=None)
