"""A state goes from hand to hand, of daemons with workers and without: no number and no IV is used twice, none that was
received is accepted again, and none is refused that one daemon alone would have accepted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.samples import NOW, state_info
from tests.daemon.test_workers import Told, World, no_sockets
from xfrmi.core.engine import Engine
from xfrmi.core.replay import EsnWindow, Window
from xfrmi.core.state import State
from xfrmi.daemon import worker_channel as channel
from xfrmi.daemon.handover_tables import TablesHeard, TablesTold
from xfrmi.errors import Drop
from xfrmi.wire.xfrm_const import SA_XFLAG_OSEQ_MAY_WRAP, STATE_ESN, XfrmStat
from xfrmi.wire.xfrm_types import ReplayEsn

__all__ = ["no_sockets"]
WINDOW = 64
SPI = 0x1000


class AnyRange(Told):
    """What was told to workers that came to nothing is given out again."""

    def send(self, number: int, message: channel.Down, fds: object = ()) -> None:
        self.replicas[number].apply(message)


class Daemon:
    """With so many workers, or none if that is one."""

    def __init__(self, workers: int) -> None:
        self.world = World(workers) if workers > 1 else None
        self.engine = Engine() if self.world is None else self.world.engine
        if self.world is not None:
            self.world.told = AnyRange(self.world, workers)
            self.world.workers._processes = self.world.told  # type: ignore[assignment]

    @property
    def seals(self) -> State:
        return next(iter(self.engine.states())) if self.world is None else self.world.of_worker(0, SPI)

    @property
    def opens(self) -> State:
        return next(iter(self.engine.states())) if self.world is None else self.world.of_worker(1, SPI)

    def moved(self, state: State) -> None:
        """As an engine says it after a burst."""
        for engine in (self.engine,) if self.world is None else self.world.told.engines:
            if state in engine.sad and engine.sad.aevents.wanted:
                engine.sad.aevents.moved([state], NOW)

    def brace(self) -> None:
        if self.world is not None:
            self.world.told.send_all(channel.Brace())
            self.world.told.listen()

    def stop(self) -> None:
        if self.world is not None:
            self.world.told.refresh()

    def go_on(self) -> None:
        if self.world is not None:
            self.world.told.send_all(channel.GoOn())


class Audit:
    """Everything that was done with the state, whoever has done it."""

    def __init__(self, esn: bool, wraps: bool) -> None:
        self._numbers: set[int] = set()
        self._wraps = wraps
        self._ivs: set[int] = set()
        self._window = EsnWindow(WINDOW) if esn else Window(WINDOW)

    def seal(self, state: State, count: int) -> None:
        first, count = state.sequence.reserve(count)
        numbers = set(range(first, first + count))
        assert self._wraps or not numbers & self._numbers, "a sequence number is used twice"
        self._numbers |= numbers
        for _ in range(count):
            iv = int.from_bytes(state.next_iv(), "big")
            assert iv not in self._ivs, "an IV is used twice"
            self._ivs.add(iv)
        state.count(count, count, NOW)

    def open(self, state: State, number: int) -> None:
        assert accepts(state.window, number) == accepts(self._window, number)
        with suppress(Drop):
            state.check_limits(NOW, XfrmStat.IN_STATE_EXPIRED)


def accepts(window: Window, number: int) -> bool:
    try:
        window.commit(number, window.check(number))
    except Drop:
        return False
    return True


PACKETS = st.lists(st.tuples(st.booleans(), st.integers(1, 90)), max_size=6)
"""Out: how many; in: how far from the last number."""
HANDS = st.lists(
    st.tuples(st.sampled_from([1, 1, 2, 3]), st.booleans(), PACKETS, PACKETS, PACKETS, PACKETS), min_size=1, max_size=5
)
"""How many workers the next one has, whether it succeeds; packets before it asks, while it is told, while it is told
again, and after that."""


def carry(audit: Audit, daemon: Daemon, packets: list[tuple[bool, int]], near: Iterator[int]) -> None:
    for out, number in packets:
        if out:
            audit.seal(daemon.seals, number)
            daemon.moved(daemon.seals)
        else:
            audit.open(daemon.opens, number + next(near))
            daemon.moved(daemon.opens)


@pytest.mark.parametrize("esn, may_wrap", [(False, False), (True, False), (False, True)])
def test_from_hand_to_hand(esn: bool, may_wrap: bool) -> None:
    begun = (1 << 32) - 400 if may_wrap else 0
    info = state_info(
        SPI,
        flags=STATE_ESN if esn else 0,
        extra_flags=SA_XFLAG_OSEQ_MAY_WRAP if may_wrap else 0,
        replay_esn=ReplayEsn((0,) * 2, begun, replay_window=WINDOW),
    )

    @given(st.sampled_from([1, 2]), HANDS)
    @settings(max_examples=30, deadline=None)
    def hands(workers: int, steps: list[tuple[int, bool, list[tuple[bool, int]], ...]]) -> None:  # type: ignore[type-arg]
        audit = Audit(esn, may_wrap)
        daemon = Daemon(workers)
        daemon.engine.add_state(info, NOW)
        near = iter(range(0, 1 << 20, 7))
        for count, succeeds, early, meanwhile, again, late in steps:
            carry(audit, daemon, early, near)
            tables, heard, successor = TablesTold(daemon.engine), TablesHeard(), Daemon(count)
            for message in tables.everything():
                heard.take(message)
            heard.use(successor.engine, successor.world.workers.state_anew if successor.world is not None else None)
            carry(audit, daemon, meanwhile, near)
            daemon.brace()
            messages = tables.everything()
            first = next(messages, None)
            carry(audit, daemon, again[::2], near)
            for message in filter(None, (first, *messages)):
                heard.take(message)
            carry(audit, daemon, again[1::2], near)
            daemon.stop()
            for message in tables.everything():
                heard.take(message)
            if succeeds:
                before = next(iter(daemon.engine.states())).snapshot()
                daemon = successor
                assert next(iter(daemon.engine.states())).snapshot() == before
            else:
                tables.end()
                daemon.go_on()
            carry(audit, daemon, late, near)

    hands()
