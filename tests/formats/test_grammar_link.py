"""`link` commands beyond what iproute2 6.1 can judge (test_iproute2, test_captures)."""

from __future__ import annotations

from typing import Any

import pytest

from xfrmi.formats.grammar import parse, split_line
from xfrmi.formats.requests import AddLink, DeleteLink, SetLink, ShowLinks
from xfrmi.formats.tokens import GrammarError
from xfrmi.wire.link_types import IFF_UP, LinkInfo


def request(line: str) -> Any:
    return parse(split_line(f"link {line}"), ifindex_of=lambda name: {"eth0": 2}.get(name, 0))


def refusal(line: str) -> GrammarError:
    with pytest.raises(GrammarError) as refused:
        request(line)
    return refused.value


def test_the_device_of_the_house() -> None:
    assert request("add ipsec0 type xfrm dev eth0 if_id 42") == AddLink(
        LinkInfo("ipsec0", if_id=42, link=2, link_name="eth0", flags=0)
    )


def test_a_link_in_front_is_not_the_underlying_device() -> None:
    """As in the kernel, which reads IFLA_XFRM_LINK and not IFLA_LINK (7.8)."""
    assert request("add link eth0 name ipsec0 type xfrm if_id 42").info.link is None


def test_add_in_another_namespace() -> None:
    assert request("add ipsec0 netns blue type xfrm if_id 1").netns == "blue"


def test_set() -> None:
    assert request("set ipsec0 up") == SetLink("ipsec0", LinkInfo(kind="", flags=IFF_UP, change=IFF_UP))
    assert request("set dev ipsec0 down mtu 1400 name wan0") == SetLink(
        "ipsec0", LinkInfo("wan0", kind="", flags=0, change=IFF_UP, mtu=1400)
    )
    assert request("set ipsec0 netns 4711") == SetLink("ipsec0", LinkInfo(kind="", flags=0), "4711")
    assert request("set ipsec0 up down") == SetLink("ipsec0", LinkInfo(kind="", flags=0, change=IFF_UP))
    changed = request("set ipsec0 type xfrm dev eth0 if_id 43").info
    assert (changed.kind, changed.link, changed.if_id) == ("xfrm", 2, 43)


def test_show() -> None:
    for line in ("", "show", "list", "l", "sh"):
        assert request(line) == ShowLinks()
    assert request("show ipsec0") == request("show dev ipsec0") == ShowLinks("ipsec0")
    assert request("show type xfrm up") == ShowLinks(up=True, kind="xfrm")


def test_delete() -> None:
    for line in ("del ipsec0", "d dev ipsec0", "delete ipsec0 type xfrm"):
        assert request(line) == DeleteLink("ipsec0")


def test_another_kind_is_for_the_kernel_to_refuse() -> None:
    assert request("add v0 type veth").info.kind == "veth"
    error = refusal("add v0 type veth peer v1")
    assert (error.text, error.exit_code) == (
        'Garbage instead of arguments "peer ...". Try "xfrmi link help".',
        255,
    )


def test_an_unknown_option_of_the_type_shows_its_usage() -> None:
    error = refusal("add x type xfrm ifid 5")
    assert error.exit_code == 1
    assert error.text == (
        "Usage: ... xfrm dev [ PHYS_DEV ] [ if_id IF-ID ]\n\t\t[ external ]\n\nWhere: IF-ID := { 0x1..0xffffffff }"
    )
    assert error.hint == 'Word 6: did you mean "if_id"?'


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("add x", 'Add "type xfrm dev PHYS_DEV if_id IF-ID".'),
        ("add x type xfrm if_id 0", "Word 7: a number from 1 to 4294967295 goes here (DEV-01)."),
        ("add x type xfrm external if_id 1", "Leave out external, or dev and if_id (DEV-03)."),
        ("set x mut 1400", 'Word 4: did you mean "mtu"?'),
        ("set x name a/b", "Word 5: a device name has 1 to 15 characters, no blank and no slash."),
        ("set x mtu 1k", "Word 5: a number from 0 to 2147483647 goes here, decimal or 0x."),
        ("delet", "Name the device."),
        ("shwo", 'Word 2: did you mean "show"?'),
    ],
)
def test_errors_say_what_would_be_right(line: str, hint: str) -> None:
    assert refusal(line).hint == hint


def test_help() -> None:
    assert refusal("help").text == refusal("set help").text
    assert "type xfrm [ dev PHYS_DEV ] { if_id IF-ID | external }" in refusal("help").text
