"""core.state: what a dump shows, what an update changes, limits, IVs, MTU (3.3, 3.4, 5.8), and what a state costs."""

from __future__ import annotations

import errno
import gc
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.algorithms import ALL
from xfrmi.core.algo_aead import AesGcm
from xfrmi.core.path import Path
from xfrmi.core.state import KM_ACQ, KM_EXPIRED, KM_VALID, State
from xfrmi.errors import Drop, XfrmError
from xfrmi.wire.address import pack_address
from xfrmi.wire.xfrm_const import STATE_AF_UNSPEC, STATE_ESN, XFRM_INF, Mode, XfrmStat
from xfrmi.wire.xfrm_types import (
    Algorithm,
    Current,
    Encap,
    Limits,
    Mark,
    Replay,
    ReplayEsn,
    Selector,
    StateInfo,
    StateStats,
)

NOW = 1_700_000_000.7
GCM = Algorithm("rfc4106(gcm(aes))", bytes(range(20)), 128)
EXPIRED = XfrmStat.OUT_STATE_EXPIRED


def request(**fields: Any) -> StateInfo:
    usual: dict[str, Any] = {"src": "192.0.2.1", "dst": "192.0.2.2", "spi": 0x1000, "mode": Mode.TUNNEL, "aead": GCM}
    return StateInfo(**usual | fields)


def make(**fields: Any) -> State:
    return State(request(**fields), now=NOW)


# What a dump shows ---------------------------------------------------------------------------------------------------


def test_a_new_state_shows_what_was_asked_for() -> None:
    info = request(reqid=7, if_id=42, mark=Mark(1, 0xFF), set_mark=Mark(5, 0xFFFFFFFF), encap=Encap(), seq=9)
    shown = State(info, now=NOW).snapshot()
    assert shown == replace(info, replay=Replay(), current=Current(add_time=int(NOW)))


def test_keywords_are_the_fields_of_state_info() -> None:
    assert State(src="192.0.2.1", dst="192.0.2.2", spi=1, mode=Mode.TUNNEL, aead=GCM, now=NOW).snapshot() == replace(
        request(spi=1), replay=Replay(), current=Current(add_time=int(NOW))
    )


def test_what_the_kernel_settles() -> None:
    """Capped window (RP-02), masked mark (3.8), selector family (2.5), absent source."""
    shown = make(
        replay_window=200, mark=Mark(0x1FF, 0xFF), selector=Selector(0, bytes(4), 0, bytes(4)), src=b""
    ).snapshot()
    assert (shown.replay_window, shown.mark, shown.selector.family, shown.src) == (32, Mark(0xFF, 0xFF), 2, bytes(4))
    assert make(flags=STATE_AF_UNSPEC).selector.family == 0


def test_counters_are_those_of_now() -> None:
    state = make(flags=STATE_ESN, replay_esn=ReplayEsn((0, 0), replay_window=64))
    state.bytes, state.packets, state.use_time, state.lastused = 100, 2, 5, 6
    state.stats_integrity_failed = 3
    state.sequence.last = 1 << 32 | 8
    for seq in (2, 70):
        state.window.commit(seq, 0)
    for seq in (70, 1):
        with pytest.raises(Drop):
            state.window.commit(seq, 0)
    shown = state.snapshot()
    assert shown.current == Current(100, 2, int(NOW), 5) and shown.lastused == 6
    assert shown.stats == StateStats(replay_window=1, replay=1, integrity_failed=3)
    assert (state.stats_replay_window, state.stats_replay, state.oseq) == (1, 1, 1 << 32 | 8)
    assert shown.replay is None
    assert shown.replay_esn == ReplayEsn((1 << (70 - 1) % 64, 0), 8, 70, 1, 0, 64)


def test_a_snapshot_makes_the_same_state_again() -> None:
    state = make(replay_window=32)
    state.window.commit(9, 0)
    state.sequence.next()
    assert State(state.snapshot()).snapshot() == replace(state.snapshot(), stats=StateStats(), lastused=0)


def test_neither_repr_nor_errors_show_keys() -> None:
    state = make(aead=GCM._replace(key=b"\xca\xfe" * 10))
    assert "cafe" not in repr(state).lower() and "\\xca" not in repr(state) + repr(state.info)


