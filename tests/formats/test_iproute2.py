"""iproute2 6.1.0 itself as the judge: what it sends for a command, refuses, and prints for a message."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.each import each
from tests.formats.captures import load, parse_command, utc_time
from xfrmi.formats import requests
from xfrmi.formats.json_link import link_json
from xfrmi.formats.print_link import print_link
from xfrmi.formats.print_monitor import print_notice
from xfrmi.formats.show import Show
from xfrmi.formats.tokens import GrammarError
from xfrmi.wire.link_msg import RTM_DELLINK, RTM_NEWLINK, decode_link
from xfrmi.wire.netlink import Message
from xfrmi.wire.xfrm_msg import XfrmMsg, decode_notice, decode_request
from xfrmi.wire.xfrm_types import NO_LIMITS

COMMANDS = load("iproute2/commands.json")["commands"]
ERRORS = load("iproute2/errors.json")["errors"]
NOTICES = load("iproute2/notices.json")["notices"]
LINKS = load("iproute2/links.json")["links"]

MESSAGES = {
    requests.AddState: (XfrmMsg.NEWSA, XfrmMsg.UPDSA),
    requests.AllocSpi: (XfrmMsg.ALLOCSPI,),
    requests.GetState: (XfrmMsg.GETSA,),
    requests.DeleteState: (XfrmMsg.DELSA,),
    requests.FlushStates: (XfrmMsg.FLUSHSA,),
    requests.CountStates: (XfrmMsg.GETSADINFO,),
    requests.AddPolicy: (XfrmMsg.NEWPOLICY, XfrmMsg.UPDPOLICY),
    requests.GetPolicy: (XfrmMsg.GETPOLICY,),
    requests.DeletePolicy: (XfrmMsg.DELPOLICY,),
    requests.FlushPolicies: (XfrmMsg.FLUSHPOLICY,),
    requests.CountPolicies: (XfrmMsg.GETSPDINFO,),
    requests.SetThresholds: (XfrmMsg.NEWSPDINFO,),
    requests.SetDefaults: (XfrmMsg.SETDEFAULT,),
    requests.GetDefaults: (XfrmMsg.GETDEFAULT,),
    requests.AddLink: (RTM_NEWLINK,),
    requests.SetLink: (RTM_NEWLINK,),
    requests.DeleteLink: (RTM_DELLINK,),
}
"""The message that carries a request; the second one with `update`."""


def said(request: requests.Request) -> object:
    """What the body of the request's message says."""
    match request:
        case requests.AddState() | requests.AddPolicy() | requests.AddLink():
            return request.info
        case requests.GetState() | requests.DeleteState() | requests.GetPolicy() | requests.DeletePolicy():
            return request.id
        case requests.FlushStates():
            return request.proto
        case requests.FlushPolicies():
            return request.type
        case requests.AllocSpi():
            # ip sends limits of zero, which the kernel does not read: a larval state has its own (3.3).
            return request.request._replace(info=replace(request.request.info, limits=None))
        case requests.SetThresholds():
            return request.thresholds
        case requests.SetDefaults():
            return request.defaults
        case requests.SetLink():
            return replace(request.info, ifindex=1, netns_pid=int(request.netns) if request.netns else None)
    return None


@each("case", COMMANDS, ids=lambda case: case["command"][:90])
def test_a_command_says_what_ip_sends(case: dict[str, str]) -> None:
    request = parse_command(case["command"])
    kinds = MESSAGES[type(request)]
    assert case["type"] == kinds[1 if getattr(request, "update", False) else 0]
    message = Message(int(case["type"]), 0, 0, 0, memoryview(bytes.fromhex(case["body"])))
    if case["protocol"] == "route":
        link = decode_link(message)
        if not isinstance(request, requests.DeleteLink):
            assert replace(said(request), link_name="") == link
        return
    expected: object = decode_request(message)
    if isinstance(request, requests.AllocSpi):
        expected = expected._replace(info=replace(expected.info, limits=None))
    if isinstance(request, requests.CountStates | requests.CountPolicies | requests.GetDefaults):
        return
    assert said(request) == expected


def test_limits_of_a_new_spi_are_none() -> None:
    request = parse_command("ip xfrm state allocspi src 1.1.1.1 dst 2.2.2.2 proto esp")
    assert isinstance(request, requests.AllocSpi)
    assert request.request.info.limits == NO_LIMITS


@each("case", ERRORS, ids=lambda case: case["command"][:90])
def test_a_command_is_refused_as_ip_refuses_it(case: dict[str, object]) -> None:
    with pytest.raises(GrammarError) as refused:
        parse_command(str(case["command"]))
    error = refused.value
    assert (error.text, error.exit_code) == (case["output"], case["rc"])
    assert error.hint.endswith((".", "?"))
    assert 0 <= error.position <= len(str(case["command"]).split())


@each("number", range(len(NOTICES)))
def test_a_message_is_printed_as_ip_prints_it(number: int) -> None:
    case = NOTICES[number]
    body = bytes.fromhex(case["body"])
    value = decode_notice(Message(case["type"], 0, 0, 0, memoryview(body)))
    names = {0: "*", 1: "lo"}
    for expected, options in (("plain", {}), ("stats", {"stats": 1}), ("oneline", {"oneline": True})):
        show = Show(localtime=utc_time, ifname=lambda index: names.get(index, f"if{index}"), **options)
        assert print_notice(case["type"], value, show) == case[expected]


def test_every_kind_of_event_is_among_them() -> None:
    events = set(XfrmMsg) - {
        XfrmMsg.GETSA, XfrmMsg.GETPOLICY, XfrmMsg.ALLOCSPI, XfrmMsg.GETAE, XfrmMsg.REPORT, XfrmMsg.MIGRATE,
        XfrmMsg.NEWSADINFO, XfrmMsg.GETSADINFO, XfrmMsg.NEWSPDINFO, XfrmMsg.GETSPDINFO, XfrmMsg.SETDEFAULT,
    }  # fmt: skip
    assert {case["type"] for case in NOTICES} == events


def test_what_is_no_event() -> None:
    with pytest.raises(TypeError, match="no event"):
        print_notice(XfrmMsg.NEWSA, 0)
    with pytest.raises(TypeError, match="no event"):
        print_notice(XfrmMsg.NEWSADINFO, object())


@each("options", LINKS[0]["shown"])
@each("case", LINKS, ids=range(len(LINKS)))
def test_a_link_is_shown_as_ip_shows_it(case: dict[str, object], options: str) -> None:
    info = decode_link(Message(RTM_NEWLINK, 0, 0, 0, memoryview(bytes.fromhex(str(case["body"])))))
    given = options.split()
    show = Show(stats=given.count("-s"), details="-d" in given, oneline="-o" in given)
    expected = case["shown"][options]
    if "-j" in given:
        assert json.dumps([link_json(info, show)], separators=(",", ":")) + "\n" == expected
    else:
        assert print_link(info, show) == expected
