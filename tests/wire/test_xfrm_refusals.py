"""Requests refused for their form, with the errno and the words of Linux 6.18 (test_against_kernel asks it)."""

from __future__ import annotations

import struct
from errno import EINVAL, ERANGE
from typing import NamedTuple

import pytest

from tests.each import each
from xfrmi.errors import XfrmError
from xfrmi.wire import xfrm_msg
from xfrmi.wire.netlink import NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, Message, attr, attr_u8, attr_u32
from xfrmi.wire.xfrm_attr import SIZES, Xfrma, XfrmMsg
from xfrmi.wire.xfrm_const import IPPROTO_ROUTING, Mode
from xfrmi.wire.xfrm_types import PolicyInfo, Selector, StateId, StateInfo

STATE = xfrm_msg.encode_state(StateInfo("192.0.2.1", "192.0.2.2", 0x1000, mode=Mode.TUNNEL))
POLICY = xfrm_msg.encode_policy(PolicyInfo(Selector.parse()))
ID = xfrm_msg.encode_state_id(StateId("192.0.2.2", 0x1000))
ROUTING = xfrm_msg.encode_state_id(StateId("192.0.2.2", 5, IPPROTO_ROUTING))
GCM = struct.pack("=64sII", b"rfc4106(gcm(aes))", 160, 128) + bytes(20)
AEAD = STATE + attr(Xfrma.ALG_AEAD, GCM)
ESN = struct.pack("=6I", 4, 0, 0, 0, 0, 32)
DIR_IN = attr_u8(Xfrma.SA_DIR, 1)

SHORT = "Invalid header length"
FAILED = "Attribute failed policy validation"
RANGE = "integer out of range"
LENGTH = "invalid attribute length"


class Refusal(NamedTuple):
    what: str
    kind: int
    body: bytes
    errno: int
    extack: str
    flags: int = 0


REFUSALS = [
    Refusal("NL-02 type too large", 0x29, bytes(300), EINVAL, ""),
    Refusal("NL-02 mapping is no request", XfrmMsg.MAPPING, bytes(64), EINVAL, ""),
    Refusal("NL-02 report is no request", XfrmMsg.REPORT, bytes(60), EINVAL, ""),
    Refusal("NL-03 state", XfrmMsg.NEWSA, STATE[:223], EINVAL, SHORT),
    Refusal("NL-03 policy", XfrmMsg.NEWPOLICY, b"", EINVAL, SHORT),
    Refusal("NL-03 id", XfrmMsg.GETSA, bytes(23), EINVAL, SHORT),
    Refusal("NL-03 protocol", XfrmMsg.FLUSHSA, b"", EINVAL, SHORT),
    Refusal("NL-04 template", XfrmMsg.NEWPOLICY, POLICY + attr(Xfrma.TMPL, bytes(60)), ERANGE, FAILED),
    Refusal("NL-04 if_id", XfrmMsg.NEWPOLICY, POLICY + attr(Xfrma.IF_ID, b"\1\0"), ERANGE, FAILED),
    Refusal("NL-04 policy type", XfrmMsg.FLUSHPOLICY, attr(Xfrma.POLICY_TYPE, bytes(5)), ERANGE, FAILED),
    Refusal("NL-05 nothing to set", XfrmMsg.NEWAE, bytes(48), EINVAL,
            "Missing required attribute for AE", NLM_F_REPLACE),
    Refusal("NL-05 no replace", XfrmMsg.NEWAE, bytes(48) + attr(Xfrma.LTIME_VAL, bytes(32)), EINVAL,
            "NLM_F_REPLACE flag is required"),
    Refusal("NL-08 filter too short", XfrmMsg.GETSA, attr(Xfrma.ADDRESS_FILTER, bytes(35)), ERANGE, FAILED, NLM_F_DUMP),
    Refusal("NL-08 filter of 129 bits", XfrmMsg.GETSA, attr(Xfrma.ADDRESS_FILTER, bytes(34) + b"\x81\0"), EINVAL, "",
            NLM_F_DUMP),
    Refusal("3.6 dir 0", XfrmMsg.NEWSA, STATE + attr_u8(Xfrma.SA_DIR, 0), ERANGE, RANGE),
    Refusal("3.6 dir 3", XfrmMsg.NEWSA, STATE + attr_u8(Xfrma.SA_DIR, 3), ERANGE, RANGE),
    Refusal("3.6 dir 3 of a dump", XfrmMsg.GETSA, attr_u8(Xfrma.SA_DIR, 3), ERANGE, RANGE, NLM_F_DUMP),
    Refusal("3.6 dir of four bytes", XfrmMsg.NEWSA, STATE + attr_u32(Xfrma.SA_DIR, 1), EINVAL, LENGTH),
    Refusal("3.6 dir of a policy", XfrmMsg.NEWPOLICY, POLICY + DIR_IN, EINVAL, "Invalid attribute SA_DIR"),
    Refusal("3.6 dir of an id", XfrmMsg.GETSA, ID + DIR_IN, EINVAL, "Invalid attribute SA_DIR"),
    Refusal("3.6 dir of a default", XfrmMsg.SETDEFAULT, bytes(4) + DIR_IN, EINVAL, "Invalid attribute SA_DIR"),
    Refusal("3.8 cpu of a policy", XfrmMsg.NEWPOLICY, POLICY + attr_u32(Xfrma.SA_PCPU, 0), EINVAL,
            "Invalid attribute SA_PCPU"),
    Refusal("3.9 iptfs in tunnel mode", XfrmMsg.NEWSA, AEAD + attr_u32(Xfrma.IPTFS_DROP_TIME, 1), EINVAL,
            "IP-TFS options can only be used in IP-TFS mode"),
    Refusal("3.9 a flag has no value", XfrmMsg.NEWSA, STATE + attr_u8(Xfrma.IPTFS_DONT_FRAG, 1), ERANGE, FAILED),
    Refusal("7.3 no source", XfrmMsg.DELSA, ROUTING, EINVAL, ""),
    Refusal("7.4 aead key", XfrmMsg.NEWSA, STATE + attr(Xfrma.ALG_AEAD, GCM[:-1]), EINVAL,
            "Invalid AEAD attribute length"),
    Refusal("7.4 enc key", XfrmMsg.NEWSA, STATE + attr(Xfrma.ALG_CRYPT, GCM[:64] + b"\x08\0\0\0"), EINVAL,
            "Invalid AUTH/CRYPT/COMP attribute length"),
    Refusal("7.4 trunc key", XfrmMsg.NEWSA, STATE + attr(Xfrma.ALG_AUTH_TRUNC, GCM[:-1]), EINVAL,
            "Invalid AUTH_TRUNC attribute length"),
    Refusal("7.4 bitmap of 129", XfrmMsg.NEWSA, AEAD + attr(Xfrma.REPLAY_ESN_VAL, b"\x81" + ESN[1:]), EINVAL,
            "ESN bitmap length must be <= 128"),
    Refusal("7.4 bitmap cut off", XfrmMsg.NEWSA, AEAD + attr(Xfrma.REPLAY_ESN_VAL, ESN + bytes(12)), EINVAL,
            "ESN attribute is too short to fit the full bitmap length"),
    Refusal("label", XfrmMsg.NEWPOLICY, POLICY + attr(Xfrma.SEC_CTX, bytes(8)), EINVAL,
            "Invalid security context length"),
    Refusal("migrate of nothing", XfrmMsg.MIGRATE, bytes(64), EINVAL, "Missing required MIGRATE attribute"),
    Refusal("migrate of half a move", XfrmMsg.MIGRATE, bytes(64) + attr(Xfrma.MIGRATE, bytes(75)), ERANGE, FAILED),
    Refusal("threshold 33", XfrmMsg.NEWSPDINFO, bytes(4) + attr(3, b"\x20\x21"), EINVAL,
            "Invalid hash threshold (must be <= 32 for IPv4)"),
    Refusal("threshold 129", XfrmMsg.NEWSPDINFO, bytes(4) + attr(4, b"\x81\x20"), EINVAL,
            "Invalid hash threshold (must be <= 128 for IPv6)"),
    Refusal("threshold of a byte", XfrmMsg.NEWSPDINFO, bytes(4) + attr(3, b"\x20"), ERANGE, FAILED),
]  # fmt: skip

