"""What every case has to pass, and what must be true of both ends afterwards."""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress

from tests.oracle.kernelpeer.case import Case
from tests.oracle.kernelpeer.pair import NUMBER, End, Pair
from tests.oracle.kernelpeer.talk import carries_tcp, echoes
from tests.system.hosts import eventually
from xfrmi.wire.xfrm_types import StateInfo

SIZE = 40_000
"""Of a transfer: enough for segments of all sizes, and that acknowledgements come in between."""


def passes(pair: Pair, case: Case, size: int = SIZE) -> None:
    """Echoes and TCP both ways; the same counted at both ends; no counter of trouble moved."""
    with connected(pair, case), untroubled(pair):
        crosses(pair, case, size)
        counts_agree(pair)


def crosses(pair: Pair, case: Case, size: int = SIZE) -> None:
    """Echoes and TCP, from either end."""
    for source, sink in (pair.ends, pair.ends[::-1]):
        address = case.address(sink.name)
        assert echoes(source, address) == 2, f"echoes from {source.name}"
        assert carries_tcp(source, sink, address, size), f"TCP from {source.name} came out changed"


@contextmanager
def connected(pair: Pair, case: Case) -> Iterator[None]:
    try:
        pair.tell(case.lines)
        yield
    finally:
        with suppress(OSError):  # it may not have come to that
            pair.moon.tell(case.unroute())


@contextmanager
def untroubled(pair: Pair) -> Iterator[None]:
    """In the block no counter of xfrm_stat rises on either side."""
    with moved(pair.moon), moved(pair.sun):
        yield


@contextmanager
def moved(end: End, **expected: int) -> Iterator[None]:
    """In the block exactly these counters of xfrm_stat rise, by as much."""
    before = end.stat()

    def rose() -> dict[str, int]:
        return {name: count - before[name] for name, count in end.stat().items() if count != before[name]}

    yield
    eventually(lambda: rose() == expected, lambda: f"{end.name}: {rose()}")


def counts_agree(pair: Pair, spis: Container[int] | None = None) -> None:
    """For each state, or those with these SPIs, what its sender has sent is what its receiver has received: packets,
    bytes and numbers."""
    told: list[tuple[End, StateInfo]] = []

    def agree() -> bool:
        told[:] = [  # each end is asked once: that is a program, in emulation
            (end, state) for end in pair.ends for state in end.states() if spis is None or state.spi in spis
        ]
        return _sent(told) == _received(told)

    eventually(agree, lambda: f"sent {_sent(told)}, received {_received(told)}")
    for _, state in told:
        assert (state.stats.replay_window, state.stats.replay, state.stats.integrity_failed) == (0, 0, 0)


def _sent(told: list[tuple[End, StateInfo]]) -> dict[int, tuple[int, int, int]]:
    return {s.spi: _account(s, _number_sent(s)) for end, s in told if s.spi & 0xF == NUMBER[end.name]}


def _received(told: list[tuple[End, StateInfo]]) -> dict[int, tuple[int, int, int]]:
    return {s.spi: _account(s, _top(s)) for end, s in told if s.spi & 0xF != NUMBER[end.name]}


def _account(state: StateInfo, number: int) -> tuple[int, int, int]:
    return state.current.packets, state.current.bytes, number


def _number_sent(state: StateInfo) -> int:
    if state.replay_esn is not None:
        return state.replay_esn.oseq_hi << 32 | state.replay_esn.oseq
    return state.replay.oseq if state.replay else 0


def _top(state: StateInfo) -> int:
    if state.replay_esn is not None:
        return state.replay_esn.seq_hi << 32 | state.replay_esn.seq
    return state.replay.seq if state.replay else 0
