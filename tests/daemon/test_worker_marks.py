"""What outlives a worker: whatever it does and whenever it dies, no number is used twice and none is accepted twice."""

from __future__ import annotations

import errno
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.samples import fails
from tests.examples import examples
from xfrmi.core.replay import EsnWindow, Sequence, Window
from xfrmi.daemon import worker_marks
from xfrmi.daemon.worker_marks import BLOCK, MarkedSequence, Marks, marked_window, resume_sequence, resume_window
from xfrmi.errors import Drop

MARKS = Marks()
"""One for all examples: places are given back."""

STEPS = st.lists(st.one_of(st.none(), st.integers(1, 3 * BLOCK)), max_size=40)
"""None: the worker dies. A number: so many are taken at once."""


@given(st.booleans(), st.integers(0, 2**32 - 1), st.booleans(), STEPS)
@settings(max_examples=examples(100), deadline=None)
def test_numbers_only_go_up_whoever_takes_them(esn: bool, begun: int, told: bool, steps: list[int | None]) -> None:
    """`told`: the parent has heard of the numbers before the worker died."""
    place = MARKS.take(begun, 0)
    parent = Sequence(begun, esn)
    worker = MarkedSequence(parent, MARKS, place)
    highest, skipped = begun, 0
    for step in steps:
        if step is None:
            if told:
                parent.last = worker.last
            before = worker.last
            resume_sequence(parent, MARKS, place)
            worker = MarkedSequence(parent, MARKS, place)
            skipped = max(skipped, worker.last - before)
        elif step == 1:
            with suppress(Drop):
                number = worker.next()
                assert number > highest
                highest = number
        else:
            first, count = worker.reserve(step)
            assert not count or first > highest
            highest = max(highest, first + count - 1)
    assert skipped <= BLOCK
    assert esn or highest <= 2**32 - 1
    MARKS.give_back(place)


def test_numbers_that_may_wrap_go_on_behind_the_wrap() -> None:
    place = MARKS.take(2**32 - 2, 0)
    parent = Sequence(2**32 - 2, may_wrap=True)
    worker = MarkedSequence(parent, MARKS, place)
    assert [worker.next() for _ in range(3)] == [2**32 - 1, 0, 1]
    parent.last = 2**32 - 1  # heard of last
    resume_sequence(parent, MARKS, place)
    assert 1 < MarkedSequence(parent, MARKS, place).next() <= BLOCK + 2
    MARKS.give_back(place)


ARRIVALS = st.lists(st.one_of(st.none(), st.integers(1, 200)), max_size=80)


@given(st.sampled_from([0, 1, 32, 100]), st.booleans(), ARRIVALS)
@settings(max_examples=examples(100), deadline=None)
def test_no_number_is_accepted_twice(size: int, esn: bool, steps: list[int | None]) -> None:
    place = MARKS.take(0, 0)
    parent = EsnWindow(size) if esn and size else Window(size)
    worker = marked_window(parent, MARKS, place)
    accepted: set[int] = set()
    for step in steps:
        if step is None:
            resume_window(parent, MARKS, place)
            worker = marked_window(parent, MARKS, place)
            continue
        hi = worker.ahead(step, step + 4)
        with suppress(Drop):
            if hi is not None and step % 2:
                numbers: range | list[int] = range(hi << 32 | step, (hi << 32 | step) + 5)
                worker.advance(numbers if step % 3 else list(numbers))
            else:
                hi = worker.check(step)
                numbers = [hi << 32 | step]
                worker.commit(step, hi)
            assert not size or accepted.isdisjoint(numbers)
            accepted.update(numbers)
    if size:
        assert MARKS.received(place) == max(accepted, default=0)
    MARKS.give_back(place)


def test_after_a_crash_what_comes_next_is_accepted() -> None:
    place = MARKS.take(0, 0)
    parent = Window(32)
    worker = marked_window(parent, MARKS, place)
    worker.commit(7, worker.check(7))
    resume_window(parent, MARKS, place)
    worker = marked_window(parent, MARKS, place)
    for number in (8, 10, 9):
        worker.commit(number, worker.check(number))
    assert worker.top == 10


def test_there_is_room_for_so_many() -> None:
    marks = Marks()
    marks._fresh = worker_marks.MAX_STATES - 1
    place = marks.take(5, 6)
    assert (marks.sent(place), marks.received(place)) == (5, 6)
    with fails(errno.ENOBUFS):
        marks.take(0, 0)
    marks.give_back(place)
    assert marks.take(7, 8) == place and marks.sent(place) == 7
