"""Which states anything happens to, while somebody keeps a copy of them all: a daemon that is about to hand over.

A state changes in few ways, and each passes by one of these places:

    packets use it, or are refused by it            aevents.moved, once for each burst
    others count for it; NEWAE                      aevents.used
    it comes, goes, is updated, begins to die       the index, by which it is found
    a limit in seconds, an aevent, a keepalive      the timers, which look at it next at another time

What is not noted is what is found anew by itself: the TTL and the MTU of the way to the peer (decision.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xfrmi.core.engine import Engine
    from xfrmi.core.state import State


class Noting:
    """From now on until `end`. One at a time."""

    def __init__(self, engine: Engine) -> None:
        sad = engine.sad
        self._places = sad.index, sad.aevents, sad.timers, sad.aevents.timers, engine.keepalives.timers
        self._noted: set[State] = set()
        self._put(self._noted)

    def take(self) -> set[State]:
        """Those since it was asked last. Some may have gone."""
        noted, self._noted = self._noted, set()
        self._put(self._noted)
        return noted

    def end(self) -> None:
        self._put(None)

    def _put(self, where: set[State] | None) -> None:
        for place in self._places:
            place.noted = where