def test_a_larval_state_is_not_checked_and_carries_nothing() -> None:
    state = State(StateInfo(dst="192.0.2.2", mode=Mode.TUNNEL), km=KM_ACQ, now=NOW)
    assert (state.km, state.header_len, state.add_time) == (KM_ACQ, 0, int(NOW))
    assert state.mtu(1500) == 1500
    with pytest.raises(XfrmError):
        State(StateInfo(dst="192.0.2.2", mode=Mode.TUNNEL))


# Updates (3.3) -------------------------------------------------------------------------------------------------------


def test_an_update_changes_this_and_nothing_else() -> None:
    state = make(encap=Encap(), if_id=1, coaddr=bytes(4), replay_window=32)
    state.dying = True
    state.sequence.last, state.iv_counter = 5, 6
    path = state.path
    other = request(
        encap=Encap(sport=1, dport=2), if_id=2, coaddr=bytes(3) + b"\1", limits=Limits(hard_bytes=9),
        set_mark=Mark(3, 0xF), aead=GCM._replace(key=bytes(36)), reqid=77, replay_window=0, flags=STATE_AF_UNSPEC,
    )  # fmt: skip
    state.update(other)
    assert state.info == replace(
        request(encap=Encap(sport=1, dport=2), if_id=2, coaddr=bytes(3) + b"\1", replay_window=32),
        limits=Limits(hard_bytes=9), set_mark=Mark(3, 0xF),
    )  # fmt: skip
    assert (state.if_id, state.encap, state.dying, state.reqid) == (2, Encap(sport=1, dport=2), False, 0)
    assert (state.oseq, state.iv_counter, state.window.size) == (5, 6, 32)
    assert isinstance(state.transform, AesGcm) and state.transform.key == GCM.key[:16]
    assert state.path != path and (state.path.sport, state.path.mark) == (1, 3)


def test_what_an_update_leaves_out_stays() -> None:
    state = make(if_id=1, coaddr=bytes(4), set_mark=Mark(3, 0xF))
    state.update(request())
    assert (state.if_id, state.info.coaddr, state.info.set_mark) == (1, bytes(4), Mark(3, 0xF))
    state.update(request(if_id=2))  # the if_id and set-mark come and stay each on its own
    assert (state.if_id, state.info.set_mark) == (2, Mark(3, 0xF))


@pytest.mark.parametrize(("old", "new"), [(None, Encap()), (Encap(), None)])
def test_encapsulation_neither_comes_nor_goes(old: Encap | None, new: Encap | None) -> None:
    state = make(encap=old)
    with pytest.raises(XfrmError) as caught:
        state.update(request(encap=new, if_id=9))
    assert caught.value.errno == errno.EINVAL and state.if_id == 0


# Limits (3.4) --------------------------------------------------------------------------------------------------------


def watched(**limits: int) -> tuple[State, list[bool]]:
    state, told = make(limits=Limits(**limits)), list[bool]()
    state.on_limit = lambda _, hard: told.append(hard)
    return state, told


def test_lt_01_and_lt_03_the_packet_before_is_what_counts() -> None:
    state, told = watched(soft_bytes=100, hard_bytes=200)
    for size, expected in ((99, []), (1, [False]), (99, [False]), (1, [False])):
        state.bytes += size
        if state.bytes < 200:
            state.check_limits(NOW, EXPIRED)
        assert told == expected and state.dying == bool(expected)
    with pytest.raises(Drop) as caught:
        state.check_limits(NOW, EXPIRED)
    assert (caught.value.stat, told, state.km) == (EXPIRED, [False, True], KM_EXPIRED)


@pytest.mark.parametrize("limit", ["hard_bytes", "hard_packets"])
def test_lt_02_zero_is_not_infinite(limit: str) -> None:
    state, told = watched(**{limit: 0})
    with pytest.raises(Drop):
        state.check_limits(NOW, EXPIRED)
    assert told == [True]


@pytest.mark.parametrize("limit", ["soft_bytes", "soft_packets"])
def test_lt_03_soft_zero_is_told_once(limit: str) -> None:
    state, told = watched(**{limit: 0})
    for _ in range(3):
        state.check_limits(NOW, EXPIRED)
    assert (told, state.km) == ([False], KM_VALID)


def test_lt_07_the_first_packet_sets_use_time() -> None:
    state = make()
    state.check_limits(NOW, EXPIRED)
    state.check_limits(NOW + 100, EXPIRED)
    assert state.use_time == int(NOW)


def test_limited_means_some_packet_may_be_the_last() -> None:
    assert not make().limited and not make(limits=Limits(hard_add=5, soft_use=5)).limited
    for limit in ("soft_bytes", "hard_bytes", "soft_packets", "hard_packets"):
        assert make(limits=Limits(**{limit: XFRM_INF - 1})).limited


