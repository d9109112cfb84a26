"""Where the states of a SAD are found (kernel-behaviour 3.1, 3.2). Every way of looking one up is a dict lookup.

    all       every state, in the order of insertion: dumps, and the last word among equals
    chains    (destination, SPI, protocol) -> states, the newest first: input and nearly all requests. Several states
              share a key only if their marks differ. A state with SPI 0 is in no chain
    buckets   what a template asks for (2.5) -> whether it is dying, and whose processor the state is for (RFC 9611;
              None: any) -> VALID states, the best last
    larvals   the same without if_id -> whether the state has an SPI already -> larval states
    by_seq    km sequence number -> larval states
    spis      (protocol, SPI) -> how many states, whatever their destination: for allocating one
    encaps    (destination, ports) -> states that send ESP in UDP there: for ICMP errors that quote no more

The index never changes a state. What is part of a key is changed inside `with index.moving(state):`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from xfrmi.core.state import KM_ACQ, KM_VALID, State
from xfrmi.wire.xfrm_types import StateInfo

OutputKey = tuple[int, int, int, int, int, bytes, bytes]
"""family, proto, mode, reqid, if_id, dst, src."""

Bucket = tuple[bool, int | None]
"""dying, pcpu."""

K = TypeVar("K", bound=Hashable)


def has_mark(state: State, mark: int) -> bool:
    """Is the state one for packets, or requests, with this mark? (3.1)"""
    return mark & state.mark.mask == state.mark.value


class StateIndex:
    """The states of one SAD, by all their keys."""

    def __init__(self) -> None:
        self._all: dict[State, tuple[int, int]] = {}  # -> age: (add_time when it was placed, serial number)
        self._last_serial = 0
        self._chains: dict[tuple[bytes, int, int], tuple[State, ...]] = {}
        self._buckets: dict[OutputKey, dict[Bucket, list[State]]] = {}
        self._larvals: dict[OutputKey, dict[bool, dict[State, None]]] = {}
        self._by_seq: dict[int, dict[State, None]] = {}
        self.waiting_count = 0
        """How many larval states have no SPI: flows that wait for one."""
        self._spis: dict[tuple[int, int], int] = {}
        self._encaps: dict[tuple[bytes, int, int], dict[State, None]] = {}
        self.noted: set[State] | None = None
        """Where it is noted, if anywhere, which states have come, gone or moved (core/noting.py)."""

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, state: State) -> bool:
        return state in self._all

    # Lookups -----------------------------------------------------------------------------------------------------

    def at(self, daddr: bytes, spi: int, proto: int, mark: int) -> State | None:
        """3.1: the state of a packet, or of a request. The newest if the mark fits several."""
        for state in self._chains.get((daddr, spi, proto), ()):
            if mark & state.mark.mask == state.mark.value:
                return state
        return None

    def encapsulated(self, daddr: bytes, sport: int, dport: int) -> State | None:
        """A state that sends ESP in UDP from port to port, the newest of them."""
        return next(reversed(self._encaps.get((daddr, sport, dport), {})), None)

    def candidates(self, key: OutputKey, cpu: int, spi: int = 0) -> Iterator[State]:
        """3.2: VALID states with this key (and SPI, unless 0), the preferred first: for processor `cpu` rather than for
        any, then not dying, then the youngest, then the last inserted."""
        buckets = self._buckets.get(key)
        if buckets is None:
            return
        for place in ((False, cpu), (True, cpu), (False, None), (True, None)):
            bucket: Sequence[State] = buckets.get(place, ())
            if spi and bucket:
                _, proto, _, _, _, dst, _ = key
                chain = self._chains.get((dst, spi, proto), ())
                bucket = sorted(
                    (s for s in chain if s.km == KM_VALID and (s.dying, s.info.pcpu) == place and output_key(s) == key),
                    key=self._all.__getitem__,
                )
            yield from reversed(bucket)

    def larvals(self, key: OutputKey, with_spi: tuple[bool, ...] = (False, True)) -> Iterator[State]:
        """Larval states with this key, whatever their if_id (quirk Q13): those without an SPI, and those with one,
        the newest of each kind first."""
        kinds = self._larvals.get(_without_if_id(key))
        if kinds is not None:
            for kind in with_spi:
                yield from reversed(kinds.get(kind, {}))

    def answered_by(self, state: State) -> State | None:
        """The larval state that adding `state` makes superfluous: the one of its seq, or one of the same kind."""
        mark, pcpu = state.mark.value, state.info.pcpu
        larval = self.larval_numbered(state.seq, mark, pcpu)
        if larval is not None and larval.proto == state.proto and larval.dst == state.dst:
            return larval
        return self.larval_waiting(output_key(state), mark, pcpu)

    def larval_numbered(self, seq: int, mark: int, pcpu: int | None) -> State | None:
        """The newest larval state with this km sequence number; 0 is none."""
        return _first(reversed(self._by_seq.get(seq, {})), mark, pcpu)

    def larval_waiting(self, key: OutputKey, mark: int, pcpu: int | None) -> State | None:
        """3.1: the larval search."""
        return _first(self.larvals(key, with_spi=(False,)), mark, pcpu)

    def free_spi(self, proto: int, low: int, high: int, start: int) -> int:
        """An SPI in low..high that no state has, towards any destination: the next one from `start` on, which may be
        any number. 0 if all are taken."""
        span = high - low + 1
        for step in range(min(span, len(self._spis) + 2)):  # of so many one is free, and not 0
            spi = low + (start + step) % span
            if spi and (proto, spi) not in self._spis:
                return spi
        return 0

    def newest_first(self) -> list[State]:
        return list(reversed(self._all))

    def in_order(self, states: Iterable[State]) -> list[State]:
        """Those of them that are here, the oldest first."""
        return sorted(filter(self._all.__contains__, states), key=self._serial)

    # Changes -----------------------------------------------------------------------------------------------------

    def insert(self, state: State) -> None:
        self._last_serial += 1
        self._all[state] = (state.add_time, self._last_serial)
        self._place(state)

    def remove(self, state: State) -> None:
        self._displace(state)
        if self.noted is not None:
            self.noted.add(state)
        del self._all[state]

    @contextmanager
    def moving(self, state: State) -> Iterator[None]:
        """Change a key of a state inside. `dying` and `add_time` may have changed before."""
        self._displace(state)
        try:
            yield
        finally:
            self._place(state)

    def _place(self, state: State) -> None:
        if self.noted is not None:
            self.noted.add(state)
        serial = self._all[state][1]
        self._all[state] = (state.add_time, serial)
        if state.spi:
            chain_key = (state.dst, state.spi, state.proto)
            chain = (state, *self._chains.get(chain_key, ()))
            self._chains[chain_key] = tuple(sorted(chain, key=self._serial, reverse=True))
            spi_key = (state.proto, state.spi)
            self._spis[spi_key] = self._spis.get(spi_key, 0) + 1
        if state.encap is not None:
            self._encaps.setdefault((state.dst, state.encap.sport, state.encap.dport), {})[state] = None
        key = output_key(state)
        if state.km == KM_VALID:
            bucket = self._buckets.setdefault(key, {}).setdefault((state.dying, state.info.pcpu), [])
            insort(bucket, state, key=self._all.__getitem__)
        elif state.km == KM_ACQ:
            self._larvals.setdefault(_without_if_id(key), {}).setdefault(bool(state.spi), {})[state] = None
            self.waiting_count += not state.spi
            if state.seq:
                self._by_seq.setdefault(state.seq, {})[state] = None

    def _displace(self, state: State) -> None:
        if state.spi:
            chain_key = (state.dst, state.spi, state.proto)
            chain = tuple(other for other in self._chains.pop(chain_key) if other is not state)
            if chain:
                self._chains[chain_key] = chain
            spi_key = (state.proto, state.spi)
            self._spis[spi_key] -= 1
            if not self._spis[spi_key]:
                del self._spis[spi_key]
        if state.encap is not None:
            _take(self._encaps, (state.dst, state.encap.sport, state.encap.dport), state)
        # km may have left VALID, and dying may have changed, since the state was placed: look at all places.
        key = output_key(state)
        buckets, kinds = self._buckets.get(key, {}), self._larvals.get(_without_if_id(key), {})
        for dying in (False, True):
            self._take_from_bucket(buckets, (dying, state.info.pcpu), state)
        if not buckets:
            self._buckets.pop(key, None)
        if _take(kinds, bool(state.spi), state):
            self.waiting_count -= not state.spi
            if not kinds:
                del self._larvals[_without_if_id(key)]
        _take(self._by_seq, state.seq, state)

    def _take_from_bucket(self, buckets: dict[Bucket, list[State]], key: Bucket, state: State) -> None:
        bucket = buckets.get(key, [])
        place = bisect_left(bucket, self._all[state], key=self._all.__getitem__)
        if place < len(bucket) and bucket[place] is state:
            del bucket[place]
            if not bucket:
                del buckets[key]

    def _serial(self, state: State) -> int:
        return self._all[state][1]


def _first(larvals: Iterator[State], mark: int, pcpu: int | None) -> State | None:
    return next((larval for larval in larvals if has_mark(larval, mark) and larval.info.pcpu == pcpu), None)


def output_key(state: State | StateInfo) -> OutputKey:
    """What a template has to ask for to get this state."""
    return state.family, state.proto, state.mode, state.reqid, state.if_id, state.dst, state.src


def _without_if_id(key: OutputKey) -> OutputKey:
    family, proto, mode, reqid, _, dst, src = key
    return family, proto, mode, reqid, 0, dst, src


def _take(table: dict[K, dict[State, None]], key: K, state: State) -> bool:
    """Was it there?"""
    states = table.get(key, {})
    if state not in states:
        return False
    del states[state]
    if not states:
        del table[key]
    return True
