"""Time limits of a state: what expires without a packet (LT-05, LT-06). Byte and packet limits are State.check_limits.

Times of addition count from when the state came to be, times of use from its first packet; as long as there was none,
the whole interval is left. A soft limit makes the state dying and is told once; a hard one ends it.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from xfrmi.core.state import KM_ACQ, KM_EXPIRED, KM_VALID

if TYPE_CHECKING:
    from xfrmi.core.state import State


def check_times(state: State, now: float) -> float | None:
    """Apply what is due at `now`, through state.on_limit. Returns when to ask again, None when there is nothing more.

    Ask once when the state is added or updated, then at each returned time; a first packet needs no asking.
    """
    if state.km not in (KM_VALID, KM_ACQ):
        return None
    limits = state.info.limits
    left = inf
    if limits.hard_add:
        left = state.add_time + limits.hard_add - now
        if left <= 0 and state.soft_left is not None and not state.dying:
            # The clock was set forward past both limits: the soft one still comes first (LT-06).
            state.add_time = int(now) - state.soft_left - 1
            left = limits.hard_add - state.soft_left
    if limits.hard_use:
        left = min(left, (state.use_time or now) + limits.hard_use - now)
    if left <= 0:
        state.km = KM_EXPIRED
        if state.on_limit is not None:
            state.on_limit(state, True)
        return None
    if not state.dying:
        soft = inf
        if limits.soft_add:
            soft = state.add_time + limits.soft_add - now
            state.soft_left = int(soft) if 0 < soft < left else None
        if limits.soft_use:
            soft = min(soft, (state.use_time or now) + limits.soft_use - now)
        if soft <= 0:
            state.dying = True
            if state.on_limit is not None:
                state.on_limit(state, False)
        else:
            left = min(left, soft)
    return now + left if left < inf else None
