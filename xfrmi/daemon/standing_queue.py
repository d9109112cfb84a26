"""Keeping the queue before us short: super-packets are lost on purpose where the TUN does not get empty any more.

TCP fills whatever queue there is before the slowest part of its way, and here that is us: the TUN's queue holds 64 MB
of super-packets. Left alone, an echo beside one stream takes as long as all of that takes to be sealed. Losing a packet
makes TCP send less, as a queue that overflows would, only earlier. It is lost before it has a sequence number, so only
the device's tx_dropped tells; what has been sealed is never lost on purpose.

The rule is CoDel's (RFC 8289) with what can be seen from here. Which packet has waited how long is not known, but
whether a read emptied the queue is. A burst fills it for a moment; a queue that has not been empty for INTERVAL is a
standing one, of no use to anybody. Then one packet is lost, and the next after INTERVAL / sqrt(2), / sqrt(3)... until
the queue has been empty again. Where the kernel has fq_codel (dev/tun.py), it does all this better, and this finds
little to do.
"""

from __future__ import annotations

from typing import Final

INTERVAL: Final = 0.01
"""Seconds. Shorter than the round trips that CoDel has in mind: however many packets are lost within one of them, TCP
takes it for one reason to slow down."""


class StandingQueue:
    """The memory of one queue."""

    __slots__ = ("_next", "_shed")

    def __init__(self) -> None:
        self._next = 0.0
        """When to lose a packet; 0 while the queue has been empty lately."""
        self._shed = 0

    def sheds(self, empty: bool, now: float) -> bool:
        """After each read: did it leave nothing (`empty`)? True when a packet is to be lost. `now` is in seconds."""
        if empty:
            self._next, self._shed = 0.0, 0
            return False
        if not self._next:
            self._next = now + INTERVAL
            return False
        if now < self._next:
            return False
        self._shed += 1
        self._next = now + INTERVAL / (self._shed + 1) ** 0.5
        return True
