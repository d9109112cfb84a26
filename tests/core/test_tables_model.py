"""SAD and SPD against the definition: what the rules say, done by walking over everything that is there."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.samples import NOW, flow, new_sad, new_spd, out_policy, policy_info, state_id, state_info, template
from tests.examples import examples
from xfrmi.core.sad import Sad
from xfrmi.core.selector import selector_match
from xfrmi.core.spd import Spd
from xfrmi.core.state import KM_ACQ, KM_VALID, State
from xfrmi.errors import Drop, XfrmError
from xfrmi.wire.flow import Flow
from xfrmi.wire.xfrm_const import Action, Dir, SaDir, XfrmStat
from xfrmi.wire.xfrm_types import Limits, Mark, PolicyId, Selector

MARKS = st.sampled_from([Mark(), Mark(), Mark(1, 1), Mark(1, 3)])
SOURCES = st.sampled_from(["192.0.2.1", "192.0.2.1", "0.0.0.0"])
SELECTORS = st.sampled_from([Selector(), Selector.parse("10.0.0.0/8"), Selector.parse("11.0.0.0/8")])
FLOWS = st.sampled_from([flow("10.0.0.1"), flow("11.0.0.1"), flow("10.0.0.1", dport=54)])

# State by state: what happens, to which SPI.
STATE_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "add", "update", "delete", "soft", "alloc", "tick"]),
        st.integers(1, 6),
        st.fixed_dictionaries(
            {
                "mark": MARKS,
                "src": SOURCES,
                "if_id": st.integers(0, 1),
                "reqid": st.integers(7, 8),
                "selector": SELECTORS,
                "pcpu": st.sampled_from([None, None, 0, 1]),
                "dir": st.just(SaDir.OUT),
                "limits": st.sampled_from([Limits(), Limits(soft_packets=0), Limits(hard_add=2)]),
            }
        ),
    ),
    max_size=30,
)


def run(sad: Sad, steps: list[tuple[str, int, dict[str, Any]]]) -> float:
    now = NOW
    for number, (verb, spi, fields) in enumerate(steps):
        now += number % 3 / 2
        with suppress(XfrmError, Drop):
            if verb == "add":
                sad.add(state_info(spi, **fields), now)
            elif verb == "update":
                sad.update(state_info(spi, **fields), now)
            elif verb == "delete":
                sad.delete(state_id(spi, mark=fields["mark"]), now)
            elif verb == "soft":
                used = sad.get(state_id(spi, mark=fields["mark"]))
                sad.aevents.used(used)
                used.check_limits(now, XfrmStat.OUT_STATE_EXPIRED)
            elif verb == "alloc":
                sad.alloc_spi(state_info(0, **fields), spi, spi, now)
            else:
                sad.tick(now)
    return now


def best_by_definition(sad: Sad, policy: Any, wanted: Any, flow_: Flow) -> State | None:
    """2.5 and 3.2, word by word; None also where a larval state is waited for."""
    newest_first = sad.dump()
    for source in (wanted.src, bytes(4)):
        of_template = [
            state
            for state in newest_first
            if (state.reqid, state.if_id, state.src, state.dst) == (wanted.reqid, policy.if_id, source, wanted.dst)
            and policy.mark.value & state.mark.mask == state.mark.value
            and (not wanted.spi or state.spi == wanted.spi)
        ]
        here = [state for state in of_template if state.info.pcpu in (None, 0)]
        valid = [s for s in here if s.km == KM_VALID and selector_match(s.selector, flow_)]
        if valid:
            return max(
                valid, key=lambda s: (s.info.pcpu is not None, not s.dying, s.add_time, -newest_first.index(s))
            )
        if any(state.km == KM_ACQ for state in of_template):
            return None
    return None


@given(STATE_STEPS, FLOWS, MARKS, st.integers(0, 1), st.integers(7, 8), st.integers(0, 6))
@settings(max_examples=examples(300), deadline=None)
def test_resolve_finds_the_best_by_definition(
    steps: list[Any], flow_: Flow, mark: Mark, if_id: int, reqid: int, spi: int
) -> None:
    sad, _ = new_sad()
    run(sad, steps)
    wanted = template(reqid=reqid, spi=spi)
    policy = out_policy(templates=(wanted,), mark=mark, if_id=if_id)
    expected = best_by_definition(sad, policy, wanted, flow_)
    try:
        found = sad.resolve(wanted, policy, flow_, NOW)
    except Drop:
        found = None
    assert found is expected


@given(STATE_STEPS, MARKS)
@settings(max_examples=examples(200), deadline=None)
def test_lookups_by_key_find_the_newest_that_fits(steps: list[Any], mark: Mark) -> None:
    sad, _ = new_sad()
    run(sad, steps)
    for spi in range(1, 7):
        fitting = [s for s in sad.dump() if s.spi == spi and mark.value & s.mark.mask == s.mark.value]
        assert sad.lookup_input(template().dst, spi, 50, mark.value) is (fitting[0] if fitting else None)


@given(STATE_STEPS)
@settings(max_examples=examples(200), deadline=None)
def test_nothing_is_left_behind(steps: list[Any]) -> None:
    sad, _ = new_sad()
    now = run(sad, steps)
    sad.flush(0, now)
    assert sad.next_deadline() is None
    assert not any(table for table in vars(sad.index).values() if isinstance(table, dict))


POLICY_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "insert", "insert", "update", "delete"]),
        st.fixed_dictionaries(
            {
                "src": st.sampled_from(["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/31", "10.0.0.1", "11.0.0.0/8"]),
                "dst": st.sampled_from(["0.0.0.0/0", "10.1.0.1/32", "10.0.0.0/7"]),
                "dport": st.sampled_from([None, None, 53]),
                "priority": st.integers(0, 2),
                "mark": MARKS,
                "if_id": st.integers(0, 1),
                "action": st.sampled_from(list(Action)),
            }
        ),
    ),
    max_size=40,
)


@given(POLICY_STEPS, FLOWS, MARKS, st.integers(0, 1))
@settings(max_examples=examples(300), deadline=None)
def test_policy_lookup_finds_lowest_priority_then_oldest(steps: list[Any], flow_: Flow, mark: Mark, if_id: int) -> None:
    spd: Spd = new_spd()[0]
    order: list[Any] = []  # policies from the oldest to the youngest; an update of equal priority keeps its place
    for verb, fields in steps:
        info = policy_info(**fields)
        place = next(
            (n for n, (identity, _) in enumerate(order) if identity == (info.selector, info.mark, info.if_id)), None
        )
        with suppress(XfrmError):
            if verb == "delete":
                spd.delete(PolicyId(info.selector, info.dir, info.if_id, 0, info.mark), NOW)
                assert place is not None
                del order[place]
                continue
            policy = spd.insert(info, NOW) if verb == "insert" else spd.update(info, NOW)
            entry = ((info.selector, info.mark, info.if_id), policy)
            if place is None:
                order.append(entry)
            elif order[place][1].priority == policy.priority:
                order[place] = entry
            else:
                del order[place]
                order.append(entry)
    matching = [
        policy
        for _, policy in order
        if policy.if_id == if_id
        and mark.value & policy.mark.mask == policy.mark.value
        and selector_match(policy.selector, flow_)
    ]
    expected = min(matching, key=lambda policy: policy.priority) if matching else None
    assert spd.lookup(Dir.OUT, if_id, flow_, mark.value) is expected
    assert set(spd.dump()) == {policy for _, policy in order}
