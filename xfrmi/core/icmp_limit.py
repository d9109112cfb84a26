"""How many ICMP errors may say "unreachable": as many as a kernel lets itself send, counted as a kernel counts them.

Two limits, asked in this order (net/ipv4/icmp.c, net/ipv6/icmp.c, net/ipv4/inetpeer.c):

 1  of all           `per_second`, `burst` at once, for both families together; one error costs none, one or two of them
                     at random, so that nobody can tell from what he still gets how many others were told
 2  by destination   one in `apart` seconds, BURST of them at once. Senders on this host are not asked

Only what passes both is counted in either: whoever is told nothing because others have used up what all may have keeps
what he has saved up. That is Linux 6.12 and later; before, what the second refused was counted in the first.

Errors that tell an MTU are never limited. A kernel counts its own and we count ours: there may be twice as many. Older
kernels send up to 16 ICMPv6 errors where we send one, the more the shorter the prefix of the route to the sender; later
ones have neither that nor a second between errors, but a tenth of one (net.ipv6.icmp.ratelimit, which we read).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from xfrmi.wire.xfrm_const import AF_INET

BURST = 6
"""Errors to one destination at once, XRLIM_BURST_FACTOR."""
MAX_DESTINATIONS = 1024
"""Remembered; a full table is emptied."""
ASK_AGAIN = 1.0
"""Seconds for which the switches are believed to be what they were."""
_NEW = 60.0
"""Seconds that a destination has saved up when it is new."""
_REFILL = 0.02
"""Seconds without an error, at least, before what has been used up of all is counted anew."""
_MOST = 1.0
"""Seconds for which it is counted at most."""


class IcmpLimits(NamedTuple):
    """The switches. None: errors of that family are not limited (ratemask); 0: not by destination."""

    apart4: float | None = 1.0
    """Seconds from one error to the next."""
    apart6: float | None = 1.0
    per_second: int = 1000
    burst: int = 50


class IcmpLimit:
    """Of one engine. `ask()` tells the switches, `random(n)` gives n random bytes."""

    def __init__(self, ask: Callable[[], IcmpLimits], random: Callable[[int], bytes]) -> None:
        self._ask = ask
        self._random = random
        self._limits: IcmpLimits | None = None
        self._asked = 0.0
        self._tokens: dict[bytes, tuple[float, float]] = {}
        """Of each destination: seconds that it has saved up, and when that was counted."""
        self._credit = 0
        self._credited = 0.0

    def allows(self, family: int, to: bytes, local: bool, now: float) -> bool:
        """May an error be sent to this address, which is one of this host or not? If so it has been counted."""
        limits = self._limits
        if limits is None or abs(now - self._asked) >= ASK_AGAIN:
            limits, self._asked = self._ask(), now
            self._limits = limits
        apart = limits.apart4 if family == AF_INET else limits.apart6
        if apart is None:
            return True
        if not self._of_all(limits, now) or (not local and apart and not self._to_one(to, apart, now)):
            return False
        self._credit -= self._random(1)[0] % 3
        return True

    def _to_one(self, to: bytes, apart: float, now: float) -> bool:
        saved, since = self._tokens.get(to, (0.0, now - _NEW))
        saved = min(saved + max(now - since, 0.0), BURST * apart)
        allowed = saved >= apart
        if len(self._tokens) >= MAX_DESTINATIONS:
            self._tokens.clear()
        self._tokens[to] = saved - apart if allowed else saved, now
        return allowed

    def _of_all(self, limits: IcmpLimits, now: float) -> bool:
        """Is there anything left of what all may have? Nothing is counted yet."""
        if self._credit <= 0:
            passed = min(abs(now - self._credited), _MOST)
            more = int(limits.per_second * passed)
            if passed < _REFILL or not more:
                return False
            self._credited = now
            self._credit = min(self._credit + more, limits.burst)
        return True
