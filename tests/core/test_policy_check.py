"""core.policy_check: kernel-behaviour 2.6."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.core.samples import GCM, NOW, PEER, US, drops, flow, new_spd, policy_info, template
from xfrmi.core.policy_check import check_input, quoted_flow, verify_templates
from xfrmi.core.spd import Spd
from xfrmi.core.state import State
from xfrmi.wire.flow import Flow, flow_of
from xfrmi.wire.xfrm_const import (
    AF_INET,
    AF_INET6,
    IPPROTO_ICMP,
    IPPROTO_TCP,
    STATE_AF_UNSPEC,
    STATE_ICMP,
    Action,
    Default,
    Dir,
    Mode,
    PolicyType,
    XfrmStat,
)
from xfrmi.wire.xfrm_types import Algorithm, Selector, Template

FLOW = flow("10.1.0.1", "10.0.0.1")


def state(**fields: Any) -> State:
    """An inbound tunnel from PEER to US, reqid 7, if_id 42, for anything."""
    return State(**{"src": PEER, "dst": US, "spi": 0x2000, "mode": Mode.TUNNEL, "reqid": 7, "if_id": 42, "aead": GCM}
                 | fields)  # fmt: skip


def wanted(**fields: Any) -> Template:
    """The template of an inbound policy that `state` meets."""
    return template(**{"src": PEER, "dst": US} | fields)


def spd_with(*templates: Template, **fields: Any) -> Spd:
    spd, _ = new_spd()
    spd.insert(policy_info("0.0.0.0/0", **{"dir": Dir.IN, "if_id": 42, "templates": templates} | fields), NOW)
    return spd


def check(spd: Spd, *secpath: State, direction: int = Dir.IN, if_id: int = 42, flow_: Flow = FLOW, **more: Any) -> Any:
    return check_input(spd, direction, if_id, flow_, secpath, 0, NOW, **more)


TUNNEL = state()
TRANSPORT = state(mode=Mode.TRANSPORT, spi=0x2001)


def test_the_usual_case_is_let_in_and_marks_the_policy_as_used() -> None:
    spd = spd_with(wanted())
    (policy,) = spd.dump()
    assert check(spd, TUNNEL) is policy
    assert policy.use_time == int(NOW)


def test_IN_01_the_selector_of_every_state_has_to_match() -> None:
    narrow = state(selector=Selector.parse("10.1.0.0/16", "10.0.0.0/16", proto=IPPROTO_TCP))
    spd = spd_with(wanted())
    assert check(spd, narrow, flow_=FLOW._replace(proto=IPPROTO_TCP)) is not None
    with drops(XfrmStat.IN_STATE_MISMATCH):
        check(spd, narrow)
    with drops(XfrmStat.IN_STATE_MISMATCH):
        check(spd, narrow, TUNNEL, flow_=FLOW)


def test_IN_01_flag_icmp_lets_errors_about_the_flow_pass() -> None:
    unreachable = flow("10.5.5.5", "10.0.0.1", IPPROTO_ICMP, 3, 1)
    quoted = flow("10.1.0.1", "10.0.0.1", IPPROTO_TCP)
    selector = Selector.parse("10.1.0.0/16", "10.0.0.0/16", proto=IPPROTO_TCP)
    spd = spd_with(wanted())
    assert check(spd, state(selector=selector, flags=STATE_ICMP), flow_=unreachable, quoted=quoted) is not None
    refused = [
        (state(selector=selector), unreachable, quoted),
        (state(selector=selector, flags=STATE_ICMP), unreachable, None),
        (state(selector=selector, flags=STATE_ICMP), unreachable._replace(sport=8), quoted),
        (state(selector=selector, flags=STATE_ICMP), unreachable, quoted._replace(saddr=bytes(4))),
    ]
    for state_, flow_, quoted_ in refused:
        with drops(XfrmStat.IN_STATE_MISMATCH):
            check(spd, state_, flow_=flow_, quoted=quoted_)


@pytest.mark.parametrize("secpath", [(), (TUNNEL,), (TRANSPORT,)], ids=str)
def test_IN_02_no_policy_and_default_block(secpath: tuple[State, ...]) -> None:
    spd, _ = new_spd()
    spd.set_default(Default.BLOCK, 0, 0)
    with drops(XfrmStat.IN_NO_POLS):
        check(spd, *secpath)


def test_IN_02_the_default_is_that_of_the_direction() -> None:
    spd, _ = new_spd()
    spd.set_default(Default.BLOCK, 0, 0)
    assert check(spd, direction=Dir.FWD) is None


def test_IN_03_plaintext_without_policy_is_accepted() -> None:
    """IN-17: the kernel does not even look."""
    assert check(new_spd()[0]) is None


@pytest.mark.parametrize("mode", [Mode.TUNNEL, Mode.BEET])
def test_IN_04_a_tunnel_without_policy_is_not(mode: Mode) -> None:
    tunnel = state(mode=mode, selector=Selector.parse("10.0.0.0/8", "10.0.0.0/8"))
    for secpath in ((tunnel,), (TRANSPORT, tunnel), (tunnel, TRANSPORT)):
        with drops(XfrmStat.IN_NO_POLS):
            check(new_spd()[0], *secpath)


def test_IN_05_transport_states_without_policy_are_accepted() -> None:
    assert check(new_spd()[0], TRANSPORT, TRANSPORT) is None


def test_IN_06_a_forwarded_icmp_error_uses_the_policy_of_what_it_quotes() -> None:
    spd, _ = new_spd()
    policy = spd.insert(policy_info("10.1.0.0/16", dir=Dir.FWD, if_id=42, templates=(wanted(),)), NOW)
    unreachable = flow("10.5.5.5", "10.0.0.1", IPPROTO_ICMP, 3, 1)
    quoted = flow("10.1.0.1", "10.0.0.1", IPPROTO_TCP)
    assert check(spd, TUNNEL, direction=Dir.FWD, flow_=unreachable, quoted=quoted) is policy
    for direction, flow_, quoted_ in (
        (Dir.FWD, unreachable, None),
        (Dir.FWD, unreachable._replace(sport=0), quoted),
        (Dir.IN, unreachable, quoted),
    ):
        with drops(XfrmStat.IN_NO_POLS):
            check(spd, TUNNEL, direction=direction, flow_=flow_, quoted=quoted_)


def test_IN_07_block_also_counts_as_use() -> None:
    spd = spd_with(wanted(), action=Action.BLOCK)
    with drops(XfrmStat.IN_POL_BLOCK):
        check(spd, TUNNEL)
    assert spd.dump()[0].use_time == int(NOW)


def test_IN_08_plaintext_where_a_template_is_required() -> None:
    with drops(XfrmStat.IN_TMPL_MISMATCH):
        check(spd_with(wanted()))


@pytest.mark.parametrize("mode", [Mode.TUNNEL, Mode.TRANSPORT])
def test_IN_09_plaintext_where_the_template_is_optional(mode: Mode) -> None:
    spd = spd_with(wanted(optional=1, mode=mode))
    assert check(spd) is spd.dump()[0]


def test_IN_10_a_tunnel_that_no_template_asks_for() -> None:
    with drops(XfrmStat.IN_TMPL_MISMATCH):
        check(spd_with(), TUNNEL)
    assert check(spd_with(), TRANSPORT) is not None
    assert check(spd_with()) is not None


MEETS: list[dict[str, Any]] = [
    {},
    {"spi": 0x2000},
    {"reqid": 0},
    {"src": "0.0.0.0", "dst": "0.0.0.0"},
    {"dst": "203.0.113.9"},  # of the two ends only the source is compared
    {"aalgos": 1},  # AEADs have no PF_KEY number of their own: bit 0
    {"ealgos": 0, "aalgos": 1},
]
FAILS: list[dict[str, Any]] = [
    {"proto": 51},
    {"spi": 0x2001},
    {"reqid": 8},
    {"mode": Mode.TRANSPORT},
    {"mode": Mode.BEET},
    {"src": "203.0.113.9"},
    {"aalgos": 1 << 5},
    {"calgos": 0, "aalgos": 0},
]


@pytest.mark.parametrize("fields", MEETS, ids=str)
def test_IN_11_what_meets_a_template(fields: dict[str, Any]) -> None:
    assert check(spd_with(wanted(**fields)), TUNNEL) is not None


@pytest.mark.parametrize("fields", FAILS, ids=str)
def test_IN_11_what_does_not(fields: dict[str, Any]) -> None:
    with drops(XfrmStat.IN_TMPL_MISMATCH):
        check(spd_with(wanted(**fields)), TUNNEL)


def test_IN_11_if_id_of_the_lookup_is_that_of_the_state_or_0() -> None:
    with drops(XfrmStat.IN_TMPL_MISMATCH):
        check(spd_with(wanted()), state(if_id=43))
    assert check(spd_with(wanted(), if_id=0), state(if_id=43), if_id=0) is not None


def test_IN_12_templates_are_written_in_output_order_states_lie_outermost_first() -> None:
    inner, outer = state(reqid=1), state(reqid=2)
    templates = (wanted(reqid=1), wanted(reqid=2))
    assert verify_templates(templates, [outer, inner], AF_INET, 42) == 2
    with drops(XfrmStat.IN_TMPL_MISMATCH):
        verify_templates(templates, [inner, outer], AF_INET, 42)
    with drops(XfrmStat.IN_TMPL_MISMATCH):  # an outer tunnel that nobody asks for hides the inner one
        verify_templates((wanted(reqid=1),), [outer, inner], AF_INET, 42)


def test_IN_12_transport_states_between_are_stepped_over() -> None:
    assert verify_templates((wanted(),), [TRANSPORT, TUNNEL], AF_INET, 42) == 2
    optional = wanted(mode=Mode.TRANSPORT, optional=1)
    assert verify_templates((wanted(), optional), [TRANSPORT, TUNNEL], AF_INET, 42) == 2


def test_IN_12_what_an_earlier_check_has_verified_may_be_passed_over() -> None:
    outer, inner = state(reqid=2), state(reqid=1)
    assert verify_templates((wanted(reqid=1),), [outer, inner], AF_INET, 42, verified=1) == 2


def test_IN_12_an_optional_tunnel_template_may_be_absent() -> None:
    templates = (wanted(reqid=1), wanted(reqid=2, optional=1))
    assert verify_templates(templates, [state(reqid=1)], AF_INET, 42) == 1


def test_IN_13_six_templates_are_too_many() -> None:
    five = (wanted(mode=Mode.TRANSPORT, optional=1),) * 4 + (wanted(),)
    assert check(spd_with(*five[::-1]), TUNNEL) is not None
    with drops(XfrmStat.IN_BUFFER_ERROR):
        check(spd_with(*five, wanted()), TUNNEL)


def test_IN_13_counts_those_of_sub_and_main_together() -> None:
    spd = spd_with(*(wanted(mode=Mode.TRANSPORT, optional=1),) * 3, type=PolicyType.SUB)
    spd.insert(policy_info("0.0.0.0/0", dir=Dir.IN, if_id=42, templates=(wanted(),) * 3), NOW)
    with drops(XfrmStat.IN_BUFFER_ERROR):
        check(spd, TUNNEL)


def test_SPD_23_a_sub_policy_is_joined_by_the_main_one() -> None:
    spd = spd_with(type=PolicyType.SUB)
    main = spd.insert(policy_info("0.0.0.0/0", dir=Dir.IN, if_id=42, templates=(wanted(),)), NOW)
    sub = spd.dump()[1]
    assert check(spd, TUNNEL) is sub
    assert main.use_time == sub.use_time == int(NOW)
    with drops(XfrmStat.IN_TMPL_MISMATCH):
        check(spd)
    spd.update(policy_info("0.0.0.0/0", dir=Dir.IN, if_id=42, action=Action.BLOCK), NOW)
    with drops(XfrmStat.IN_POL_BLOCK):
        check(spd, TUNNEL)


@pytest.mark.parametrize("ends", [("10.1.0.1", "10.0.0.1"), ("2001:db8::1", "2001:db8::2")], ids=["IPv4", "IPv6"])
def test_SPD_23_with_two_policies_ipv6_has_transport_mode_inside(ends: tuple[str, str]) -> None:
    """Transport mode of the main policy, a tunnel of the sub policy: which was outermost?"""
    spd = new_spd()[0]
    any_flow = "0.0.0.0/0" if "." in ends[0] else "::/0"
    for kind, mode in ((PolicyType.SUB, Mode.TUNNEL), (PolicyType.MAIN, Mode.TRANSPORT)):
        family = {} if mode == Mode.TUNNEL else {"src": ends[0], "dst": ends[1]}
        templates = (wanted(mode=mode, **family),)
        spd.insert(policy_info(any_flow, dir=Dir.IN, if_id=42, templates=templates, type=kind), NOW)
    tunnel_, transport_ = state(flags=STATE_AF_UNSPEC), state(mode=Mode.TRANSPORT, spi=0x2001, selector=Selector())
    transport_.selector = Selector()
    inner_is_transport, inner_is_tunnel = (tunnel_, transport_), (transport_, tunnel_)
    right, wrong = (inner_is_tunnel, inner_is_transport) if "." in ends[0] else (inner_is_transport, inner_is_tunnel)
    assert check(spd, *right, flow_=flow(*ends)) is not None
    with drops(XfrmStat.IN_TMPL_MISMATCH):
        check(spd, *wrong, flow_=flow(*ends))


def test_IN_14_IPv4_in_IPv6_compares_four_bytes_of_the_ends() -> None:
    spd = spd_with(wanted(src="2001:db8::1", dst="2001:db8::2"))
    similar = state(src="2001:db8:ffff::9", dst="2001:db8::2", flags=STATE_AF_UNSPEC)
    other = state(src="2001:db9::1", dst="2001:db8::2", flags=STATE_AF_UNSPEC)
    assert check(spd, similar) is not None
    with drops(XfrmStat.IN_TMPL_MISMATCH):
        check(spd, other)
    # IPv6 in IPv6 compares all of them.
    assert verify_templates((wanted(),), [TUNNEL], AF_INET6, 42) == 1
    with drops(XfrmStat.IN_TMPL_MISMATCH):
        verify_templates((wanted(src="2001:db8::1", dst="2001:db8::2"),), [similar], AF_INET6, 42)


def test_IN_15_forwarded_packets_need_fwd_policies() -> None:
    spd = spd_with(wanted())
    with drops(XfrmStat.IN_NO_POLS):
        check(spd, TUNNEL, direction=Dir.FWD)


def test_IN_16_a_policy_is_for_its_if_id_only() -> None:
    spd = spd_with(wanted(), action=Action.BLOCK)
    assert check(spd, if_id=0) is None
    assert check(spd, if_id=43) is None


def test_Q1_the_device_of_an_in_policy_is_that_of_the_route() -> None:
    spd = spd_with(wanted(), ifindex=1)
    assert check(spd, TUNNEL, ifindex=1) is not None
    with drops(XfrmStat.IN_NO_POLS):
        check(spd, TUNNEL, ifindex=5)


def test_IN_01_a_selector_of_the_other_family_covers_nothing() -> None:
    """As captured ("next header 41 with IPv6 inside, selector IPv4"), against Q18."""
    spd = spd_with(wanted())
    spd.insert(policy_info("::/0", dir=Dir.IN, if_id=42, templates=(wanted(),)), NOW)
    assert TUNNEL.selector.family == AF_INET
    with drops(XfrmStat.IN_STATE_MISMATCH):
        check(spd, TUNNEL, flow_=flow("::1", "::2"))
    assert check(spd, state(flags=STATE_AF_UNSPEC), flow_=flow("::1", "::2")) is not None


def test_the_algorithm_mask_knows_the_pf_key_numbers() -> None:
    tunnel = state()
    tunnel.info = replace(tunnel.info, aead=None, auth=Algorithm("hmac(sha256)", bytes(32)))
    assert verify_templates((wanted(aalgos=1 << 5),), [tunnel], AF_INET, 42) == 1
    with drops(XfrmStat.IN_TMPL_MISMATCH):
        verify_templates((wanted(aalgos=1 << 3),), [tunnel], AF_INET, 42)


# What ICMP errors quote

UDP = bytes.fromhex("4500001c000000004011000001020304050607080d80003500080000")
UNREACHABLE = bytes.fromhex("450000380000000040010000090909090102030403010000000000 00".replace(" ", "")) + UDP


def test_a_quoted_flow_is_turned_round() -> None:
    assert flow_of(UDP) == flow("1.2.3.4", "5.6.7.8", 17, 0x0D80, 53)
    assert quoted_flow(UNREACHABLE) == flow("5.6.7.8", "1.2.3.4", 17, 53, 0x0D80)


def test_a_quoted_echo_keeps_type_and_code() -> None:
    echo = UDP[:9] + b"\x01" + UDP[10:20] + b"\x08\x00" + bytes(6)
    assert quoted_flow(UNREACHABLE[:28] + echo) == flow("5.6.7.8", "1.2.3.4", IPPROTO_ICMP, 8, 0)


@pytest.mark.parametrize("length", [0, 1, 20, 27, 28, 40, 47])
def test_a_quote_that_is_cut_short_is_no_flow(length: int) -> None:
    assert quoted_flow(UNREACHABLE[:length]) is None
