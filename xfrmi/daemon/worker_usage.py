"""What a worker has counted, told in differences, and how its parent adds it up: listings show the sum of all workers.

Differences, because workers come and go and two may count for one state. Positions (sequence numbers, windows) belong
to one worker at a time and are told as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from xfrmi.daemon.worker_channel import Report, StateUsage
from xfrmi.wire.xfrm_const import SaDir

if TYPE_CHECKING:
    from xfrmi.core.engine import Engine
    from xfrmi.core.interface import Interface
    from xfrmi.core.policy import Policy
    from xfrmi.core.state import State

DEVICE_COUNTERS = (
    "rx_packets", "rx_bytes", "rx_errors", "rx_dropped", "tx_packets", "tx_bytes", "tx_errors", "tx_dropped",
    "tx_carrier", "tx_aborted", "collisions",
)  # fmt: skip
STATES_A_PIECE = 500

Counted = tuple[int, ...]


class Usage:
    """What has been told so far of the objects of one worker."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stats: Counted = tuple(engine.stats)
        self._devices: dict[int, Counted] = {}
        self._states: dict[int, tuple[Counted, int, int, int]] = {}
        self._policies: dict[int, int] = {}

    def begin_state(self, key: int, state: State) -> None:
        """What it has counted already is known."""
        self._states[key] = _of_state(state), state.sequence.last, state.window.top, state.window.seen

    def renumbered(self, key: int) -> None:
        """What has been told of its numbers is no longer true."""
        self._states[key] = self._states[key][0], -1, -1, -1

    def begin_policy(self, key: int, policy: Policy) -> None:
        self._policies[key] = policy.use_time

    def forget_state(self, key: int) -> None:
        self._states.pop(key, None)

    def forget_policy(self, key: int) -> None:
        self._policies.pop(key, None)

    def forget_device(self, key: int) -> None:
        self._devices.pop(key, None)

    def of_state(self, key: int, state: State) -> StateUsage | None:
        """What has become of one state since the last time, None if nothing has."""
        before, window = self._states[key], state.window
        known, now = before[0], _of_state(state)
        reached = now, state.sequence.last, window.top, window.seen
        if reached == before:
            return None
        self._states[key] = reached
        seals = state.dir == SaDir.OUT
        return StateUsage(
            key, _since(known, now), state.use_time, state.lastused,
            state.sequence.last if seals else None, None if seals else (window.top, window.seen),
        )  # fmt: skip

    def reports(
        self, devices: Mapping[int, Interface], states: Mapping[int, State], policies: Mapping[int, Policy]
    ) -> Iterator[Report]:
        """All that has changed, in pieces; nothing if nothing has."""
        told: list[StateUsage] = []
        for key, state in states.items():
            if (usage := self.of_state(key, state)) is not None:
                told.append(usage)
                if len(told) == STATES_A_PIECE:
                    yield Report(states=tuple(told))
                    told.clear()
        stats = tuple(self._engine.stats)
        moved = _since(self._stats, stats) if stats != self._stats else ()
        self._stats = stats
        used = tuple(
            (key, policy.use_time) for key, policy in policies.items() if policy.use_time != self._policies[key]
        )
        self._policies.update(used)
        report = Report(moved, tuple(self._moved(devices)), tuple(told), used)
        if report != Report():
            yield report

    def _moved(self, devices: Mapping[int, Interface]) -> Iterator[tuple[int, Counted]]:
        for key, interface in devices.items():
            now = tuple(getattr(interface, name) for name in DEVICE_COUNTERS)
            known = self._devices.get(key, (0,) * len(now))
            if now != known:
                self._devices[key] = now
                yield key, _since(known, now)


def add_up(
    report: Report,
    engine: Engine,
    devices: Mapping[int, Interface],
    states: Mapping[int, State],
    policies: Mapping[int, Policy],
) -> None:
    """Take a report into the parent's tables. What has gone there meanwhile is not asked about."""
    for number, count in enumerate(report.stats):
        engine.stats[number] += count
    for key, counts in report.devices:
        if (interface := devices.get(key)) is not None:
            for name, count in zip(DEVICE_COUNTERS, counts, strict=True):
                setattr(interface, name, getattr(interface, name) + count)
    for usage in report.states:
        if (state := states.get(usage.key)) is not None:
            _add_to(state, usage)
            engine.sad.aevents.used(state)
    for key, use_time in report.policies:
        if (policy := policies.get(key)) is not None:
            policy.use_time = max(policy.use_time, use_time)


def _add_to(state: State, usage: StateUsage) -> None:
    window = state.window
    counted = zip(_of_state(state), usage.counted, strict=True)
    state.bytes, state.packets, window.late, window.replayed, state.stats_integrity_failed = (
        had + more for had, more in counted
    )
    state.use_time = min(filter(None, (state.use_time, usage.use_time)), default=0)
    state.lastused = max(state.lastused, usage.lastused)
    if usage.sent is not None:
        state.sequence.last = usage.sent
    if usage.window is not None:
        window.top, window.seen = usage.window


def _of_state(state: State) -> Counted:
    window = state.window
    return state.bytes, state.packets, window.late, window.replayed, state.stats_integrity_failed


def _since(known: Counted, now: Counted) -> Counted:
    return tuple(new - old for new, old in zip(now, known, strict=True))
