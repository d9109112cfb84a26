"""The tables of an engine as values, and an engine made of them: for a daemon that hands over to another process.

What there is of a state is told in a `SavedState`, down to the IV counter and the bits of its window, so that the
other engine goes on exactly where this one stops. Saving all states takes a while, in which packets pass: who saves
them twice need tell only those that differ the second time, which are noted (noting.py).

**Of two engines with the same states only one may ever seal**: the IVs of both are the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from xfrmi.core.acquire import larval
from xfrmi.core.aevents import Told
from xfrmi.core.policy import Policy
from xfrmi.core.state import KM_ACQ, State
from xfrmi.wire.xfrm_types import PolicyInfo, ReplayEsn, StateInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from xfrmi.core.engine import Engine
    from xfrmi.core.interface import Interface
    from xfrmi.core.timers import Timers

T = TypeVar("T")

FIELDS = (
    "km", "dying", "bytes", "packets", "add_time", "use_time", "lastused", "soft_left", "stats_integrity_failed",
    "mapping_time", "mapping_sport", "iv_counter", "iv_salt", "ttl", "path_mtu", "dir",
)  # fmt: skip
"""Of a state, beside its configuration, numbers and window."""
_KEYS = "km", "dying", "add_time"
"""Of these, those by which it is found."""
WINDOW = "top", "seen", "late", "replayed"
COUNTERS = (
    "rx_packets", "rx_bytes", "rx_errors", "rx_dropped", "tx_packets", "tx_bytes", "tx_errors", "tx_dropped",
    "tx_carrier", "tx_aborted", "collisions",
)  # fmt: skip
"""Of an interface."""


@dataclass(frozen=True, slots=True)
class SavedState:
    info: StateInfo | None
    """Its configuration, with the numbers it was configured with. None: as it was told before."""
    fields: dict[str, float | None]
    """FIELDS."""
    last: int
    """The sequence number sent last."""
    window: dict[str, int]
    """WINDOW."""
    look_at: float | None
    """When its time limits are looked at next, Unix seconds."""
    keepalive_at: float | None
    told: tuple[tuple[int, int, int], bool, float | None] | None
    """What aevents have told of it: position, idle, and when to look again."""


@dataclass(frozen=True, slots=True)
class SavedPolicy:
    info: PolicyInfo
    rank: tuple[int, int]
    add_time: int
    use_time: int
    look_at: float | None


@dataclass(frozen=True, slots=True)
class SavedRest:
    """What is not a state, a policy or an interface."""

    stats: tuple[int, ...]
    acquire_seq: int
    sad_buckets: int
    spd_buckets: int
    next_index: int
    next_position: int
    defaults: tuple[int, ...]
    thresholds: tuple[tuple[int, int], tuple[int, int]]
    learned: tuple[tuple[tuple[bytes, int], tuple[int, float]], ...]
    """Path MTUs, by destination and device."""


# Saving ------------------------------------------------------------------------------------------------------------


def save_state(engine: Engine, state: State, told_before: StateInfo | None = None) -> SavedState:
    """As it is now; nothing of it is shared with the state. A configuration that was told before need not be again."""
    sad, window = engine.sad, state.window
    told = sad.aevents.told.get(state)
    return SavedState(
        None if state.info is told_before else state.info,
        {name: getattr(state, name) for name in FIELDS},
        state.sequence.last,
        {name: getattr(window, name) for name in WINDOW},
        sad.timers.deadline_of(state),
        engine.keepalives.timers.deadline_of(state),
        None if told is None else (told.position, told.idle, sad.aevents.timers.deadline_of(state)),
    )


def save_policy(engine: Engine, policy: Policy) -> SavedPolicy:
    look_at = engine.spd.timers.deadline_of(policy)
    return SavedPolicy(replace(policy.info, index=policy.index), policy.rank, policy.add_time, policy.use_time, look_at)


def save_rest(engine: Engine) -> SavedRest:
    sad, spd = engine.sad, engine.spd
    return SavedRest(
        tuple(engine.stats), sad.acquire_seq, sad.hash_buckets, spd.hash_buckets, spd.next_index, spd.next_position,
        tuple(spd.defaults), spd.thresholds, tuple(engine.router.learned.items()),
    )  # fmt: skip


def save_counters(interface: Interface) -> dict[str, int]:
    """COUNTERS."""
    return {name: getattr(interface, name) for name in COUNTERS}


# Restoring ---------------------------------------------------------------------------------------------------------


def add_saved_state(engine: Engine, saved: SavedState, random: Callable[[int], bytes]) -> State:
    """The youngest of its SAD: give them in the order of insertion, the oldest first. No event."""
    info = saved.info
    assert info is not None
    if saved.fields["km"] == KM_ACQ:
        state = larval(info, 0)
    else:
        state = State(unnumbered(info), now=0, random=random)
        state.info = info
    _fill(state, saved)
    engine.sad.insert(state, 0)
    _time(engine, state, saved)
    return state


def change_saved_state(engine: Engine, state: State, saved: SavedState) -> bool:
    """Make of one that was added before what it is now. Its keys and algorithms are what they were. Returns whether
    there is more to it than that packets have used it."""
    info = saved.info
    only_used = info is None and all(getattr(state, name) == saved.fields.get(name) for name in _KEYS)
    if only_used:
        _fill(state, saved)
    else:
        with engine.sad.index.moving(state):
            if info is not None and state.info != info:
                if state.km == KM_ACQ:  # it has been given an SPI
                    state.spi, state.spi_bytes = info.spi, info.spi.to_bytes(4, "big")
                else:
                    state.update(info)
                state.info = info
            _fill(state, saved)
    engine.sad.generation += 1
    _time(engine, state, saved)
    return not only_used


def remove_saved_state(engine: Engine, state: State) -> None:
    """No event."""
    engine.sad.remove(state)
    engine.keepalives.timers.cancel(state)


def _fill(state: State, saved: SavedState) -> None:
    for name in FIELDS:
        if name in saved.fields:
            setattr(state, name, saved.fields[name])
    state.sequence.last = saved.last
    for name in WINDOW:
        if name in saved.window:
            setattr(state.window, name, saved.window[name])


def _time(engine: Engine, state: State, saved: SavedState) -> None:
    aevents = engine.sad.aevents
    _set(engine.sad.timers, state, saved.look_at)
    _set(engine.keepalives.timers, state, saved.keepalive_at)
    aevents.forget(state)
    if saved.told is not None:
        position, idle, again = saved.told
        aevents.told[state] = Told(position, idle)
        _set(aevents.timers, state, again)


def add_saved_policy(engine: Engine, saved: SavedPolicy) -> Policy:
    """The newest of its SPD. No event."""
    policy = Policy(saved.info)
    policy.rank, policy.add_time, policy.use_time = saved.rank, saved.add_time, saved.use_time
    engine.spd.place(policy)
    _set(engine.spd.timers, policy, saved.look_at)
    return policy


def change_saved_policy(engine: Engine, policy: Policy, saved: SavedPolicy) -> None:
    """Make of one that was added before what it is now: only its templates and what has been counted may differ."""
    if policy.templates != saved.info.templates:
        engine.spd.point(policy, saved.info.templates)
    policy.add_time, policy.use_time = saved.add_time, saved.use_time
    _set(engine.spd.timers, policy, saved.look_at)


def restore_rest(engine: Engine, saved: SavedRest) -> None:
    """After all states and policies."""
    sad, spd = engine.sad, engine.spd
    for number, count in zip(range(len(engine.stats)), saved.stats, strict=False):
        engine.stats[number] = count
    sad.acquire_seq, sad.hash_buckets = saved.acquire_seq, saved.sad_buckets
    spd.hash_buckets, spd.next_index, spd.next_position = saved.spd_buckets, saved.next_index, saved.next_position
    spd.defaults[:], spd.thresholds = saved.defaults, saved.thresholds
    engine.router.learned.clear()
    engine.router.learned.update(saved.learned)
    sad.generation += 1
    spd.generation += 1


def restore_counters(interface: Interface, saved: dict[str, int]) -> None:
    for name in COUNTERS:
        setattr(interface, name, saved.get(name, 0))


def _set(timers: Timers[T], item: T, when: float | None) -> None:
    if when is None:
        timers.cancel(item)
    else:
        timers.set(item, when)


def unnumbered(info: StateInfo) -> StateInfo:
    """What is asked of a new state's numbers is not asked of one that has been in use."""
    esn = info.replay_esn
    return replace(
        info,
        replay=None,
        replay_esn=None if esn is None else ReplayEsn((0,) * len(esn.bitmap), replay_window=esn.replay_window),
    )
