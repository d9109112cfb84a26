"""core.spd_check: kernel-behaviour 7.4. Errno and phrases are what a Linux 6.18 answers to the same requests."""

from __future__ import annotations

from dataclasses import replace
from errno import EINVAL
from typing import Any

import pytest

from tests.core.samples import NOW, fails, new_spd, policy_info, template
from tests.each import each
from xfrmi.core.spd_check import check_policy
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6, Dir, Mode
from xfrmi.wire.xfrm_types import PolicyId, PolicyInfo, Selector, Template

V6 = {"src": "2001:db8::1", "dst": "2001:db8::2"}
WIDE4 = Selector(AF_INET, bytes(4), 0, bytes(4), 0)
WIDE6 = Selector(AF_INET6, bytes(16), 0, bytes(16), 0)

FAMILY_CHANGE = "Mode in template doesn't support a family change"
OPTIONAL = "Mode in optional template not allowed in outbound policy"
MODE_MAX = "Mode in template must be < XFRM_MODE_MAX (6)"
PROTOCOL = "Invalid XFRM protocol in template"
TOO_LONG4 = "Invalid prefix length in selector (must be <= 32 for IPv4)"

REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("Invalid policy direction", {"dir": 3}),
    ("Invalid policy action", {"action": 2}),
    ("Invalid policy share", {"share": 4}),
    ("Invalid selector family", {"selector": Selector()}),
    ("Invalid selector family", {"selector": Selector(7)}),
    (TOO_LONG4, {"selector": replace(WIDE4, prefixlen_s=33)}),
    (TOO_LONG4, {"selector": replace(WIDE4, prefixlen_d=33)}),
    ("Invalid prefix length in selector (must be <= 128 for IPv6)", {"selector": replace(WIDE6, prefixlen_s=129)}),
    ("Policy index doesn't match direction", {"index": 8}),
    ("Invalid policy type", {"type": 2}),
    ("Invalid policy type", {"type": 255}),
    ("Template count must be <= XFRM_MAX_DEPTH (6)", {"templates": (template(),) * 7}),
    *((PROTOCOL, {"templates": (template(proto=proto),)}) for proto in (0, 4, 17, 41, 255)),
    *((MODE_MAX, {"templates": (template(mode=mode),)}) for mode in (6, 7)),
    *((OPTIONAL, {"templates": (template(mode=m, optional=1),)}) for m in (Mode.TUNNEL, Mode.BEET, Mode.IPTFS)),
    (OPTIONAL, {"templates": (template(optional=1),), "action": 1}),
    *((FAMILY_CHANGE, {"templates": (template(**V6, mode=m),)}) for m in (0, 2, 3)),
    (FAMILY_CHANGE, {"templates": (template(**V6), template(mode=Mode.TRANSPORT))}),
    ("Invalid family in template", {"templates": (template(family=7),)}),
    # Of two faults the kernel names the earlier one.
    ("Invalid policy share", {"share": 9, "action": 9, "dir": 9, "selector": Selector()}),
    ("Invalid policy action", {"action": 9, "dir": 9, "selector": Selector()}),
    ("Invalid selector family", {"dir": 9, "index": 3, "selector": Selector()}),
    (TOO_LONG4, {"dir": 9, "index": 8, "selector": replace(WIDE4, prefixlen_s=33)}),
    ("Invalid policy direction", {"dir": 3, "type": 2}),
    ("Invalid policy type", {"type": 2, "templates": (template(proto=255),)}),
    (MODE_MAX, {"templates": (template(mode=9, proto=255),)}),
    (FAMILY_CHANGE, {"templates": (template(mode=9, family=7),)}),
    (OPTIONAL, {"templates": (template(optional=1, proto=255),)}),
]

ACCEPTED: list[dict[str, Any]] = [
    {"share": 3},
    {"flags": 255},
    {"index": 0x1001},
    {"templates": (template(),) * 6},
    *({"templates": (template(proto=proto),)} for proto in (43, 50, 51, 60, 108)),
    *({"templates": (template(mode=m, optional=1),), "dir": d} for m in range(6) for d in (Dir.IN, Dir.FWD)),
    *({"templates": (template(mode=m, optional=1),)} for m in (0, 2, 3)),
    *({"templates": (template(**V6, mode=m),)} for m in (Mode.TUNNEL, Mode.BEET, Mode.IPTFS)),
    {"templates": (template(**V6), template(**V6, mode=Mode.TRANSPORT))},
    {"templates": (template(share=9),)},
]


@each(("phrase", "fields"), REFUSED, ids=str)
def test_refused_in_the_kernels_words(phrase: str, fields: dict[str, Any]) -> None:
    info = PolicyInfo(**{"selector": WIDE4} | fields)
    spd, log = new_spd()
    for request in (spd.insert, spd.update):
        with fails(EINVAL) as caught:
            request(info, NOW)
        assert caught.value.extack == phrase
    assert (len(spd), log, spd.generation) == (0, [], 0)


@each("fields", ACCEPTED, ids=str)
def test_accepted(fields: dict[str, Any]) -> None:
    check_policy(PolicyInfo(**{"selector": WIDE4} | fields))


@pytest.mark.parametrize(
    ("phrase", "fields"),
    [
        ("Invalid policy direction", {"dir": 3}),
        ("Invalid policy type", {"type": 2}),
        ("Invalid policy type", {"type": 2, "dir": 3}),
    ],
)
def test_a_name_has_to_be_possible(phrase: str, fields: dict[str, Any]) -> None:
    spd, _ = new_spd()
    named = PolicyId(**{"selector": WIDE4} | fields)
    for request in (spd.get, lambda policy_id: spd.delete(policy_id, NOW)):
        with fails(EINVAL) as caught:
            request(named)
        assert caught.value.extack == phrase


def test_a_template_may_leave_its_source_open_in_either_family() -> None:
    spd, _ = new_spd()
    policy = spd.insert(policy_info("10.0.0.0/8", templates=(Template(dst=V6["dst"]),)), NOW)  # type: ignore[arg-type]
    assert policy.templates[0].src == bytes(16)


@pytest.mark.parametrize(
    "fields",
    [
        {"selector": replace(WIDE6, saddr=bytes(4))},
        {"selector": replace(WIDE4, daddr=bytes(16))},
        {"templates": (Template(src="192.0.2.1", dst=V6["dst"]),)},  # type: ignore[arg-type]
        {"templates": (template(family=AF_INET6),)},
    ],
)
def test_addresses_of_mixed_families_are_refused(fields: dict[str, Any]) -> None:
    with fails(EINVAL):
        check_policy(PolicyInfo(**{"selector": WIDE4} | fields))
