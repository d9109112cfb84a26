"""`policy` commands beyond what iproute2 6.1 can judge (test_iproute2), and what is deliberately ours."""

from __future__ import annotations

from typing import Any

import pytest

from tests.each import each
from xfrmi.formats.grammar import parse, split_line
from xfrmi.formats.requests import (
    AddPolicy,
    CountPolicies,
    DeletePolicies,
    DeletePolicy,
    FlushPolicies,
    GetDefaults,
    GetPolicy,
    ListPolicies,
    PolicyFilter,
    SetDefaults,
    SetThresholds,
)
from xfrmi.formats.tokens import GrammarError
from xfrmi.wire.address import pack_address
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6, Action, Dir, Mode, PolicyType
from xfrmi.wire.xfrm_info_msg import Defaults, Thresholds
from xfrmi.wire.xfrm_types import PolicyInfo, Selector, Template


def request(line: str, **options: Any) -> Any:
    return parse(split_line(f"policy {line}"), ifindex_of={"eth0": 2}.get, **options)


def refusal(line: str) -> GrammarError:
    with pytest.raises(GrammarError) as refused:
        request(line)
    return refused.value


def test_the_policy_of_the_house() -> None:
    tmpl = "tmpl src 192.0.2.1 dst 192.0.2.2 proto esp reqid 7 mode tunnel"
    assert request(f"add src 0.0.0.0/0 dst 0.0.0.0/0 dir out if_id 42 {tmpl}") == AddPolicy(
        PolicyInfo(
            Selector.parse("0.0.0.0/0", "0.0.0.0/0"), Dir.OUT, 42,
            (Template("192.0.2.1", "192.0.2.2", reqid=7, mode=Mode.TUNNEL),),
        )
    )  # fmt: skip


def test_a_template_before_the_selector_leaves_its_family_free() -> None:
    """ip takes the template's family for the selector's and refuses this line."""
    info = request("add dir out tmpl src 192.0.2.1 dst 192.0.2.2 proto esp mode tunnel priority 5 src ::/0").info
    assert (info.selector.family, info.templates[0].family) == (AF_INET6, AF_INET)


def test_a_template_without_addresses_is_of_the_policys_family() -> None:
    """7.4: template family 0 is taken as the policy family."""
    [template] = request("add dir out tmpl proto esp mode transport priority 1 src 2001:db8::/32").info.templates
    assert (template.family, template.src) == (AF_INET6, bytes(16))


def test_many_templates() -> None:
    sixteen = "add dir out " + "tmpl proto esp " * 16
    assert len(request(sixteen).info.templates) == 16
    error = refusal(sixteen + "tmpl proto esp")
    assert (error.text, error.exit_code) == ("Too many tmpls: buffer overflow", 1)


def test_abbreviated_verbs() -> None:
    assert request("u dir in").update
    assert isinstance(request("d dir in src ::1"), DeletePolicy)
    assert isinstance(request("g dir in index 8"), GetPolicy)
    assert isinstance(request("deletea"), DeletePolicies)
    for line in ("", "l", "s", "sh"):
        assert isinstance(request(line), ListPolicies)
    assert request("f") == FlushPolicies()
    assert request("f ptype sub") == FlushPolicies(PolicyType.SUB)
    assert request("c") == CountPolicies()
    assert request("se") == SetThresholds(Thresholds())
    assert request("set hthresh6 96 64") == SetThresholds(Thresholds(ipv6=(96, 64)))
    assert request("setd out block") == SetDefaults(Defaults(output=1))
    assert request("getd") == GetDefaults()


def test_errors_say_what_would_be_right() -> None:
    assert refusal("add dri out").hint == 'Word 3: did you mean "dir"?'
    assert refusal("add dir out src ::/0 mark 5 dst ::/0").hint == "Word 9: a policy has one selector, in one piece."
    assert refusal("add dir out tmpl proto esp level must").hint == "Word 9: one of required, use goes here."
    assert refusal("help").text.startswith("Usage: xfrmi policy { add | update } dir DIR")


def test_filter() -> None:
    made = request("list nosock src 10.0.0.0/8 proto tcp dport 80 dev eth0 dir in ptype main action block index 8")
    assert made.nosock
    assert made.filter == PolicyFilter(
        src=pack_address("10.0.0.0"), src_bits=8, proto=6, dport=80, ifindex=2, dir=Dir.IN, type=PolicyType.MAIN,
        action=Action.BLOCK, index=8,
    )  # fmt: skip


INFO = PolicyInfo(Selector.parse("10.0.0.0/8", "10.1.0.0/16", proto=6, dport=80), Dir.IN, priority=9, index=8, flags=1)


@each(
    ("line", "found"),
    [
        ("", True),
        ("src 10.0.0.0/8", True),
        ("src 10.9.0.0/16", False),
        ("src 0.0.0.0/0", True),
        ("dst 10.1.2.3/16", True),
        ("dst ::/1", False),
        ("proto tcp", True),
        ("proto tcp dport 80", True),
        ("proto tcp dport 81", False),
        ("proto icmp type 8", False),
        ("dir in", True),
        ("dir out", False),
        ("index 8", True),
        ("index 0", False),
        ("priority 9", True),
        ("ptype sub", False),
        ("action allow", True),
        ("action block", False),
        ("flag localok", True),
        ("flag icmp", False),
        ("dev none", True),
        ("dev eth0", False),
    ],
)
def test_what_a_filter_finds(line: str, found: bool) -> None:
    assert request(f"list {line}").filter.matches(INFO) is found


def test_a_filter_by_family() -> None:
    assert request("list", family=AF_INET).filter.matches(INFO)
    assert not request("list", family=AF_INET6).filter.matches(INFO)


def test_the_flag_that_ip_knows_as_a_number_only() -> None:
    by_word, by_number = (
        request(f"add src 10.0.0.0/8 dst 10.1.0.0/16 dir out flag {flag}") for flag in ("localok cpu-acquire", "0x5")
    )
    assert by_word == by_number
