"""A command line of ip(8). What cannot be a request raises GrammarError; what can is sent as a message that a daemon
can read.

    text of one line
"""

from __future__ import annotations

from tests.formats.captures import load, steps
from tests.fuzz.registry import One
from xfrmi.formats.grammar import parse, split_line
from xfrmi.formats.requests import AddLink, AddPolicy, AddState
from xfrmi.formats.tokens import GrammarError
from xfrmi.wire import link_msg, netlink, xfrm_msg
from xfrmi.wire.xfrm_attr import XfrmMsg

MAX_LEN = 400


def seeds() -> list[bytes]:
    lines = {step.command for step in steps()} | {
        entry["command"] for entry in load("iproute2/commands.json")["commands"]
    }
    return [line.encode() for line in sorted(lines) if len(line) < MAX_LEN]


def make() -> One:
    return one


def one(data: bytes) -> None:
    try:
        request = parse(split_line(data.decode("utf-8", "surrogateescape")), ifindex_of=devices)
    except GrammarError as error:
        assert error.text is not None and 0 < error.exit_code < 256
        return
    assert repr(request)
    if isinstance(request, AddState):
        read(XfrmMsg.NEWSA, xfrm_msg.encode_state(request.info))
    elif isinstance(request, AddPolicy):
        read(XfrmMsg.NEWPOLICY, xfrm_msg.encode_policy(request.info))
    elif isinstance(request, AddLink):
        link_msg.encode_link(request.info)


def devices(name: str) -> int:
    return {"lo": 1, "eth0": 2}.get(name, 0)


def read(kind: XfrmMsg, body: bytes) -> None:
    (message,) = netlink.split(netlink.message(kind, netlink.NLM_F_REQUEST, 1, 1, body))
    xfrm_msg.decode_request(message)
