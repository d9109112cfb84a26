"""Requests as clients send them and answers as clients read them, for tests that call a handler."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from xfrmi.daemon.credentials import Credentials
from xfrmi.errors import XfrmError
from xfrmi.wire import netlink
from xfrmi.wire.netlink import NLM_F_ACK, NLM_F_REQUEST, Message
from xfrmi.wire.xfrm_const import Dir, Mode
from xfrmi.wire.xfrm_types import Algorithm, PolicyInfo, Selector, StateInfo, Template

ROOT = Credentials(1, 0, 0)
STRANGER = Credentials(2, 65533, 65533)
KEY = bytes(range(20))
STATE = StateInfo(
    src="192.0.2.1", dst="192.0.2.2", spi=0x1001, mode=Mode.TUNNEL, reqid=7, if_id=42,
    aead=Algorithm("rfc4106(gcm(aes))", KEY, 128),
)  # fmt: skip
POLICY = PolicyInfo(
    Selector.parse("10.0.0.0/8", "10.1.0.0/16"), Dir.OUT, 42, (Template("192.0.2.1", "192.0.2.2", reqid=7),)
)

Handler = Callable[[bytes, Credentials], Iterable[bytes]]


def request(kind: int, body: bytes = b"", flags: int = NLM_F_ACK, seq: int = 5, pid: int = 77) -> bytes:
    return netlink.message(kind, NLM_F_REQUEST | flags, seq, pid, body)


def answers(handler: Handler, datagram: bytes, who: Credentials = ROOT) -> list[Message]:
    """All messages of all datagrams that answer."""
    return [message for answer in handler(datagram, who) for message in netlink.split(answer)]


def ask(handler: Handler, kind: int, body: bytes = b"", flags: int = NLM_F_ACK) -> list[Message]:
    """The answers but the acknowledgement or DONE at the end. XfrmError if the request was refused."""
    replies = answers(handler, request(kind, body, flags))
    for reply in replies:
        if reply.type in (netlink.NLMSG_ERROR, netlink.NLMSG_DONE):
            netlink.raise_error(reply)
    return [reply for reply in replies if reply.type not in (netlink.NLMSG_ERROR, netlink.NLMSG_DONE)]


def refusal(handler: Handler, kind: int, body: bytes = b"", flags: int = NLM_F_ACK) -> XfrmError:
    """Why a request was refused. AssertionError if it was not."""
    try:
        ask(handler, kind, body, flags)
    except XfrmError as failure:
        return failure
    raise AssertionError("the request was carried out")