# IVs -----------------------------------------------------------------------------------------------------------------


def test_ivs_are_a_counter_under_a_salt_of_their_own() -> None:
    """A.10: all 64 bits of the salt are used."""
    salt = bytes.fromhex("8000000000000001")
    state = State(request(), random=lambda count: salt[:count])
    assert [state.next_iv().hex() for _ in range(3)] == ["8000000000000001", "8000000000000000", "8000000000000003"]
    state.iv_counter = 1 << 40
    assert state.next_iv().hex() == "8000010000000001"


def test_reserved_ivs_are_those_that_would_have_come() -> None:
    one, other = (State(request(), random=bytes) for _ in range(2))
    first = one.reserve_ivs(3)
    assert [(first + i ^ one.iv_salt).to_bytes(8, "big") for i in range(3)] == [other.next_iv() for _ in range(3)]
    assert one.next_iv() == other.next_iv()


# MTU (5.8) -----------------------------------------------------------------------------------------------------------

V6: dict[str, Any] = {"src": "2001:db8::1", "dst": "2001:db8::2"}
BEET4 = {"mode": Mode.BEET, "selector": Selector.parse("198.51.100.1/32", "198.51.100.2/32")}
BEET6 = {"mode": Mode.BEET, "selector": Selector.parse("2001:db8:1::1/128", "2001:db8:1::2/128")}


@pytest.mark.parametrize(
    ("fields", "mtu"),
    [
        ({}, 1446),
        ({"encap": Encap()}, 1438),
        ({"aead": GCM._replace(bits=64)}, 1454),
        (V6, 1426),
        ({**V6, "encap": Encap()}, 1418),
        ({"mode": Mode.TRANSPORT}, 1466),
        ({**V6, "mode": Mode.TRANSPORT}, 1466),
        (BEET4, 1458),
        ({**V6, **BEET6}, 1466),
        (BEET6, 1466),
        ({**V6, **BEET4}, 1438),
    ],
)
def test_mtu_table(fields: dict[str, Any], mtu: int) -> None:
    assert make(**fields).mtu(1500) == mtu


@given(st.integers(576, 9000), st.sampled_from([{}, {"encap": Encap()}, V6]))
def test_a_packet_of_that_size_fits_and_the_next_larger_does_not(path_mtu: int, fields: dict[str, Any]) -> None:
    state = make(**fields)
    inner = state.mtu(path_mtu)
    assert inner <= path_mtu - state.overhead - 2
    for size, fits in ((inner, True), (inner + 1, False)):
        padded = (size + 2 + 3) // 4 * 4
        assert (state.overhead + padded <= path_mtu) == fits


# The way out ---------------------------------------------------------------------------------------------------------


def test_paths() -> None:
    state = make(encap=Encap(sport=4500, dport=4600), set_mark=Mark(0x12, 0xF0))
    src, dst = pack_address("192.0.2.1"), pack_address("192.0.2.2")
    assert state.path == Path(2, src, dst, 4500, 4600, 0x10, 0, True)
    assert state.path_to(3) == replace(state.path, ifindex=3)
    assert state.path is state.path and state.path_to(3) is state.path_to(3)
    assert make().path == Path(2, src, dst)
    assert not make(mode=Mode.TRANSPORT, encap=Encap()).path.use_udp_socket


# What it costs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gcm256-icv128", "ccm128-icv64", "cbc256", "null-xcbc", "cmac192", "sha512"])
def test_a_state_stays_small_until_it_is_used(name: str) -> None:
    """100,000 states have to fit a small machine: under 3 KB each with configuration and a full replay bitmap.

    That they are not keyed either is tested with each algorithm; see test_algo_aead.py and its neighbours.
    """
    count = 200
    fields = {"aead": None, **ALL[name]}
    make(**fields)
    gc.collect()
    tracemalloc.start()
    states = []
    for spi in range(count):
        for kind, algorithm in fields.items():
            if algorithm is not None and algorithm.key:
                fields[kind] = algorithm._replace(key=spi.to_bytes(len(algorithm.key), "big"))
        esn = ReplayEsn((0,) * 32, replay_window=1024)
        states.append(State(request(**fields, spi=spi + 0x10000, replay_esn=esn, if_id=spi), now=NOW))
        states[-1].window.commit(1, 0)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / count < 3000
