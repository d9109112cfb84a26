"""core.sad: requests, larval states and expiry (kernel-behaviour 3.1, 3.3, 3.4, 7.4)."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Any

import pytest

from tests.core.samples import GCM, NOW, PEER, US, Log, fails, fixed_random, new_sad, state_id, state_info
from xfrmi.core import events
from xfrmi.core.sad import Sad
from xfrmi.core.state import KM_ACQ, KM_DEAD, KM_VALID, State
from xfrmi.errors import Drop
from xfrmi.wire.address import pack_address
from xfrmi.wire.xfrm_const import IPPROTO_AH, IPPROTO_COMP, IPPROTO_ESP, Mode, SaDir, XfrmStat
from xfrmi.wire.xfrm_event_msg import AE_CAUSE_UPDATE
from xfrmi.wire.xfrm_info_msg import SadInfo
from xfrmi.wire.xfrm_types import Algorithm, Current, Encap, Limits, Mark, Replay, ReplayEsn, Selector, StateInfo

DST = pack_address(PEER)


def lookup(sad: Sad, spi: int = 0x1000, mark: int = 0) -> State | None:
    return sad.lookup_input(DST, spi, IPPROTO_ESP, mark)


def wanted(**fields: Any) -> StateInfo:
    """What ALLOCSPI says."""
    return StateInfo(**{"src": US, "dst": PEER, "mode": Mode.TUNNEL, "reqid": 7} | fields)


# Identity (3.1)


@pytest.mark.parametrize(
    "difference", [{"src": "203.0.113.1"}, {"if_id": 43}, {"reqid": 8}, {"mode": 0}, {"dir": 2}], ids=str
)
def test_3_1_neither_source_nor_if_id_nor_reqid_tell_two_states_apart(difference: dict[str, Any]) -> None:
    sad, log = new_sad()
    first = sad.add(state_info(if_id=0x2A), NOW)
    log.take()
    generation = sad.generation
    with fails(errno.EEXIST) as caught:
        sad.add(state_info(**difference), NOW)
    assert caught.value.extack == ""
    assert caught.value.detail == (
        "an SA with spi 0x00001000 towards 192.0.2.2 exists already (reqid 7, if_id 0x2a); the key is destination, "
        "spi, protocol and mark: neither source nor if_id tell two apart"
    )
    assert (sad.dump(), log, sad.generation) == ([first], [], generation)


@pytest.mark.parametrize(
    "difference", [{"spi": 0x1001}, {"dst": "192.0.2.3"}, {"src": "2001:db8::1", "dst": "2001:db8::2"}], ids=str
)
def test_3_1_destination_and_spi_do(difference: dict[str, Any]) -> None:
    sad, _ = new_sad()
    sad.add(state_info(), NOW)
    sad.add(state_info(**difference), NOW)
    assert len(sad) == 2


def test_3_1_states_of_one_key_are_told_apart_by_mark() -> None:
    # As captured: mark 1, mark 2, then none; the other way round the unmarked one is in the way.
    sad, _ = new_sad()
    one = sad.add(state_info(mark=Mark(1, 0xFF)), NOW)
    two = sad.add(state_info(mark=Mark(2, 0xFF)), NOW)
    assert (lookup(sad, mark=0x301), lookup(sad, mark=2), lookup(sad, mark=3)) == (one, two, None)
    plain = sad.add(state_info(), NOW)
    assert lookup(sad) is plain
    assert lookup(sad, mark=1) is plain  # the newest that fits
    for mark in (1, 3):
        with fails(errno.EEXIST):
            sad.add(state_info(mark=Mark(mark, 0xFF)), NOW)
    assert sad.delete(state_id(), NOW) is plain
    assert lookup(sad, mark=1) is one
    assert sad.delete(state_id(mark=Mark(0x302, 0xFF)), NOW) is two
    assert sad.dump() == [one]


def test_a_mark_is_stored_masked() -> None:
    sad, _ = new_sad()
    state = sad.add(state_info(mark=Mark(0x15, 0xF0)), NOW)
    assert state.snapshot().mark == Mark(0x10, 0xF0)
    assert lookup(sad, mark=0x1F) is state


def test_states_with_spi_0_are_kept_but_found_by_nobody() -> None:
    # As captured: accepted, and twice.
    sad, _ = new_sad()
    sad.add(state_info(0), NOW)
    sad.add(state_info(0), NOW)
    assert (len(sad), lookup(sad, 0)) == (2, None)
    with fails(errno.ESRCH):
        sad.delete(state_id(0), NOW)
    assert sad.flush(0, NOW) == 2


def test_RX_03_input_never_asks_for_the_if_id() -> None:
    sad, _ = new_sad()
    state = sad.add(state_info(if_id=42), NOW)
    assert lookup(sad) is state
    assert lookup(sad, 0x1001) is None
    assert sad.lookup_input(DST, 0x1000, IPPROTO_AH, 0) is None
    assert sad.lookup_input(bytes(4), 0x1000, IPPROTO_ESP, 0) is None


# NEWSA, GETSA, DELSA, FLUSHSA


def test_add_get_delete() -> None:
    sad, log = new_sad()
    state = sad.add(state_info(), NOW)
    assert log.take() == [events.StateAdded(state.snapshot())]
    assert (state.km, state.add_time, sad.get(state_id())) == (KM_VALID, int(NOW), state)
    assert sad.delete(state_id(), NOW) is state
    assert log.take() == [events.StateDeleted(state.snapshot())]
    assert (state.km, len(sad), lookup(sad)) == (KM_DEAD, 0, None)
    for request in (sad.get, lambda name: sad.delete(name, NOW)):
        with fails(errno.ESRCH):
            request(state_id())


def test_a_state_made_beforehand_can_be_added() -> None:
    sad, _ = new_sad()
    state = State(state_info())
    assert sad.add(state, NOW) is state
    assert lookup(sad) is state


def test_what_check_state_refuses_changes_nothing() -> None:
    sad, log = new_sad()
    with fails(errno.ENOSYS):
        sad.add(state_info(aead=Algorithm("nosuch", bytes(20), 128)), NOW)
    assert (len(sad), log, sad.generation) == (0, [], 0)


def test_a_protocol_without_spi_is_named_by_source() -> None:
    sad, _ = new_sad()
    with fails(errno.EINVAL):
        sad.delete(state_id(proto=43), NOW)
    with fails(errno.ESRCH):
        sad.delete(state_id(proto=43, src=DST), NOW)


def test_dump_is_newest_first() -> None:
    sad, _ = new_sad()
    states = [sad.add(state_info(spi), NOW + spi) for spi in (5, 3, 4)]
    assert sad.dump() == states[::-1]
    sad.update(state_info(5), NOW)
    assert sad.dump() == states[::-1]


@pytest.mark.parametrize(("proto", "left"), [(0, 0), (255, 0), (IPPROTO_ESP, 1), (IPPROTO_AH, 2), (17, 3)])
def test_flush_by_protocol(proto: int, left: int) -> None:
    sad, log = new_sad()
    sad.add(state_info(1), NOW)
    sad.add(state_info(2), NOW)
    sad.alloc_spi(wanted(proto=IPPROTO_AH), 1, 0xFFFF, NOW)
    log.take()
    assert sad.flush(proto, NOW) == 3 - left
    assert len(sad) == left
    assert log == ([events.StatesFlushed(proto)] if left < 3 else [])


def test_counts_and_buckets() -> None:
    sad, _ = new_sad()
    assert sad.counts() == SadInfo(0, 8, 1 << 20)
    for spi in range(1, 18):
        sad.add(state_info(spi), NOW)
    assert sad.counts() == SadInfo(17, 32, 1 << 20)
    sad.flush(0, NOW)
    assert sad.counts() == SadInfo(0, 32, 1 << 20)


# UPDSA (3.3)


def test_update_of_nothing() -> None:
    sad, log = new_sad()
    with fails(errno.ESRCH):
        sad.update(state_info(), NOW)
    assert (len(sad), log) == (0, [])


def test_Q3_update_changes_limits_ports_if_id_and_set_mark_only() -> None:
    sad, log = new_sad()
    state = sad.add(state_info(if_id=1, encap=Encap(2, 4500, 4500)), NOW)
    generation = sad.generation
    log.take()
    request = state_info(
        if_id=2,
        encap=Encap(2, 4500, 5500),
        limits=Limits(hard_packets=9),
        set_mark=Mark(3, 0xFF),
        reqid=8,
        src="203.0.113.1",
        aead=Algorithm(GCM.name, bytes(20), 64),
        selector=Selector.parse("10.0.0.0/8"),
    )
    before = state.info
    assert sad.update(request, NOW) is state
    changed = {"if_id": 2, "encap": Encap(2, 4500, 5500), "limits": Limits(hard_packets=9), "set_mark": Mark(3, 0xFF)}
    assert state.info == replace(before, **changed)  # type: ignore[arg-type]
    assert sad.generation != generation
    # The notification shows what was asked for.
    (event,) = log
    assert isinstance(event, events.StateUpdated)
    assert (event.info.reqid, event.info.aead) == (8, Algorithm(GCM.name, bytes(20), 64))


def test_update_without_if_id_and_set_mark_keeps_them() -> None:
    sad, _ = new_sad()
    state = sad.add(state_info(if_id=1, set_mark=Mark(3, 0xFF)), NOW)
    sad.update(state_info(), NOW)
    assert (state.if_id, state.info.set_mark) == (1, Mark(3, 0xFF))
    sad.update(state_info(if_id=2, set_mark=Mark(0, 0)), NOW)
    assert (state.if_id, state.info.set_mark) == (2, Mark(3, 0xFF))
    sad.update(state_info(set_mark=Mark(0, 0xFFFFFFFF)), NOW)
    assert (state.if_id, state.info.set_mark) == (2, Mark(0, 0xFFFFFFFF))


@pytest.mark.parametrize(("old", "new"), [(None, Encap()), (Encap(), None), (Encap(), Encap(7))])
def test_update_cannot_change_the_kind_of_encapsulation(old: Encap | None, new: Encap | None) -> None:
    sad, log = new_sad()
    state = sad.add(state_info(encap=old), NOW)
    log.take()
    with fails(errno.EINVAL):
        sad.update(state_info(encap=new, if_id=5), NOW)
    assert (state.if_id, state.encap, log) == (0, old, [])
    assert (sad.get(state_id()), sad.delete(state_id(), NOW)) == (state, state)


def test_update_with_another_direction_finds_nothing() -> None:
    sad, _ = new_sad()
    sad.add(state_info(dir=SaDir.OUT), NOW)
    for direction in (SaDir.NONE, SaDir.IN):
        with fails(errno.ESRCH):
            sad.update(state_info(dir=direction), NOW)
    sad.update(state_info(dir=SaDir.OUT), NOW)


# ALLOCSPI (3.3)


def test_alloc_spi_makes_a_larval_state() -> None:
    sad, log = new_sad()
    larval = sad.alloc_spi(wanted(if_id=42, flags=5, replay_window=32, limits=Limits(hard_add=5)), 0x100, 0x1FF, NOW)
    assert (larval.km, larval.spi, larval.if_id, larval.reqid) == (KM_ACQ, 0x100, 42, 7)
    assert lookup(sad, 0x100) is larval
    assert log == []
    shown = larval.snapshot()
    assert (shown.spi, shown.flags, shown.replay_window) == (0x100, 0, 0)
    assert shown.limits == Limits(hard_add=30)
    us, peer = pack_address(US), pack_address(PEER)
    assert shown.selector == Selector(saddr=us, prefixlen_s=32, daddr=peer, prefixlen_d=32)


def test_alloc_spi_of_ipv6() -> None:
    sad, _ = new_sad()
    larval = sad.alloc_spi(wanted(src="2001:db8::1", dst="2001:db8::2"), 1, 9, NOW)
    assert (larval.selector.prefixlen_s, larval.selector.prefixlen_d) == (128, 128)


@pytest.mark.parametrize(
    ("proto", "low", "high", "phrase"),
    [
        (IPPROTO_ESP, 5, 4, "Invalid SPI range: min > max"),
        (17, 1, 2, "Invalid protocol, must be one of AH, ESP, IPCOMP"),
        (0, 1, 2, "Invalid protocol, must be one of AH, ESP, IPCOMP"),
        (17, 9, 5, "Invalid protocol, must be one of AH, ESP, IPCOMP"),
        (IPPROTO_COMP, 1, 0x10000, "IPCOMP SPI must be <= 65535"),
    ],
)
def test_alloc_spi_of_an_impossible_range(proto: int, low: int, high: int, phrase: str) -> None:
    sad, _ = new_sad()
    with fails(errno.EINVAL) as caught:
        sad.alloc_spi(wanted(proto=proto), low, high, NOW)
    assert (caught.value.extack, len(sad)) == (phrase, 0)


def test_alloc_spi_without_a_free_spi_leaves_a_larval_state_without_one() -> None:
    sad, _ = new_sad()
    sad.alloc_spi(wanted(), 0x100, 0x100, NOW)
    for low, high in ((0x100, 0x100), (0, 0)):
        with fails(errno.ENOENT) as caught:
            sad.alloc_spi(wanted(), low, high, NOW)
        assert caught.value.extack == "No SPI available in the requested range"
    # Both failures shared one larval state; the next allocation takes it.
    assert [state.spi for state in sad.dump()] == [0, 0x100]
    third = sad.alloc_spi(wanted(), 0x100, 0x101, NOW)
    assert (third.spi, len(sad)) == (0x101, 2)
    # All larval states of this kind have an SPI by now: one more is made.
    assert sad.alloc_spi(wanted(), 0x100, 0x200, NOW).spi == 0x102
    assert len(sad) == 3


def test_3_1_an_spi_is_given_once_per_protocol_whatever_the_destination() -> None:
    sad, _ = new_sad()
    sad.add(state_info(0x100), NOW)
    with fails(errno.ENOENT):
        sad.alloc_spi(wanted(dst="192.0.2.99"), 0x100, 0x100, NOW)
    assert sad.alloc_spi(wanted(proto=IPPROTO_AH), 0x100, 0x100, NOW).spi == 0x100
    sad.delete(state_id(0x100), NOW)
    assert sad.alloc_spi(wanted(dst="192.0.2.99"), 0x100, 0x100, NOW).spi == 0x100


def test_alloc_spi_begins_anywhere_skips_0_and_goes_round() -> None:
    sad = Sad(Log(), lambda size: (2).to_bytes(size, "big"))
    spis = [sad.alloc_spi(wanted(reqid=n), 0, 3, NOW).spi for n in range(3)]
    assert spis == [2, 3, 1]
    with fails(errno.ENOENT):
        sad.alloc_spi(wanted(reqid=9), 0, 3, NOW)


def test_alloc_spi_uses_the_whole_range_of_32_bits() -> None:
    sad = Sad(Log(), lambda size: b"\xff" * size)
    assert sad.alloc_spi(wanted(), 0, 0xFFFFFFFF, NOW).spi == 0xFFFFFFFF


def test_Q13_the_larval_search_ignores_the_if_id() -> None:
    sad, _ = new_sad()
    with fails(errno.ENOENT):
        sad.alloc_spi(wanted(if_id=1), 0, 0, NOW)
    stolen = sad.alloc_spi(wanted(if_id=2), 0x100, 0x1FF, NOW)
    assert (stolen.if_id, len(sad)) == (1, 1)


@pytest.mark.parametrize("difference", [{"reqid": 8}, {"mode": 0}, {"src": "203.0.113.1"}, {"pcpu": 1}], ids=str)
def test_the_larval_search_compares(difference: dict[str, Any]) -> None:
    sad, _ = new_sad()
    with fails(errno.ENOENT):
        sad.alloc_spi(wanted(), 0, 0, NOW)
    sad.alloc_spi(wanted(**difference), 0x100, 0x1FF, NOW)
    assert len(sad) == 2


def test_alloc_spi_with_a_direction_sets_it() -> None:
    sad, _ = new_sad()
    larval = sad.alloc_spi(wanted(dir=SaDir.IN), 0x100, 0x1FF, NOW)
    assert (larval.dir, larval.snapshot().dir) == (SaDir.IN, SaDir.IN)


# From larval to valid (3.3)


def test_update_completes_a_larval_state() -> None:
    sad, log = new_sad()
    larval = sad.alloc_spi(wanted(), 0x1000, 0x1000, NOW)
    valid = sad.update(state_info(if_id=42), NOW + 1)
    assert (valid.km, valid.if_id, larval.km) == (KM_VALID, 42, KM_DEAD)
    assert (sad.dump(), lookup(sad)) == ([valid], valid)
    assert log == [events.StateUpdated(valid.snapshot())]
    sad.tick(NOW + 100)
    assert sad.dump() == [valid]


def test_add_cannot_complete_a_larval_state() -> None:
    sad, _ = new_sad()
    sad.alloc_spi(wanted(), 0x1000, 0x1000, NOW)
    with fails(errno.EEXIST) as caught:
        sad.add(state_info(), NOW)
    assert "update" in caught.value.detail


@pytest.mark.parametrize(
    ("larval", "completed", "possible"), [(1, 0, True), (1, 1, True), (1, 2, False), (0, 1, False)]
)
def test_a_larval_state_keeps_its_direction(larval: int, completed: int, possible: bool) -> None:
    sad, _ = new_sad()
    sad.alloc_spi(wanted(dir=larval), 0x1000, 0x1000, NOW)
    if possible:
        assert sad.update(state_info(dir=completed), NOW).dir == completed
    else:
        with fails(errno.ESRCH):
            sad.update(state_info(dir=completed), NOW)


def test_add_removes_the_larval_state_of_the_same_kind_silently() -> None:
    sad, log = new_sad()
    with fails(errno.ENOENT):
        sad.alloc_spi(wanted(), 0, 0, NOW)
    added = sad.add(state_info(if_id=5), NOW)
    assert sad.dump() == [added]
    assert log == [events.StateAdded(added.snapshot())]


def test_add_leaves_larval_states_with_an_spi_alone() -> None:
    sad, _ = new_sad()
    sad.alloc_spi(wanted(), 0x1001, 0x1001, NOW)
    sad.add(state_info(), NOW)
    assert len(sad) == 2


# Limits (3.3, 3.4)


def use_up(state: State, packets: int = 1) -> None:
    """What the data path does before a packet, and after it."""
    for _ in range(packets):
        state.check_limits(NOW, XfrmStat.OUT_STATE_EXPIRED)
        state.packets += 1


def test_LT_03_a_soft_limit_is_told_once() -> None:
    sad, log = new_sad()
    state = sad.add(state_info(limits=Limits(soft_packets=2)), NOW)
    generation = sad.generation
    log.take()
    use_up(state, 5)
    (event,) = log
    assert isinstance(event, events.StateExpired)
    assert (event.hard, event.info.current.packets) == (False, 2)
    assert (state.dying, state.km, sad.dump()) == (True, KM_VALID, [state])
    assert sad.generation != generation


def test_LT_01_a_hard_limit_removes_the_state_at_once() -> None:
    sad, log = new_sad()
    state = sad.add(state_info(limits=Limits(hard_packets=3)), NOW)
    log.take()
    use_up(state, 3)
    assert log == []
    with pytest.raises(Drop):
        use_up(state)
    assert log == [events.StateExpired(state.snapshot(), hard=True)]
    assert (state.km, lookup(sad), sad.dump()) == (KM_DEAD, None, [])


def test_update_revives_a_dying_state_which_may_die_again() -> None:
    sad, log = new_sad()
    state = sad.add(state_info(limits=Limits(soft_packets=1)), NOW)
    use_up(state, 2)
    sad.update(state_info(limits=Limits(soft_packets=5)), NOW)
    assert not state.dying
    log.take()
    use_up(state, 9)
    assert [type(event) for event in log] == [events.StateExpired]
    assert sad.delete(state_id(), NOW) is state


def test_update_below_what_has_been_used_up_ends_the_state() -> None:
    sad, log = new_sad()
    state = sad.add(state_info(), NOW)
    use_up(state, 5)
    log.take()
    sad.update(state_info(limits=Limits(hard_packets=5)), NOW)
    assert [type(event) for event in log] == [events.StateExpired, events.StateUpdated]
    assert (len(sad), state.km) == (0, KM_DEAD)


def expiries(sad: Sad, log: Log, until: float) -> list[tuple[float, bool]]:
    """(seconds since NOW, hard) of what expires when everything is looked at in time."""
    seen = []
    while (deadline := sad.next_deadline()) is not None and deadline <= NOW + until:
        sad.tick(deadline)
        seen += [(deadline - NOW, event.hard) for event in log.take() if isinstance(event, events.StateExpired)]
    return seen


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Limits(soft_add=1, hard_add=3), [(1, False), (3, True)]),
        (Limits(soft_add=10), [(10, False)]),
        (Limits(hard_add=10), [(10, True)]),
        (Limits(soft_add=3, hard_add=3), [(3, True)]),
        (Limits(soft_use=5, hard_use=9), []),  # never used: the whole interval is left, always
        (Limits(), []),
    ],
    ids=str,
)
def test_LT_05_time_limits(limits: Limits, expected: list[tuple[float, bool]]) -> None:
    sad, log = new_sad()
    sad.add(state_info(limits=limits), NOW)
    assert expiries(sad, log, 60) == expected
    assert len(sad) == (0 if (expected and expected[-1][1]) else 1)


def test_LT_05_use_counts_from_the_first_packet() -> None:
    sad, log = new_sad()
    state = sad.add(state_info(limits=Limits(soft_use=5, hard_use=9)), NOW)
    assert expiries(sad, log, 20) == []
    state.use_time = int(NOW) + 20
    assert expiries(sad, log, 60) == [(25, False), (29, True)]


def test_LT_06_a_clock_set_forward_brings_the_soft_limit_first() -> None:
    sad, log = new_sad()
    sad.add(state_info(limits=Limits(soft_add=60, hard_add=90)), NOW)
    assert expiries(sad, log, 1) == []
    sad.tick(NOW + 3600)
    assert [(type(e), getattr(e, "hard", None)) for e in log.take()[-1:]] == [(events.StateExpired, False)]
    assert expiries(sad, log, 4000) == [(3631, True)]  # 59 seconds were left at the soft one: 31 more to the hard one
    assert sad.next_deadline() is None


def test_update_restarts_and_removes_time_limits() -> None:
    sad, log = new_sad()
    sad.add(state_info(limits=Limits(hard_add=10)), NOW)
    sad.update(state_info(limits=Limits(hard_add=20)), NOW + 5)
    assert expiries(sad, log, 19) == []
    sad.update(state_info(), NOW + 19)
    assert (expiries(sad, log, 600), len(sad), sad.next_deadline()) == ([], 1, None)


def test_deletion_stops_the_clock() -> None:
    sad, _ = new_sad()
    sad.add(state_info(limits=Limits(hard_add=10)), NOW)
    sad.alloc_spi(wanted(reqid=9), 5, 5, NOW)
    sad.flush(0, NOW)
    assert sad.next_deadline() is None


@pytest.mark.parametrize("spi", [0, 0x100])
def test_a_larval_state_expires_after_acq_expires(spi: int) -> None:
    sad, log = new_sad(acq_expires=lambda: 20)
    if spi:
        sad.alloc_spi(wanted(), spi, spi, NOW)
    else:
        with fails(errno.ENOENT):
            sad.alloc_spi(wanted(), 0, 0, NOW)
    assert expiries(sad, log, 19.9) == []
    assert expiries(sad, log, 60) == [(20, True)]
    assert (len(sad), lookup(sad, spi)) == (0, None)
    assert sad.alloc_spi(wanted(), 0x100, 0x100, NOW).spi == 0x100


def test_a_deleted_larval_state_is_told_of() -> None:
    sad, log = new_sad()
    larval = sad.alloc_spi(wanted(), 0x1000, 0x1000, NOW)
    sad.delete(state_id(), NOW)
    assert log == [events.StateDeleted(larval.snapshot())]


@pytest.mark.parametrize("hard", [False, True])
def test_expiry_by_request(hard: bool) -> None:
    sad, log = new_sad()
    with fails(errno.ENOENT):
        sad.expire(state_id(), hard, NOW)
    sad.alloc_spi(wanted(), 0x1001, 0x1001, NOW)
    with fails(errno.EINVAL) as caught:
        sad.expire(state_id(0x1001), hard, NOW)
    assert caught.value.extack == "SA must be in VALID state"
    state = sad.add(state_info(), NOW)
    log.take()
    sad.expire(state_id(), hard, NOW)
    assert log == [events.StateExpired(state.snapshot(), hard)]
    assert (len(sad), state.dying) == (1 if hard else 2, False)


def test_a_mapping_is_told_of_and_changes_nothing() -> None:
    sad, log = new_sad()
    state = sad.add(state_info(encap=Encap()), NOW)
    log.take()
    assert state.on_mapping is not None
    state.on_mapping(state, bytes((203, 0, 113, 9)), 60000)
    assert log == [events.Mapping(state.snapshot(), bytes((203, 0, 113, 9)), 60000)]
    assert state.src == pack_address(US)


# NEWAE


def test_set_replay_moves_counters_and_keeps_the_iv_counter() -> None:
    sad, log = new_sad()
    state = sad.add(state_info(replay_window=32), NOW)
    state.next_iv()
    state.window.late = 5
    log.take()
    sad.set_replay(state_id(), replay=Replay(oseq=100, seq=50, bitmap=7), current=Current(1, 2, 3, 4))
    shown = state.snapshot()
    assert (shown.replay, shown.current) == (Replay(100, 50, 7), Current(1, 2, 3, 4))
    assert (state.iv_counter, shown.stats.replay_window, state.sequence.next()) == (1, 5, 101)
    assert log == [events.StateReplayed(shown, AE_CAUSE_UPDATE)]
    assert sad.delete(state_id(), NOW) is state


def test_set_replay_of_an_esn_window() -> None:
    sad, _ = new_sad()
    state = sad.add(state_info(flags=128, replay_esn=ReplayEsn((0, 0), replay_window=64)), NOW)
    new = ReplayEsn((1, 0), oseq=9, seq=1, oseq_hi=1, seq_hi=2, replay_window=64)
    sad.set_replay(state_id(), replay_esn=new, replay=Replay(5, 5, 5))
    assert state.snapshot().replay_esn == new
    assert state.oseq == 1 << 32 | 9
    for refused, phrase in (
        (ReplayEsn((0,), replay_window=32), "New ESN size doesn't match the existing SA's ESN size"),
        (ReplayEsn((0, 0), replay_window=65), "ESN replay window is longer than the bitmap"),
    ):
        with fails(errno.EINVAL) as caught:
            sad.set_replay(state_id(), replay_esn=refused)
        assert caught.value.extack == phrase
    assert state.snapshot().replay_esn == new


def test_set_replay_needs_a_valid_state() -> None:
    sad, _ = new_sad()
    with fails(errno.ESRCH):
        sad.set_replay(state_id(), current=Current())
    sad.alloc_spi(wanted(), 0x1000, 0x1000, NOW)
    with fails(errno.EINVAL):
        sad.set_replay(state_id(), current=Current())


def test_set_replay_of_the_other_kind_is_ignored() -> None:
    sad, _ = new_sad()
    state = sad.add(state_info(replay_window=32), NOW)
    before = state.snapshot()
    sad.set_replay(state_id(), replay_esn=ReplayEsn((0,), oseq=5, replay_window=32))
    assert state.snapshot() == before


# Keeping nothing


def test_when_all_are_gone_the_index_is_empty() -> None:
    sad, _ = new_sad()
    for number in range(20):
        limits = Limits(soft_packets=1, hard_add=9 + number)
        use_up(sad.add(state_info(0x100 + number, if_id=number % 3, limits=limits), NOW), 2)
        sad.alloc_spi(wanted(reqid=number % 4, seq=number), 0x1000, 0xFFFF, NOW)
    sad.update(state_info(0x100, if_id=9), NOW)
    while (deadline := sad.next_deadline()) is not None:
        sad.tick(deadline)
    assert [state.spi for state in sad.dump()] == [0x100]
    sad.delete(state_id(0x100), NOW)
    tables = {name: table for name, table in vars(sad.index).items() if isinstance(table, dict)}
    assert len(tables) == 7
    assert not any(tables.values())


def test_random_numbers_come_from_outside() -> None:
    drawn = []

    def random(size: int) -> bytes:
        drawn.append(size)
        return fixed_random(size)

    sad = Sad(Log(), random)
    assert sad.add(state_info(), NOW).iv_salt == 0
    assert drawn == [8]
