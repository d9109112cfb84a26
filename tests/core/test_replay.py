"""core.replay against a slow model, the ESN tables, and the way a kernel shows its windows."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from xfrmi.core.replay import EsnWindow, Sequence, Window, export, make_sequence, make_window
from xfrmi.errors import Drop
from xfrmi.wire.xfrm_const import STATE_ESN, XfrmStat
from xfrmi.wire.xfrm_types import Replay, ReplayEsn, StateInfo

TOP_32 = 0xFFFFFFFF
WRAP = 1 << 32


def take(window: Window, number: int) -> str:
    """Let a packet with the 64-bit `number` through: check, decrypt (the ICV proves the guess), commit."""
    try:
        hi = window.check(number & TOP_32)
    except Drop as drop:
        assert drop.stat == XfrmStat.IN_STATE_SEQ_ERROR
        return drop.reason
    if isinstance(window, EsnWindow) and hi != number >> 32:
        return "wrong ICV"
    window.commit(number & TOP_32, hi)
    return "accepted"


def esn_info(size: int, top: int = 0, bitmap: tuple[int, ...] | None = None, flags: int = STATE_ESN) -> StateInfo:
    words = bitmap if bitmap is not None else (0,) * ((size + 31) // 32)
    given_ = ReplayEsn(words, seq=top & TOP_32, seq_hi=top >> 32, replay_window=size)
    return StateInfo(dst="192.0.2.1", flags=flags, replay_esn=given_)


class Model:
    """The same rules, slow and obvious: a set of the numbers seen."""

    def __init__(self, size: int, top: int) -> None:
        self.size, self.top, self.seen = size, top, set[int]()

    def take(self, number: int) -> str:
        if number == 0:
            return "sequence number 0"
        if number <= self.top - self.size:
            return "behind the replay window"
        if number in self.seen:
            return "replayed"
        self.seen.add(number)
        self.top = max(self.top, number)
        return "accepted"


NEAR = st.integers(-70, 140)
"""Distances from the top: inside the window, behind it, ahead of it, far enough to clear it."""


@given(st.sampled_from([1, 5, 31, 32, 33, 64, 100]), st.integers(0, 300), st.lists(NEAR, max_size=60))
def test_window_against_the_model(size: int, top: int, moves: list[int]) -> None:
    """RP-02, RP-03, RP-05 to RP-08, RP-11."""
    window, model = Window(size, top), Model(size, top)
    for move in moves:
        number = max(model.top + move, 0)
        assert take(window, number) == model.take(number)
        assert window.top == model.top


@given(
    st.sampled_from([1, 5, 32, 64, 1024, 4096]),
    st.sampled_from([0, 40, 5000, WRAP - 100, WRAP - 1, WRAP, WRAP + 10, 7 * WRAP - 3]),
    st.lists(st.one_of(NEAR, st.integers(-5000, 9000)), max_size=60),
)
def test_esn_against_the_model(size: int, top: int, moves: list[int]) -> None:
    """RP-04: within 2^32 - W ahead of the window and the window itself, every number is understood as it was meant."""
    window, model = EsnWindow(size, top), Model(size, top)
    for move in moves:
        number = max(model.top + move, 1)
        verdict = take(window, number)
        if number > model.top - size:
            assert verdict == model.take(number)
        else:  # behind the window: mistaken for one of the next subspace, which the ICV refutes
            assert verdict in ("wrong ICV", "behind the replay window")
        assert window.top == model.top


@pytest.mark.parametrize("size", [32, 64, 1024, 4096])
def test_reordered_across_the_wrap(size: int) -> None:
    """Every number around 2^32 in a shuffled order that never falls out of the window: each once, none twice."""
    half = size // 2
    numbers = [WRAP - 2 * size + block + offset for block in range(0, 4 * size, half) for offset in range(half)[::-1]]
    window = EsnWindow(size, numbers[0] - half)
    assert {take(window, number) for number in numbers} == {"accepted"}
    recent = [number for number in numbers if number > window.top - size]
    assert {take(window, number) for number in recent} == {"replayed"}
    assert window.top == max(numbers) and window.replayed == len(recent) and window.late == 0


def kernel_hi(seq: int, seq_hi: int, low: int, size: int) -> int:
    """The table of 3.7, word for word, in 32-bit arithmetic."""
    bottom = low - size + 1 & TOP_32
    if low >= size - 1:
        return seq_hi + (seq < bottom) & TOP_32
    return seq_hi - (seq >= bottom) & TOP_32


def kernel_accepts(seq: int, seq_hi: int, low: int, size: int) -> bool:
    """The accept test of 3.7 with an empty bitmap."""
    if seq == 0 and seq_hi == 0 and low < size - 1:
        return False
    bottom = low - size + 1 & TOP_32
    if low >= size - 1:
        return seq > low or seq < bottom or low - seq < size
    if low < seq < bottom:
        return True
    return ((~seq & TOP_32) + low + 1 if seq >= bottom else low - seq) < size


EDGES = st.sampled_from([0, 1, 2, 30, 31, 32, 62, 63, 64, 65, 200, TOP_32 - 64, TOP_32 - 63, TOP_32 - 1, TOP_32])


@given(st.one_of(EDGES, st.integers(0, TOP_32)), st.integers(0, 2), st.one_of(EDGES, st.integers(0, TOP_32)))
@example(seq=0, hi=0, low=0)
@example(seq=TOP_32, hi=0, low=0)
@example(seq=0, hi=0, low=63)
@example(seq=0, hi=1, low=5)
def test_esn_inference_is_the_kernels(seq: int, hi: int, low: int) -> None:
    """RP-04: upper half and acceptance for any number received, also before the first one and at the edges."""
    window = EsnWindow(64, hi << 32 | low)
    try:
        inferred: int | None = window.check(seq)
    except Drop:
        inferred = None
    expected = kernel_hi(seq, hi, low, 64) if kernel_accepts(seq, hi, low, 64) else None
    assert inferred == expected


def test_rp_01_off_accepts_everything_and_remembers_nothing() -> None:
    window = Window(0)
    assert [take(window, number) for number in (5, 5, 0, 1, TOP_32)] == ["accepted"] * 5
    assert (window.top, window.seen, window.late, window.replayed) == (0, 0, 0, 0)


def test_rp_05_zero_is_refused_without_a_statistic() -> None:
    for window in (Window(32), Window(32, 9), EsnWindow(32), EsnWindow(32, 9)):
        assert take(window, 0) == "sequence number 0"
        assert (window.late, window.replayed) == (0, 0)


def test_rp_06_above_the_top_everything_is_new_however_far() -> None:
    for window in (Window(32), Window(1), Window(4096)):
        assert [take(window, number) for number in (1, 2, 5000, TOP_32)] == ["accepted"] * 4
        assert window.top == TOP_32
    esn = EsnWindow(32)
    assert [take(esn, number) for number in (1, 2, TOP_32 - 32)] == ["accepted"] * 3
    assert (esn.late, esn.replayed, esn.top) == (0, 0, TOP_32 - 32)


def test_rp_07_and_rp_08_count() -> None:
    window = Window(32, 100)
    assert [take(window, number) for number in (68, 69, 69)] == ["behind the replay window", "accepted", "replayed"]
    assert (window.late, window.replayed) == (1, 1)


def test_a_32_bit_window_ends_with_its_space() -> None:
    window = Window(32, TOP_32 - 1)
    assert take(window, TOP_32) == "accepted"
    assert take(window, 1) == "behind the replay window"


def test_rp_09_two_copies_decrypted_at_once() -> None:
    """Both pass the first check; the second commit sees what the first one wrote."""
    for window in (Window(32), EsnWindow(32)):
        first, second = window.check(7), window.check(7)
        window.commit(7, first)
        with pytest.raises(Drop) as caught:
            window.commit(7, second)
        assert caught.value.stat == XfrmStat.IN_STATE_SEQ_ERROR
        assert (window.replayed, window.late) == (1, 0)


def test_rp_09_esn_the_window_moved_and_the_number_now_means_another() -> None:
    window = EsnWindow(32, 1000)
    hi = window.check(1500)
    window.commit(2000, window.check(2000))
    with pytest.raises(Drop):
        window.commit(1500, hi)
    assert (window.late, window.replayed, window.top) == (1, 0, 2000)


def test_check_changes_nothing() -> None:
    """RP-10: only what has been authenticated moves the window."""
    for window in (Window(32, 50, 0b1011), EsnWindow(32, 50, 0b1011)):
        for seq in (51, 48, 20, 5000, TOP_32):
            window.check(seq)
        assert (window.top, window.seen) == (50, 0b1011)


# As a kernel shows it ------------------------------------------------------------------------------------------------


def test_rp_02_legacy_bitmap() -> None:
    """Bit 0 is the top; all 32 bits are kept however small the window; more than 32 cannot be had."""
    info = StateInfo(dst="192.0.2.1", replay_window=8)
    window = make_window(info)
    for number in (1, 2, 9, 20, 24):
        window.commit(number, 0)
    assert export(info, window, Sequence(3)) == Replay(oseq=3, seq=24, bitmap=0b0001_0001)
    for number in (25, 32, 33):
        window.commit(number, 0)
    assert export(info, window, Sequence()).bitmap == sum(1 << 33 - n for n in (33, 32, 25, 24, 20))
    assert make_window(StateInfo(dst="192.0.2.1", replay_window=200)).size == 32


@pytest.mark.parametrize(
    ("size", "numbers", "words"),
    [
        # As captured from a kernel, lowest word first: `ip xfrm state` prints them the other way round.
        (64, [1, 200, 137], (0x180, 0)),
        (128, [1, 200, 73], (0, 0, 0x180, 0)),
        (64, [1, 3, 4], (0xD, 0)),
        (33, [33], (0, 1)),
        (4096, [1, 4096], (1, *(0,) * 126, 0x80000000)),
    ],
)
def test_rp_03_ring_bitmap(size: int, numbers: list[int], words: tuple[int, ...]) -> None:
    """Number n has bit (n - 1) mod window; with and without the esn flag."""
    for flags in (0, STATE_ESN):
        info = esn_info(size, flags=flags)
        window = make_window(info)
        for number in numbers:
            window.commit(number, window.check(number))
        shown = export(info, window, Sequence(1 << 32 | 5, esn=True))
        assert isinstance(shown, ReplayEsn)
        assert shown == ReplayEsn(words, oseq=5, oseq_hi=1, seq=max(numbers), seq_hi=0, replay_window=size)


@given(
    st.sampled_from([1, 31, 32, 33, 64, 96, 128]),
    st.integers(0, 3 * WRAP),
    st.integers(0, (1 << 128) - 1),
)
def test_what_is_exported_can_be_loaded_again(size: int, top: int, seen: int) -> None:
    seen &= (1 << size) - 1
    info = esn_info(size)
    exported = export(info, EsnWindow(size, top, seen), Sequence(top, esn=True))
    assert isinstance(exported, ReplayEsn)
    reloaded = StateInfo(dst="192.0.2.1", flags=STATE_ESN, replay_esn=exported)
    window = make_window(reloaded)
    assert (window.top, window.seen, window.size) == (top, seen, size)
    assert make_sequence(reloaded, may_wrap=False).last == top


def test_given_numbers_are_where_a_state_continues() -> None:
    info = StateInfo(dst="192.0.2.1", replay_window=32, replay=Replay(oseq=7, seq=100, bitmap=0b101))
    window, sequence = make_window(info), make_sequence(info, may_wrap=False)
    assert [take(window, number) for number in (100, 99, 98, 97)] == ["replayed", "accepted", "replayed", "accepted"]
    assert sequence.next() == 8


# Output --------------------------------------------------------------------------------------------------------------


def test_the_first_packet_carries_1() -> None:
    assert [sequence.next() for sequence in (Sequence(), Sequence(esn=True))] == [1, 1]


@pytest.mark.parametrize(("esn", "last"), [(False, TOP_32), (True, (1 << 64) - 1)])
def test_numbers_run_out_for_good(esn: bool, last: int) -> None:
    sequence = Sequence(last - 1, esn)
    assert sequence.next() == last
    for _ in range(2):
        with pytest.raises(Drop) as caught:
            sequence.next()
        assert caught.value.stat == XfrmStat.OUT_STATE_SEQ_ERROR
    assert sequence.last == last


def test_esn_goes_on_past_32_bits_and_wrapping_must_be_allowed() -> None:
    assert Sequence(TOP_32, esn=True).next() == WRAP
    assert [s.next() for s in [Sequence(TOP_32, may_wrap=True)] * 3] == [0, 1, 2]


@given(st.integers(0, 6), st.lists(st.integers(0, 4), max_size=6), st.booleans(), st.booleans())
def test_reserve_hands_out_what_next_would(room: int, counts: list[int], esn: bool, may_wrap: bool) -> None:
    last = ((1 << 64) - 1 if esn else TOP_32) - room
    bulk, single = Sequence(last, esn, may_wrap), Sequence(last, esn, may_wrap)
    for count in counts:
        first, got = bulk.reserve(count)
        assert 0 <= got <= count
        assert [first + i for i in range(got)] == [single.next() for _ in range(got)]
        assert bulk.last == single.last or not got
        if count and not got:
            with pytest.raises(Drop):
                single.next()


@given(
    size=st.integers(0, 64),
    top=st.one_of(st.integers(0, 100), st.integers(TOP_32 - 100, TOP_32)),
    hi=st.integers(0, 2),
    gaps=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    start=st.integers(-3, 40),
    esn=st.booleans(),
)
def test_a_burst_ahead_of_the_window_is_committed_at_once(
    size: int, top: int, hi: int, gaps: list[int], start: int, esn: bool
) -> None:
    """What `ahead` admits, check admits one by one, with the same upper half; `advance` leaves what commit leaves."""
    if esn:
        bulk, single = (EsnWindow(max(size, 1), hi << 32 | top) for _ in range(2))
    else:
        bulk, single = (Window(size, top) for _ in range(2))
    seqs = [max(top + start, 0)]
    for gap in gaps:
        seqs.append(seqs[-1] + gap)
    if seqs[-1] > TOP_32:
        return
    upper = bulk.ahead(seqs[0], seqs[-1])
    if upper is None:
        assert start <= 0 or seqs[-1] + size >= TOP_32, "nothing but the window and the end of the subspace is near"
        return
    for seq in seqs:
        assert single.check(seq) == upper
        single.commit(seq, upper)
    bulk.advance([upper << 32 | seq for seq in seqs])
    assert (bulk.top, bulk.seen, bulk.late, bulk.replayed) == (single.top, single.seen, 0, 0)
