"""NETLINK_XFRM messages by themselves, without tables: values or XfrmError, as a daemon reads requests and as a client
reads what it is told; and a state or a policy is written, read, and written as before. With tables: xfrm.py.

    type | 0 request, 1 dump, 2 notice | body
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tests.fuzz.registry import One
from tests.fuzz.targets import xfrm
from xfrmi.errors import XfrmError
from xfrmi.wire import xfrm_msg
from xfrmi.wire.netlink import NLM_F_DUMP, NLM_F_REQUEST, Message
from xfrmi.wire.xfrm_attr import XfrmMsg
from xfrmi.wire.xfrm_types import PolicyInfo, StateInfo

MAX_LEN = xfrm.MAX_LEN
FLAGS = NLM_F_REQUEST, NLM_F_REQUEST | NLM_F_DUMP, 0
FIRST, COUNT = min(XfrmMsg), len(XfrmMsg)


def seeds() -> list[bytes]:
    found = [(entry[0] - 1, entry[2:]) for entry in xfrm.seeds() if entry[0]]
    return [bytes((kind, flags)) + body for kind, body in found for flags in (0, 2)]


def make() -> One:
    return one


def one(data: bytes) -> None:
    if len(data) < 2:
        return
    kind, way = XfrmMsg(FIRST + data[0] % COUNT), data[1] % len(FLAGS)
    decode = xfrm_msg.decode_notice if way == 2 else xfrm_msg.decode_request
    try:
        read = decode(Message(kind, FLAGS[way], 1, 1, data[2:]))
    except XfrmError as error:
        assert error.errno and str(error)
        return
    if isinstance(read, StateInfo):
        again(XfrmMsg.NEWSA, read, partial(xfrm_msg.encode_state, reply=True))
    elif isinstance(read, PolicyInfo):
        again(XfrmMsg.NEWPOLICY, read, xfrm_msg.encode_policy)


def again(kind: XfrmMsg, read: Any, encode: Callable[[Any], bytes]) -> None:
    """Not what was read is compared: what a kernel tells has more in it than what it was asked."""
    written = encode(read)
    assert encode(xfrm_msg.decode_notice(Message(kind, 0, 1, 1, written))) == written
