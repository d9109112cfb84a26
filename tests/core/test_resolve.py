"""core.resolve and Sad.resolve: from a template to a state, and acquires (kernel-behaviour 2.5, 3.2, 3.6, 7.6)."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.core.samples import (
    NOW,
    PEER,
    US,
    Log,
    drops,
    fails,
    flow,
    new_sad,
    out_policy,
    state_id,
    state_info,
    template,
)
from xfrmi.core import events, resolve
from xfrmi.core.sad import Sad
from xfrmi.core.state import KM_ACQ, KM_VALID, State
from xfrmi.wire.address import pack_address
from xfrmi.wire.xfrm_const import (
    AF_INET,
    AF_INET6,
    IPPROTO_UDP,
    POLICY_CPU_ACQUIRE,
    STATE_AF_UNSPEC,
    STATE_WILDRECV,
    Mode,
    SaDir,
    XfrmStat,
)
from xfrmi.wire.xfrm_types import Limits, Mark, PolicyInfo, Selector, Template

FLOW = flow()
NONE = XfrmStat.OUT_NO_STATES


def find(sad: Sad, now: float = NOW, flow_: Any = FLOW, policy: dict[str, Any] | None = None, **fields: Any) -> Any:
    """Resolve the one template of a policy."""
    ends = {name: fields.pop(name) for name in ("src_", "dst_", "ifindex") if name in fields}
    wanted = template(**fields)
    options = {name.rstrip("_"): value for name, value in ends.items()}
    return sad.resolve(wanted, out_policy(templates=(wanted,), **policy or {}), flow_, now, **options)


# What fits (2.5)


def test_the_state_of_a_template() -> None:
    sad, log = new_sad()
    state = sad.add(state_info(), NOW)
    assert find(sad) is state
    assert log == [events.StateAdded(state.snapshot())]


@pytest.mark.parametrize(
    "difference",
    [
        {"reqid": 0},  # on output 0 is a value, not a wildcard
        {"reqid": 8},
        {"spi": 0x1001},
        {"mode": Mode.BEET},
        {"proto": 51},
        {"dst": "192.0.2.3"},
        {"src": "192.0.2.3"},
        {"policy": {"if_id": 42}},
    ],
    ids=str,
)
def test_2_5_what_has_to_be_equal(difference: dict[str, Any]) -> None:
    sad, _ = new_sad()
    sad.add(state_info(), NOW)
    with drops(NONE):
        find(sad, **difference)


@pytest.mark.parametrize("difference", [{"spi": 0x1000}, {"aalgos": 0}, {"ealgos": 0}], ids=str)
def test_2_5_what_may_be_said_or_is_not_asked(difference: dict[str, Any]) -> None:
    sad, _ = new_sad()
    state = sad.add(state_info(), NOW)
    assert find(sad, **difference) is state


def test_if_id_is_part_of_the_output_match() -> None:
    sad, _ = new_sad()
    states = {if_id: sad.add(state_info(0x100 + if_id, if_id=if_id), NOW) for if_id in range(3)}
    for if_id, state in states.items():
        assert find(sad, policy={"if_id": if_id}) is state
    with drops(NONE):
        find(sad, policy={"if_id": 3})


def test_an_update_of_the_if_id_moves_the_state() -> None:
    sad, _ = new_sad()
    state = sad.add(state_info(if_id=1), NOW)
    sad.update(state_info(if_id=2), NOW)
    assert find(sad, policy={"if_id": 2}) is state
    with drops(NONE):
        find(sad, policy={"if_id": 1})


def test_a_state_without_source_comes_second() -> None:
    sad, _ = new_sad()
    exact = sad.add(state_info(1), NOW)
    wild = sad.add(state_info(2, src="0.0.0.0"), NOW + 10)
    assert find(sad) is exact
    assert find(sad, src="203.0.113.1") is wild
    sad.delete(state_id(1), NOW)
    assert find(sad) is wild


def test_wildrecv_states_are_never_chosen() -> None:
    sad, _ = new_sad()
    sad.add(state_info(flags=STATE_WILDRECV), NOW)
    with drops(NONE):
        find(sad)


@pytest.mark.parametrize(
    ("state_mark", "policy_mark", "fits"),
    [
        (Mark(), Mark(5, 0xFF), True),
        (Mark(5, 0xF), Mark(5, 0xFF), True),
        (Mark(5, 0xFF), Mark(5, 0xFF), True),
        (Mark(5, 0xFF), Mark(), False),
        (Mark(6, 0xFF), Mark(5, 0xFF), False),
    ],
)
def test_2_5_the_mark_of_the_policy_selects(state_mark: Mark, policy_mark: Mark, fits: bool) -> None:
    sad, _ = new_sad()
    state = sad.add(state_info(mark=state_mark), NOW)
    if fits:
        assert find(sad, policy={"mark": policy_mark}) is state
    else:
        with drops(NONE):
            find(sad, policy={"mark": policy_mark})


def test_2_5_the_selector_of_the_state_has_to_match_the_flow() -> None:
    sad, _ = new_sad()
    wide = sad.add(state_info(1), NOW)
    narrow = sad.add(state_info(2, selector=Selector.parse("10.0.0.0/8", proto=IPPROTO_UDP, dport=53)), NOW + 1)
    by_device = sad.add(state_info(3, selector=Selector.parse("10.0.0.0/8", ifindex=4)), NOW + 2)
    assert find(sad) is narrow
    assert find(sad, flow_=flow(dport=54)) is wide
    assert find(sad, ifindex=4) is by_device


def test_2_5_a_tunnel_state_carries_its_own_family_only_unless_af_unspec() -> None:
    sad, _ = new_sad()
    sad.add(state_info(1), NOW)
    inner6 = flow("2001:db8::1", "2001:db8::2")
    with drops(NONE):
        find(sad, flow_=inner6)
    both = sad.add(state_info(2, flags=STATE_AF_UNSPEC), NOW)
    assert find(sad, flow_=inner6) is both
    assert find(sad) is both


# Which ends


def test_transport_templates_take_the_addresses_of_the_packet() -> None:
    sad, _ = new_sad()
    state = sad.add(state_info(mode=Mode.TRANSPORT), NOW)
    assert find(sad, mode=Mode.TRANSPORT, flow_=flow(US, PEER)) is state
    with drops(NONE):
        find(sad, mode=Mode.TRANSPORT)
    # Within a tunnel that an earlier template has put around the packet they are the tunnel's (OUT-08); the selector
    # goes on seeing the flow.
    sad.delete(state_id(), NOW)
    state = sad.add(state_info(mode=Mode.TRANSPORT, selector=Selector.parse("10.0.0.0/8")), NOW)
    assert find(sad, mode=Mode.TRANSPORT, src_=pack_address(US), dst_=pack_address(PEER)) is state


def test_OUT_09_a_tunnel_template_without_source_takes_the_hosts() -> None:
    sad, _ = new_sad()
    state = sad.add(state_info(), NOW)
    assert find(sad, src="0.0.0.0", src_=pack_address(US)) is state
    with drops(NONE):
        find(sad, src="0.0.0.0")
    with drops(NONE):
        find(sad, src="0.0.0.0", src_=pack_address("203.0.113.1"))


# Which of several (3.2)


def test_3_2_the_larger_add_time_wins_whatever_the_order_of_insertion() -> None:
    for order in itertools.permutations((1, 2, 3)):
        sad, _ = new_sad()
        states = {age: sad.add(state_info(age), NOW + age) for age in order}
        assert find(sad) is states[3]
        sad.delete(state_id(3), NOW)
        assert find(sad) is states[2]


def test_3_2_within_a_second_the_last_inserted_wins() -> None:
    sad, _ = new_sad()
    sad.add(state_info(1), NOW + 0.4)
    last = sad.add(state_info(2), NOW)
    assert find(sad) is last


def test_3_2_not_dying_beats_dying_beats_nothing() -> None:
    sad, _ = new_sad()
    old = sad.add(state_info(1), NOW)
    new = sad.add(state_info(2, limits=Limits(soft_packets=1)), NOW + 9)
    new.packets = 1
    assert find(sad) is new
    new.check_limits(NOW, XfrmStat.OUT_STATE_EXPIRED)
    assert find(sad) is old
    sad.delete(state_id(1), NOW)
    assert find(sad) is new
    sad.add(state_info(3), NOW - 100)
    sad.update(state_info(2, limits=Limits(soft_packets=9)), NOW)
    assert find(sad) is new


def test_3_2_a_dying_exact_state_beats_one_without_source() -> None:
    sad, _ = new_sad()
    state = sad.add(state_info(1, limits=Limits(soft_packets=0)), NOW)
    sad.add(state_info(2, src="0.0.0.0"), NOW)
    state.check_limits(NOW, XfrmStat.OUT_STATE_EXPIRED)
    assert find(sad) is state


def test_3_2_a_fixed_spi_chooses_among_marks_by_the_same_rule() -> None:
    sad, _ = new_sad()
    marked = sad.add(state_info(mark=Mark(5, 0xFF)), NOW)
    plain = sad.add(state_info(), NOW - 5)
    assert sad.get(state_id(mark=Mark(5, 0xFF))) is plain  # a request finds the last inserted
    assert find(sad, spi=0x1000, policy={"mark": Mark(5, 0xFF)}) is marked  # a template the youngest


@pytest.mark.parametrize("spi", [0, 2], ids=["any spi", "a fixed spi"])
def test_a_state_for_this_processor_is_preferred_and_one_for_another_is_none(spi: int) -> None:
    sad, _ = new_sad(cpu=3)
    for_all = sad.add(state_info(1), NOW + 5)
    assert find(sad) is for_all
    sad.add(state_info(3, pcpu=0, dir=SaDir.OUT), NOW + 6)
    assert find(sad) is for_all
    own = sad.add(state_info(2, pcpu=3, dir=SaDir.OUT, limits=Limits(soft_packets=0)), NOW)
    assert find(sad, spi=spi) is own
    own.check_limits(NOW, XfrmStat.OUT_STATE_EXPIRED)
    assert own.dying and find(sad, spi=spi) is own
    sad.delete(state_id(2), NOW)
    assert find(sad) is for_all


def test_without_a_state_for_all_other_processors_states_are_none() -> None:
    sad, _ = new_sad(cpu=1)
    sad.add(state_info(2, pcpu=0, dir=SaDir.OUT), NOW)
    with drops(NONE):
        find(sad)


def test_among_states_for_this_processor_the_usual_order_holds() -> None:
    sad, _ = new_sad(cpu=1)
    old = sad.add(state_info(1, pcpu=1, dir=SaDir.OUT), NOW)
    young = sad.add(state_info(2, pcpu=1, dir=SaDir.OUT, selector=Selector.parse("10.0.0.0/8")), NOW + 1)
    assert find(sad) is young
    assert find(sad, flow_=flow("11.0.0.1")) is old


@pytest.mark.parametrize("number", [4, 0xFFFFFFFF])
def test_3_8_there_has_to_be_such_a_processor(number: int) -> None:
    sad, log = new_sad(cpus=lambda: 4)
    sad.add(state_info(1, pcpu=3, dir=SaDir.OUT), NOW)
    log.take()
    refused = state_info(2, pcpu=number, dir=SaDir.OUT)
    with fails(errno.ERANGE, "pCPU number too big"):
        sad.add(refused, NOW)
    with fails(errno.ERANGE, "pCPU number too big"):
        sad.update(refused, NOW)
    with fails(errno.EINVAL, "pCPU number too big"):
        sad.alloc_spi(replace(refused, spi=0), 1, 9, NOW)
    assert (len(sad), log) == (1, [])


# What goes wrong


def test_3_6_an_inbound_state_that_is_the_best_is_an_error() -> None:
    sad, _ = new_sad()
    sad.add(state_info(1), NOW)
    sad.add(state_info(2, dir=SaDir.IN), NOW + 1)
    for optional in (0, 1):
        with drops(XfrmStat.OUT_STATE_DIR_ERROR):
            find(sad, optional=optional)


def test_a_fixed_spi_whose_state_does_not_fit_is_a_policy_error() -> None:
    sad, log = new_sad()
    sad.acquire_listeners = 1
    sad.add(state_info(), NOW)
    log.take()
    with drops(XfrmStat.OUT_POL_ERROR):
        find(sad, spi=0x1000, reqid=8)
    assert find(sad, spi=0x1000, reqid=8, optional=1) is None
    assert log == []


def test_OUT_10_an_optional_template_is_skipped() -> None:
    sad, log = new_sad()
    assert find(sad, optional=1) is None
    sad.acquire_listeners = 1
    assert find(sad, optional=1) is None  # but negotiated all the same
    assert [type(event) for event in log] == [events.Acquire]
    assert find(sad, optional=1) is None
    state = sad.add(state_info(), NOW)
    assert find(sad, optional=1) is state


# Acquire (7.6)


def listening() -> tuple[Sad, Log]:
    sad, log = new_sad()
    sad.acquire_listeners = 1
    return sad, log


def test_7_6_without_listeners_nothing_is_made() -> None:
    sad, log = new_sad()
    with drops(NONE):
        find(sad)
    assert (len(sad), log) == (0, [])


def test_7_6_a_listener_gets_a_larval_state_and_an_acquire() -> None:
    sad, log = listening()
    policy = out_policy(if_id=42, mark=Mark(5, 0xFF))
    with drops(NONE):
        sad.resolve(policy.templates[0], policy, FLOW, NOW, ifindex=3)
    (larval,) = sad.dump()
    assert (larval.km, larval.spi, larval.reqid, larval.mode, larval.if_id) == (KM_ACQ, 0, 7, Mode.TUNNEL, 42)
    assert (larval.src, larval.dst) == (pack_address(US), pack_address(PEER))
    assert (larval.mark, larval.dir, larval.seq) == (Mark(5, 0xFF), SaDir.OUT, 1)
    assert larval.selector == Selector(
        AF_INET, FLOW.saddr, 32, FLOW.daddr, 32, FLOW.proto, FLOW.sport, 0xFFFF, FLOW.dport, 0xFFFF, 3
    )
    assert larval.info.limits == Limits(hard_add=30)
    assert log == [events.Acquire(larval.snapshot(), policy.templates[0], policy.snapshot())]


CPU_ACQUIRE = {"flags": POLICY_CPU_ACQUIRE}


def test_each_processor_acquires_a_state_of_its_own_and_uses_the_one_for_all_meanwhile() -> None:
    sad, log = new_sad(cpu=2)
    sad.acquire_listeners = 1
    for_all = sad.add(state_info(1), NOW)
    log.take()
    assert find(sad) is for_all and log == []  # nobody has asked for more
    assert find(sad, policy=CPU_ACQUIRE) is for_all
    assert find(sad, policy=CPU_ACQUIRE) is for_all
    (acquire,) = log.take()
    assert isinstance(acquire, events.Acquire) and acquire.state.pcpu == 2 and acquire.state.seq == 1
    larval, _ = sad.dump()
    assert (larval.km, larval.info.pcpu) == (KM_ACQ, 2)
    own = sad.add(state_info(2, pcpu=2, dir=SaDir.OUT, seq=1), NOW)
    assert sad.dump() == [own, for_all]
    log.take()
    assert find(sad, policy=CPU_ACQUIRE) is own and log == []


def test_the_first_state_is_acquired_for_all_processors() -> None:
    sad, log = new_sad(cpu=2)
    sad.acquire_listeners = 1
    with drops(NONE):
        find(sad, policy=CPU_ACQUIRE)
    (acquire,) = log
    assert isinstance(acquire, events.Acquire) and acquire.state.pcpu is None


def test_a_negotiation_for_another_processor_is_not_ours() -> None:
    sad, log = new_sad(cpu=2)
    sad.acquire_listeners = 1
    for_all = sad.add(state_info(1), NOW)
    sad.alloc_spi(state_info(0, pcpu=1), 0x100, 0x1FF, NOW)
    log.take()
    assert find(sad, policy=CPU_ACQUIRE) is for_all
    assert len(log) == 1


def test_without_a_listener_the_state_for_all_serves() -> None:
    sad, log = new_sad()
    for_all = sad.add(state_info(1), NOW)
    log.take()
    assert find(sad, policy=CPU_ACQUIRE) is for_all and log == [] and len(sad) == 1


def test_7_6_one_acquire_while_the_larval_state_lives() -> None:
    sad, log = listening()
    for flow_ in (FLOW, FLOW, flow(dport=99), flow("10.7.7.7")):
        with drops(NONE):
            find(sad, flow_=flow_)
    assert [type(event) for event in log.take()] == [events.Acquire]
    sad.tick(NOW + 30)
    assert [type(event) for event in log.take()] == [events.StateExpired]
    with drops(NONE):
        find(sad, NOW + 31)
    (event,) = log
    assert isinstance(event, events.Acquire)
    assert event.state.seq == 2


@pytest.mark.parametrize(
    "difference", [{"reqid": 8}, {"dst": "192.0.2.3"}, {"policy": {"if_id": 1}}, {"spi": 0x77}], ids=str
)
def test_7_6_another_template_is_another_negotiation(difference: dict[str, Any]) -> None:
    sad, log = listening()
    with drops(NONE):
        find(sad)
    with drops(NONE):
        find(sad, **difference)
    assert [type(event) for event in log] == [events.Acquire] * 2


def test_7_6_a_larval_state_with_an_spi_is_waited_for_too() -> None:
    sad, log = listening()
    sad.alloc_spi(state_info(0), 0x100, 0x100, NOW)
    for spi in (0, 0x100):
        with drops(NONE):
            find(sad, spi=spi)
    assert log == []
    with drops(NONE):
        find(sad, spi=0x101)
    assert len(log) == 1


def test_7_6_the_seq_of_the_acquire_ties_the_answer_to_it() -> None:
    sad, log = listening()
    with drops(NONE):
        find(sad)
    (acquire,) = log.take()
    assert isinstance(acquire, events.Acquire)
    # The daemon chose another reqid; the seq alone tells what this answers.
    state = sad.add(state_info(reqid=99, seq=acquire.state.seq), NOW)
    assert sad.dump() == [state]


def test_7_6_a_seq_of_another_destination_answers_nothing() -> None:
    sad, _ = listening()
    with drops(NONE):
        find(sad)
    sad.add(state_info(dst="192.0.2.3", seq=1), NOW)
    assert len(sad) == 2


def test_7_6_alloc_spi_with_the_seq_completes_the_acquired_state() -> None:
    sad, _ = listening()
    with drops(NONE):
        find(sad)
    larval = sad.alloc_spi(state_info(0, seq=1, reqid=99), 0x100, 0x1FF, NOW)
    assert (sad.dump(), larval.spi, larval.reqid) == ([larval], 0x100, 7)
    assert sad.alloc_spi(state_info(0, seq=1), 0x200, 0x2FF, NOW) is larval
    assert larval.spi == 0x100


def test_a_listener_may_answer_at_once() -> None:
    sad, log = listening()

    def answer(event: events.Event) -> None:
        log(event)
        if isinstance(event, events.Acquire):
            sad.add(state_info(seq=event.state.seq), NOW)

    sad._emit = answer
    with drops(NONE):
        find(sad)
    assert find(sad).spi == 0x1000
    assert len(sad) == 1


def test_transport_acquires_name_the_packets_addresses() -> None:
    sad, log = listening()
    wanted = Template(mode=Mode.TRANSPORT, reqid=7)
    policy = out_policy(templates=(wanted,))
    with drops(NONE):
        sad.resolve(wanted, policy, FLOW, NOW)
    (acquire,) = log
    assert isinstance(acquire, events.Acquire)
    assert (acquire.state.src, acquire.state.dst) == (FLOW.saddr, FLOW.daddr)


def test_acquires_of_ipv6_in_ipv4() -> None:
    sad, log = listening()
    inner = flow("2001:db8::1", "2001:db8::2")
    with drops(NONE):
        find(sad, flow_=inner)
    (acquire,) = log
    assert isinstance(acquire, events.Acquire)
    assert (acquire.state.family, acquire.state.selector.family) == (AF_INET, AF_INET6)
    assert acquire.state.selector.prefixlen_s == 128
    assert isinstance(acquire.policy, PolicyInfo)


# Size


@pytest.fixture
def visits(monkeypatch: pytest.MonkeyPatch) -> list[State]:
    """The states that resolving has looked at."""
    looked_at: list[State] = []
    original = resolve._fits

    def fits(state: State, *arguments: Any) -> bool:
        looked_at.append(state)
        return original(state, *arguments)

    monkeypatch.setattr(resolve, "_fits", fits)
    return looked_at


def bare_states(count: int, **differences: Any) -> Iterator[State]:
    """Many states for little: without transform. `differences` map a number to a value."""
    for number in range(count):
        state = State(state_info(), km=KM_ACQ)
        state.km = KM_VALID
        state.spi = number + 1
        for name, value in differences.items():
            setattr(state, name, value(number))
        yield state


def test_4000_states_of_as_many_if_ids_cost_one_look(visits: list[State]) -> None:
    sad, _ = new_sad()
    states = list(bare_states(4000, if_id=lambda number: number))
    for state in states:
        sad.add(state, NOW)
    for number in (0, 2000, 3999):
        assert find(sad, policy={"if_id": number}) is states[number]
    assert len(visits) == 3
    with drops(NONE):
        find(sad, policy={"if_id": 4000})
    assert len(visits) == 3


def test_4000_states_that_differ_in_spi_only_cost_one_look(visits: list[State]) -> None:
    sad, _ = new_sad()
    states = list(bare_states(4000))
    for state in states:
        sad.add(state, NOW)
    assert find(sad) is states[-1]
    assert find(sad, spi=5) is states[4]
    assert len(visits) == 2
    assert sad.flush(0, NOW) == 4000
    assert sad.counts().count == 0
