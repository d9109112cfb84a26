"""Which states and policies anything happens to, while somebody keeps a copy of all: a daemon about to hand over.

A state changes in few ways, and each passes by one of these places:

    packets use it, or are refused by it            aevents.moved, once for each burst
    others count for it; NEWAE                      aevents.used
    it comes, goes, is updated, begins to die       the index, by which it is found
    a limit in seconds, an aevent, a keepalive      the timers, which look at it next at another time

A policy comes and goes, gets other templates, and has limits in seconds. Not noted is what is found anew by itself, the
TTL and the MTU of the way to a peer (decision.py); and when a policy was used last: that is one number, of few things.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

T = TypeVar("T")

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from xfrmi.core.engine import Engine
    from xfrmi.core.policy import Policy
    from xfrmi.core.state import State

    class Place(Protocol[T]):
        noted: set[T] | None


class Noting(Generic[T]):
    """From now on until `end`. One at a time."""

    def __init__(self, places: Sequence[Place[T]]) -> None:
        self._places = places
        self._noted: set[T] = set()
        self._put(self._noted)

    def take(self) -> set[T]:
        """Those since it was asked last. Some may have gone."""
        noted, self._noted = self._noted, set()
        self._put(self._noted)
        return noted

    def end(self) -> None:
        self._put(None)

    def _put(self, where: set[T] | None) -> None:
        for place in self._places:
            place.noted = where


def note_states(engine: Engine) -> Noting[State]:
    sad = engine.sad
    return Noting((sad.index, sad.aevents, sad.timers, sad.aevents.timers, engine.keepalives.timers))


def note_policies(engine: Engine) -> Noting[Policy]:
    return Noting((engine.spd, engine.spd.timers))
