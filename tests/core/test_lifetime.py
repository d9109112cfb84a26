"""core.lifetime: limits in seconds (LT-05, LT-06)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xfrmi.core.lifetime import check_times
from xfrmi.core.state import KM_ACQ, KM_DEAD, KM_EXPIRED, State
from xfrmi.wire.xfrm_const import Mode
from xfrmi.wire.xfrm_types import Algorithm, Limits, StateInfo

START = 1_700_000_000
GCM = Algorithm("rfc4106(gcm(aes))", bytes(20), 128)


def watched(**limits: int) -> tuple[State, list[bool]]:
    info = StateInfo(src="192.0.2.1", dst="192.0.2.2", mode=Mode.TUNNEL, aead=GCM, limits=Limits(**limits))
    state, told = State(info, now=START), list[bool]()
    state.on_limit = lambda _, hard: told.append(hard)
    return state, told


def test_lt_05_no_limits_no_deadline() -> None:
    assert check_times(watched()[0], START) is None


def test_lt_05_from_addition() -> None:
    state, told = watched(soft_add=60, hard_add=100)
    assert check_times(state, START) == START + 60
    assert check_times(state, START + 59.5) == START + 60 and told == []
    assert check_times(state, START + 60) == START + 100 and told == [False] and state.dying
    assert check_times(state, START + 99.9) == START + 100 and told == [False]
    assert check_times(state, START + 100) is None and told == [False, True] and state.km == KM_EXPIRED


def test_lt_05_from_first_use_and_unused_states_wait() -> None:
    state, told = watched(soft_use=60, hard_use=100)
    assert check_times(state, START) == START + 60
    assert check_times(state, START + 60) == START + 120 and told == []
    state.use_time = START + 110
    assert check_times(state, START + 120) == START + 170
    assert check_times(state, START + 170) == START + 210 and told == [False]
    assert check_times(state, START + 210) is None and told == [False, True]


def test_the_earlier_of_two_kinds() -> None:
    state, told = watched(hard_add=100, hard_use=30)
    state.use_time = START + 80
    assert check_times(state, START + 80) == START + 100
    state.use_time = START + 40
    assert check_times(state, START + 80) is None and told == [True]


def test_lt_06_a_clock_set_forward_does_not_skip_the_soft_limit() -> None:
    state, told = watched(soft_add=60, hard_add=100)
    check_times(state, START)
    later = START + 1_000_000
    assert check_times(state, later) == later + 40
    assert told == [False] and state.dying
    assert check_times(state, later + 40) is None and told == [False, True]


def test_lt_06_a_state_already_dying_expires_on_time() -> None:
    """Dying for another reason, it never looks at the soft time limit again: that must not hold up the hard one."""
    state, told = watched(soft_add=60, hard_add=100)
    check_times(state, START)
    state.dying = True
    assert check_times(state, START + 100) is None and told == [True]


def test_equal_limits_are_hard() -> None:
    state, told = watched(soft_add=60, hard_add=60)
    assert check_times(state, START) == START + 60
    assert check_times(state, START + 60) is None and told == [True]


def test_an_update_lets_it_live_again() -> None:
    state, told = watched(soft_add=60)
    assert check_times(state, START + 60) is None and told == [False]
    state.update(StateInfo(dst="192.0.2.2", limits=Limits(soft_add=90)))
    assert check_times(state, START + 61) == START + 90
    assert check_times(state, START + 90) is None and told == [False, False]


def test_larval_states_expire_and_dead_ones_do_not_again() -> None:
    larval = State(StateInfo(dst="192.0.2.2", limits=Limits(hard_add=30)), km=KM_ACQ, now=START)
    assert check_times(larval, START) == START + 30
    assert check_times(larval, START + 30) is None and larval.km == KM_EXPIRED
    for km in (KM_EXPIRED, KM_DEAD):
        state, told = watched(hard_add=1)
        state.km = km
        assert check_times(state, START + 5) is None and told == []


@given(
    st.fixed_dictionaries({name: st.integers(0, 50) for name in ("soft_add", "hard_add", "soft_use", "hard_use")}),
    st.one_of(st.just(0), st.integers(1, 60)),
)
def test_asked_whenever_told_it_tells_each_once_and_in_time(limits: dict[str, int], used_after: int) -> None:
    state, _ = watched(**limits)
    moments: list[tuple[bool, float]] = []
    now: float = START
    state.on_limit = lambda _, hard: moments.append((hard, now))
    for _ in range(300):
        if used_after and now >= START + used_after and not state.use_time:
            state.use_time = START + used_after
        deadline = check_times(state, now)
        if deadline is None:
            break
        assert deadline > now
        now = deadline
        if now > START + 500:
            break
    kinds = [hard for hard, _ in moments]
    assert kinds in ([], [False], [True], [False, True])
    if limits["hard_add"]:
        assert kinds[-1:] == [True] and moments[-1][1] <= START + limits["hard_add"]