TOLERATED = [
    ("NL-04 unknown attribute", XfrmMsg.NEWPOLICY, POLICY + attr(200, b"abc") + attr(42, b"")),
    ("NL-04 longer mark", XfrmMsg.NEWPOLICY, POLICY + attr(Xfrma.MARK, bytes(12))),
    ("NL-04 longer if_id", XfrmMsg.NEWPOLICY, POLICY + attr(Xfrma.IF_ID, bytes(8))),
    ("NL-04 garbage behind", XfrmMsg.NEWPOLICY, POLICY + b"\xff\xff\xff"),
    ("NL-04 an attribute of length 3", XfrmMsg.NEWPOLICY, POLICY + b"\3\0\x10\0" + attr_u8(Xfrma.SA_DIR, 3)),
    ("7.4 template of 74 bytes", XfrmMsg.NEWPOLICY, POLICY + attr(Xfrma.TMPL, bytes(24) + b"\2" + bytes(49))),
    ("7.4 bitmap left out", XfrmMsg.NEWSA, AEAD + attr(Xfrma.REPLAY_ESN_VAL, ESN)),
    ("NL-08 a dump with a fixed part", XfrmMsg.GETSA, bytes(24) + attr_u8(Xfrma.SA_DIR, 3)),
]


def decode(kind: int, body: bytes, flags: int = 0) -> xfrm_msg.Request:
    return xfrm_msg.decode_request(Message(kind, NLM_F_REQUEST | flags, 1, 1, memoryview(body)))


@each("refusal", REFUSALS, ids=lambda refusal: refusal.what)
def test_refused(refusal: Refusal) -> None:
    with pytest.raises(XfrmError) as caught:
        decode(refusal.kind, refusal.body, refusal.flags)
    assert (caught.value.errno, caught.value.extack) == (refusal.errno, refusal.extack)


@pytest.mark.parametrize("what, kind, body", TOLERATED, ids=[row[0] for row in TOLERATED])
def test_tolerated(what: str, kind: int, body: bytes) -> None:
    assert decode(kind, body, NLM_F_DUMP if kind == XfrmMsg.GETSA else 0) is not None


def test_one_template_in_74_bytes() -> None:
    """7.4."""
    info = decode(XfrmMsg.NEWPOLICY, TOLERATED[5][2])
    assert isinstance(info, PolicyInfo) and len(info.templates) == 1


@each("kind, size", [(kind, size) for kind, size in SIZES.items() if size], ids=str)
def test_one_byte_less_than_the_fixed_part(kind: int, size: int) -> None:
    """NL-03, all types of 7.2."""
    with pytest.raises(XfrmError, match=SHORT):
        decode(kind, bytes(size - 1))
