"""Deadlines of many objects in one heap: one deadline an object, O(log n) to set, O(1) to cancel.

A cancelled or moved deadline stays in the heap as a bare number until its time comes or the heap is mostly such
leftovers, and is skipped then. So no object (and no key it holds) is kept alive by a timer it no longer has.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

FIRST_LOOK = 1
"""Seconds from the insertion of a state or policy to the first look at its time limits, as in the kernel."""

SLACK = 64
"""Leftovers that are not worth rebuilding a heap for."""


class Timers(Generic[T]):
    """Which objects want to be looked at, and when (Unix seconds). Objects are told apart by identity or hash."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []  # (deadline, ticket)
        self._tickets: dict[T, int] = {}
        self._armed: dict[int, tuple[float, T]] = {}  # by ticket
        self._last_ticket = 0
        self.noted: set[T] | None = None
        """Where it is noted, if anywhere, whose deadline has changed (core/noting.py)."""

    def __len__(self) -> int:
        return len(self._armed)

    def __contains__(self, item: T) -> bool:
        return item in self._tickets

    def set(self, item: T, when: float) -> None:
        """Look at `item` at `when`, and at no other time."""
        self.cancel(item)
        self._last_ticket += 1
        ticket = self._last_ticket
        self._tickets[item] = ticket
        self._armed[ticket] = (when, item)
        heapq.heappush(self._heap, (when, ticket))
        if self.noted is not None:
            self.noted.add(item)

    def deadline_of(self, item: T) -> float | None:
        """When it will be looked at."""
        ticket = self._tickets.get(item)
        return None if ticket is None else self._armed[ticket][0]

    def cancel(self, item: T) -> None:
        """Forget `item`; nothing happens if it has no deadline."""
        ticket = self._tickets.pop(item, None)
        if ticket is None:
            return
        del self._armed[ticket]
        if self.noted is not None:
            self.noted.add(item)
        if len(self._heap) > 2 * len(self._armed) + SLACK:
            self._heap = [(when, ticket) for ticket, (when, _) in self._armed.items()]
            heapq.heapify(self._heap)

    def next_deadline(self) -> float | None:
        heap = self._heap
        while heap and heap[0][1] not in self._armed:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def due(self, now: float) -> Iterator[T]:
        """Take out and yield what is due, earliest first. Deadlines set meanwhile are honoured, even if due at once."""
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            _, ticket = heapq.heappop(self._heap)
            _, item = self._armed.pop(ticket)
            del self._tickets[item]
            if self.noted is not None:
                self.noted.add(item)
            yield item


def earliest(sources: Iterable[Callable[[], float | None]]) -> float | None:
    """The first of their deadlines. Asked in every turn of the loop: a generator would double the cost."""
    first: float | None = None
    for source in sources:
        deadline = source()
        if deadline is not None and (first is None or deadline < first):
            first = deadline
    return first
