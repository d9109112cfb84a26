"""Hypothesis strategies for every value an xfrm message can carry."""

from __future__ import annotations

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


def maybe(values: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.none() | values


def addresses(family: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=4, max_size=4) if family == AF_INET else st.binary(min_size=16, max_size=16)


def selectors_of(family: int) -> st.SearchStrategy[Selector]:
    packed = addresses(family)
    return st.builds(
        Selector, st.just(family), packed, u8, packed, u8, u8, u16, u16, u16, u16, st.integers(0, 2**31 - 1), u32
    )


selectors = families.flatmap(selectors_of)


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


states = families.flatmap(states_of)


def state_ids_of(family: int) -> st.SearchStrategy[StateId]:
    return st.builds(StateId, addresses(family), u32, st.just(50), st.just(family), marks, addresses(family))


state_ids = families.flatmap(state_ids_of)


def templates_of(family: int) -> st.SearchStrategy[Template]:
    packed = addresses(family)
    return st.builds(Template, packed, packed, u32, u8, u8, u32, u8, st.just(family), u8, u32, u32, u32)


templates = families.flatmap(templates_of)
policies = st.builds(
    PolicyInfo, selector=selectors, dir=u8, if_id=u32, templates=st.lists(templates, max_size=6).map(tuple), action=u8,
    priority=u32, mark=marks, index=u32, flags=u8, share=u8, type=u8, limits=limits, current=currents,
    sec_ctx=maybe(contexts),
)  # fmt: skip
policy_ids = st.builds(PolicyId, selectors, u8, u32, u32, marks, u8) | st.builds(
    PolicyId, selectors, u8, u32, st.just(0), marks, u8, maybe(contexts)
)
"""A context matters only where there is no index."""
spi_requests = st.builds(SpiRequest, states, u32, u32)
filters = u8.map(StateFilter) | families.flatmap(
    lambda family: st.builds(
        StateFilter, u8, st.just(family), addresses(family), st.integers(0, 128), addresses(family), st.integers(0, 128)
    )
)
aevents = families.flatmap(
    lambda family: st.builds(
        Aevent, state_ids_of(family).map(lambda state: StateId(state.dst, state.spi, 50, family, state.mark)),
        addresses(family), u32, u32, maybe(replays), maybe(replays_esn), maybe(currents), maybe(u32), maybe(u32), u32,
        maybe(u32), st.integers(0, 2),
    )
)  # fmt: skip
acquires = families.flatmap(
    lambda family: st.builds(
        Acquire, addresses(family), addresses(family), selectors_of(family),
        policies.filter(lambda info: bool(info.templates) and info.templates[0].family == family), u32, u32, u8,
        u32, u32, u32, maybe(u32),
    )
)  # fmt: skip
mappings = families.flatmap(
    lambda family: st.builds(
        Mapping, st.builds(StateId, addresses(family), u32, u8, st.just(family)), u32, addresses(family), u16,
        addresses(family), u16,
    )
)  # fmt: skip
moves = st.tuples(families, families).flatmap(
    lambda both: st.builds(
        Move, addresses(both[0]), addresses(both[0]), addresses(both[1]), addresses(both[1]), u8, u8, u32,
        st.just(both[0]), st.just(both[1]),
    )
)  # fmt: skip
km_addresses = families.flatmap(
    lambda family: st.builds(KmAddress, addresses(family), addresses(family), st.just(family))
)


def migrations_of(moves: tuple[Move, ...]) -> st.SearchStrategy[Migration]:
    encap = st.builds(Encap, u16, u16, u16, addresses(moves[0].new_family))
    return st.builds(Migration, selectors, u8, st.just(moves), u8, u32, maybe(encap), maybe(km_addresses))


migrations = st.lists(moves, min_size=1, max_size=6).map(tuple).flatmap(migrations_of)
state_expiries = st.builds(StateExpiry, states, st.booleans())
policy_expiries = st.builds(PolicyExpiry, policies, st.booleans())
