"""Hypothesis strategies for every value an xfrm message can carry.

Strategies that depend on a family are made once for each: making them costs more than drawing from them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar

from hypothesis import strategies as st

from xfrmi.wire.xfrm_const import AF_INET, AF_INET6, STATE_AF_UNSPEC
from xfrmi.wire.xfrm_msg import (
    Acquire,
    Aevent,
    KmAddress,
    Mapping,
    Migration,
    Move,
    PolicyExpiry,
    SpiRequest,
    StateExpiry,
    StateFilter,
)
from xfrmi.wire.xfrm_types import (
    Algorithm,
    Current,
    Encap,
    Limits,
    Mark,
    PolicyId,
    PolicyInfo,
    Replay,
    ReplayEsn,
    Selector,
    StateId,
    StateInfo,
    StateStats,
    Template,
)

u8 = st.integers(0, 0xFF)
u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFFFFFF)
state_flags = u8.filter(lambda flags: not flags & STATE_AF_UNSPEC)
u64 = st.integers(0, 0xFFFFFFFFFFFFFFFF)
families = st.sampled_from([AF_INET, AF_INET6])
marks = st.builds(Mark, u32, u32)
limits = st.builds(Limits, u64, u64, u64, u64, u64, u64, u64, u64)
currents = st.builds(Current, u64, u64, u64, u64)
keys = st.binary(max_size=64)
names = st.text("abcdefghijklmnopqrstuvwxyz0123456789()-", min_size=1, max_size=63)
algorithms = st.builds(Algorithm, names, keys, st.just(0))
algorithms_bits = st.builds(Algorithm, names, keys, u32)
replays = st.builds(Replay, u32, u32, u32)
replays_esn = st.builds(ReplayEsn, st.lists(u32, max_size=128).map(tuple), u32, u32, u32, u32, u32)
contexts = st.binary(max_size=20).map(
    lambda label: (8 + len(label)).to_bytes(2, "little") + b"\x08\0\1\1" + len(label).to_bytes(2, "little") + label
)


T = TypeVar("T")


def of_a_family(make: Callable[[int], st.SearchStrategy[T]]) -> st.SearchStrategy[T]:
    return families.flatmap({family: make(family) for family in (AF_INET, AF_INET6)}.__getitem__)


def maybe(values: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.none() | values


@cache
def addresses(family: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=4, max_size=4) if family == AF_INET else st.binary(min_size=16, max_size=16)


@cache
def selectors_of(family: int) -> st.SearchStrategy[Selector]:
    packed = addresses(family)
    return st.builds(
        Selector, st.just(family), packed, u8, packed, u8, u8, u16, u16, u16, u16, st.integers(0, 2**31 - 1), u32
    )


selectors = of_a_family(selectors_of)


@cache
def states_of(family: int) -> st.SearchStrategy[StateInfo]:
    return st.builds(
        StateInfo, src=addresses(family), dst=addresses(family), spi=u32, proto=u8, mode=u8, reqid=u32, if_id=u32,
        family=st.just(family), selector=selectors_of(family), flags=state_flags,
        extra_flags=u32, replay_window=u8, aead=maybe(algorithms_bits), auth=maybe(algorithms),
        auth_trunc=maybe(algorithms_bits), crypt=maybe(algorithms), comp=maybe(algorithms),
        encap=maybe(st.builds(Encap, u16, u16, u16, addresses(family))), mark=marks, set_mark=maybe(marks), tfcpad=u32,
        replay=maybe(replays), replay_esn=st.none(), limits=limits, current=currents,
        stats=st.builds(StateStats, u32, u32, u32), seq=u32, dir=st.integers(0, 2), coaddr=maybe(addresses(family)),
        lastused=u64, mtimer_thresh=u32, nat_keepalive_interval=u32, pcpu=maybe(u32),
        offload=maybe(st.tuples(st.integers(0, 2**31 - 1), u8)), sec_ctx=maybe(contexts),
    )  # fmt: skip


states = of_a_family(states_of)


@cache
def state_ids_of(family: int) -> st.SearchStrategy[StateId]:
    return st.builds(StateId, addresses(family), u32, st.just(50), st.just(family), marks, addresses(family))


state_ids = of_a_family(state_ids_of)


@cache
def templates_of(family: int) -> st.SearchStrategy[Template]:
    packed = addresses(family)
    return st.builds(Template, packed, packed, u32, u8, u8, u32, u8, st.just(family), u8, u32, u32, u32)


templates = of_a_family(templates_of)
template_lists = st.lists(templates, max_size=6).map(tuple)


def policies_with(templates: st.SearchStrategy[tuple[Template, ...]]) -> st.SearchStrategy[PolicyInfo]:
    return st.builds(
        PolicyInfo, selector=selectors, dir=u8, if_id=u32, templates=templates, action=u8,
        priority=u32, mark=marks, index=u32, flags=u8, share=u8, type=u8, limits=limits, current=currents,
        sec_ctx=maybe(contexts),
    )  # fmt: skip


policies = policies_with(template_lists)
policy_ids = st.builds(PolicyId, selectors, u8, u32, u32, marks, u8) | st.builds(
    PolicyId, selectors, u8, u32, st.just(0), marks, u8, maybe(contexts)
)
"""A context matters only where there is no index."""
spi_requests = st.builds(SpiRequest, states, u32, u32)
filters = u8.map(StateFilter) | of_a_family(
    lambda family: st.builds(
        StateFilter, u8, st.just(family), addresses(family), st.integers(0, 128), addresses(family), st.integers(0, 128)
    )
)
aevents = of_a_family(
    lambda family: st.builds(
        Aevent, state_ids_of(family).map(lambda state: StateId(state.dst, state.spi, 50, family, state.mark)),
        addresses(family), u32, u32, maybe(replays), maybe(replays_esn), maybe(currents), maybe(u32), maybe(u32), u32,
        maybe(u32), st.integers(0, 2),
    )
)  # fmt: skip
acquires = of_a_family(
    lambda family: st.builds(
        Acquire, addresses(family), addresses(family), selectors_of(family),
        policies_with(st.tuples(templates_of(family), st.lists(templates, max_size=5)).map(lambda t: (t[0], *t[1]))),
        u32, u32, u8,
        u32, u32, u32, maybe(u32),
    )
)  # fmt: skip
mappings = of_a_family(
    lambda family: st.builds(
        Mapping, st.builds(StateId, addresses(family), u32, u8, st.just(family)), u32, addresses(family), u16,
        addresses(family), u16,
    )
)  # fmt: skip
moves = of_a_family(
    lambda old: of_a_family(
        lambda new: st.builds(
            Move, addresses(old), addresses(old), addresses(new), addresses(new), u8, u8, u32, st.just(old),
            st.just(new),
        )
    )
)  # fmt: skip
km_addresses = of_a_family(
    lambda family: st.builds(KmAddress, addresses(family), addresses(family), st.just(family))
)


encaps = {family: maybe(st.builds(Encap, u16, u16, u16, addresses(family))) for family in (AF_INET, AF_INET6)}


@st.composite
def _migrations(draw: st.DrawFn) -> Migration:
    """The address in `encap` is of the first move's new family."""
    first, *more = draw(move_lists)
    encap = draw(encaps[first.new_family])
    return Migration(draw(selectors), draw(u8), (first, *more), draw(u8), draw(u32), encap, draw(maybe_km_address))


move_lists = st.lists(moves, min_size=1, max_size=6)
maybe_km_address = maybe(km_addresses)
migrations = _migrations()
state_expiries = st.builds(StateExpiry, states, st.booleans())
policy_expiries = st.builds(PolicyExpiry, policies, st.booleans())
