"""Which flows without a state may ask for one now: all of them on ordinary days, few of them in a storm.

A larval state costs four times what a refusal does, and where each flow is a matter of its own (transport mode) whoever
sends to many addresses makes one with each packet. A kernel has no limit. Here there are three ways to be refused, and
each packet that is refused is one XfrmOutNoStates, as if nobody listened; the next packet of the flow tries again.

 1  as long as fewer than FREE flows wait for an answer, none is refused: that is all that ordinary traffic ever sees
 2  beyond that, who asks for the first time is only remembered: a storm of new flows does not come back for each of
    them, but ping and TCP do within a second. Who asks again within PATIENCE gets his acquire, as long as no more of
    them are given in the lifetime of a larval state than there are places: so the places are never all taken
 3  with MAX_LARVAL that wait nobody gets one
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable
from typing import Final

FREE: Final = 512
"""Flows that wait at once before anybody is refused: a twentieth of a second's work."""
MAX_LARVAL: Final = 4096
"""Flows that wait at once. They live for half a minute, and would fill the memory."""
PATIENCE: Final = 10
"""Seconds for which who was refused is remembered, at most."""
AT_ONCE: Final = 64
"""Acquires on second thoughts that may follow each other without a pause."""

_SLOTS: Final = 1 << 16
"""Half a megabyte, in which who was refused has a place of his own until another one gets the same: of 10,000 new flows
a second four in five are still known after a second."""
_CLOCK: Final = 0xFF


class AcquireLimit:
    def __init__(self, acq_expires: Callable[[], int]) -> None:
        """`acq_expires()` says for how many seconds a larval state waits to be completed."""
        self._acq_expires = acq_expires
        self._asked = array("Q")
        """By place: what tells the peer, above the time of the question, both cut. Empty before the first storm."""
        self._due = 0.0
        """When all that has been given on second thoughts will have had its time."""

    def allows(self, waiting: int, peer: Hashable, now: float) -> bool:
        """May a flow to this peer make a larval state, beside those that wait already?"""
        if waiting < FREE:
            return True
        if not self._asked:
            self._asked = array("Q", bytes(8 * _SLOTS))
        mark, seconds = hash(peer) & (1 << 64) - 1, int(now)  # keyed anew in each process: nobody can aim at a place
        place, mark = mark % _SLOTS, mark & ~_CLOCK
        known = self._asked[place]
        self._asked[place] = mark | seconds & _CLOCK
        if waiting >= MAX_LARVAL or known & ~_CLOCK != mark or (seconds - known) & _CLOCK > PATIENCE:
            return False
        pause = max(self._acq_expires(), 1) / (MAX_LARVAL - FREE - AT_ONCE)
        if now < self._due <= now + pause:
            return False
        due = self._due if self._due <= now else 0.0  # else the clock has been set back
        self._due = max(due, now - (AT_ONCE - 1) * pause) + pause
        return True
