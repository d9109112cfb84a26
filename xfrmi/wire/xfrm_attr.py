"""The numbers of NETLINK_XFRM and the rules every message meets before anybody looks at what it says.

Theory of operation (kernel-behaviour 7.1, in the order in which a request is looked at):
1. a type beyond the last one is EINVAL; types below NLMSG_MIN_TYPE never come here (NL-02);
2. the body is as long as the type's fixed struct, or EINVAL "Invalid header length" (NL-03); a dump request has no
   fixed struct at all, its attributes come first (NL-07);
3. each attribute obeys the policy of its type: size, and range for the strict ones (NL-04);
4. SA_DIR and SA_PCPU are refused where they mean nothing (3.6);
5. what is left is a dict of views, type -> value. What the values mean is not decided here.
A notification or reply, read by a client, takes the same way without step 4.
"""

from __future__ import annotations

from enum import IntEnum
from errno import EINVAL
from typing import Final

from xfrmi.errors import XfrmError
from xfrmi.wire.netlink import AttrRule, Attrs, Message, Policy, parse_attrs


class XfrmMsg(IntEnum):
    """XFRM_MSG_*: nlmsg_type."""

    NEWSA = 0x10
    DELSA = 0x11
    GETSA = 0x12
    NEWPOLICY = 0x13
    DELPOLICY = 0x14
    GETPOLICY = 0x15
    ALLOCSPI = 0x16
    ACQUIRE = 0x17
    EXPIRE = 0x18
    UPDPOLICY = 0x19
    UPDSA = 0x1A
    POLEXPIRE = 0x1B
    FLUSHSA = 0x1C
    FLUSHPOLICY = 0x1D
    NEWAE = 0x1E
    GETAE = 0x1F
    REPORT = 0x20
    MIGRATE = 0x21
    NEWSADINFO = 0x22
    GETSADINFO = 0x23
    NEWSPDINFO = 0x24
    GETSPDINFO = 0x25
    MAPPING = 0x26
    SETDEFAULT = 0x27
    GETDEFAULT = 0x28


class Group(IntEnum):
    """XFRMNLGRP_*: multicast groups (7.5). `bit` is what a subscription mask holds."""

    ACQUIRE = 1
    EXPIRE = 2
    SA = 3
    POLICY = 4
    AEVENTS = 5
    REPORT = 6
    MIGRATE = 7
    MAPPING = 8

    @property
    def bit(self) -> int:
        return 1 << (self.value - 1)


class Xfrma(IntEnum):
    """XFRMA_*: attribute types of every message but the SADINFO and SPDINFO ones (7.3)."""

    ALG_AUTH = 1
    ALG_CRYPT = 2
    ALG_COMP = 3
    ENCAP = 4
    TMPL = 5
    SA = 6
    POLICY = 7
    SEC_CTX = 8
    LTIME_VAL = 9
    REPLAY_VAL = 10
    REPLAY_THRESH = 11
    ETIMER_THRESH = 12
    SRCADDR = 13
    COADDR = 14
    LASTUSED = 15
    POLICY_TYPE = 16
    MIGRATE = 17
    ALG_AEAD = 18
    KMADDRESS = 19
    ALG_AUTH_TRUNC = 20
    MARK = 21
    TFCPAD = 22
    REPLAY_ESN_VAL = 23
    SA_EXTRA_FLAGS = 24
    PROTO = 25
    ADDRESS_FILTER = 26
    PAD = 27
    OFFLOAD_DEV = 28
    SET_MARK = 29
    SET_MARK_MASK = 30
    IF_ID = 31
    MTIMER_THRESH = 32
    SA_DIR = 33
    NAT_KEEPALIVE_INTERVAL = 34
    SA_PCPU = 35
    IPTFS_DROP_TIME = 36
    IPTFS_REORDER_WINDOW = 37
    IPTFS_DONT_FRAG = 38
    IPTFS_INIT_DELAY = 39
    IPTFS_MAX_QSIZE = 40
    IPTFS_PKT_SIZE = 41


IPTFS_ATTRS: Final = frozenset(range(Xfrma.IPTFS_DROP_TIME, Xfrma.IPTFS_PKT_SIZE + 1))

SIZES: Final[dict[int, int]] = {
    XfrmMsg.NEWSA: 224,
    XfrmMsg.DELSA: 24,
    XfrmMsg.GETSA: 24,
    XfrmMsg.NEWPOLICY: 168,
    XfrmMsg.DELPOLICY: 64,
    XfrmMsg.GETPOLICY: 64,
    XfrmMsg.ALLOCSPI: 232,
    XfrmMsg.ACQUIRE: 280,
    XfrmMsg.EXPIRE: 232,
    XfrmMsg.UPDPOLICY: 168,
    XfrmMsg.UPDSA: 224,
    XfrmMsg.POLEXPIRE: 176,
    XfrmMsg.FLUSHSA: 1,
    XfrmMsg.FLUSHPOLICY: 0,
    XfrmMsg.NEWAE: 48,
    XfrmMsg.GETAE: 48,
    XfrmMsg.REPORT: 60,
    XfrmMsg.MIGRATE: 64,
    XfrmMsg.NEWSADINFO: 4,
    XfrmMsg.GETSADINFO: 4,
    XfrmMsg.NEWSPDINFO: 4,
    XfrmMsg.GETSPDINFO: 4,
    XfrmMsg.MAPPING: 64,
    XfrmMsg.SETDEFAULT: 3,
    XfrmMsg.GETDEFAULT: 3,
}
"""Bytes of the fixed struct that opens the body (7.2)."""

# Policies. Where nothing is said a longer attribute is fine: the struct is its beginning.
_MINIMUM: Final = {
    Xfrma.ALG_AUTH: 68, Xfrma.ALG_CRYPT: 68, Xfrma.ALG_COMP: 68, Xfrma.ENCAP: 24, Xfrma.TMPL: 64, Xfrma.SA: 224,
    Xfrma.POLICY: 168, Xfrma.SEC_CTX: 8, Xfrma.LTIME_VAL: 32, Xfrma.REPLAY_VAL: 12, Xfrma.REPLAY_THRESH: 4,
    Xfrma.ETIMER_THRESH: 4, Xfrma.SRCADDR: 16, Xfrma.COADDR: 16, Xfrma.LASTUSED: 8, Xfrma.POLICY_TYPE: 6,
    Xfrma.MIGRATE: 76, Xfrma.ALG_AEAD: 72, Xfrma.KMADDRESS: 40, Xfrma.ALG_AUTH_TRUNC: 72, Xfrma.MARK: 8,
    Xfrma.TFCPAD: 4, Xfrma.REPLAY_ESN_VAL: 24, Xfrma.SA_EXTRA_FLAGS: 4, Xfrma.PROTO: 1, Xfrma.ADDRESS_FILTER: 36,
    Xfrma.OFFLOAD_DEV: 8, Xfrma.SET_MARK: 4, Xfrma.SET_MARK_MASK: 4, Xfrma.IF_ID: 4, Xfrma.MTIMER_THRESH: 4,
}  # fmt: skip
_STRICT: Final = {
    Xfrma.NAT_KEEPALIVE_INTERVAL: 4, Xfrma.SA_PCPU: 4, Xfrma.IPTFS_DROP_TIME: 4, Xfrma.IPTFS_REORDER_WINDOW: 2,
    Xfrma.IPTFS_INIT_DELAY: 4, Xfrma.IPTFS_MAX_QSIZE: 4, Xfrma.IPTFS_PKT_SIZE: 4,
}  # fmt: skip
POLICY: Final[Policy] = (
    {int(kind): AttrRule(f"XFRMA_{kind.name}", minimum) for kind, minimum in _MINIMUM.items()}
    | {int(kind): AttrRule(f"XFRMA_{kind.name}", size, strict=True) for kind, size in _STRICT.items()}
    | {
        Xfrma.SA_DIR: AttrRule("XFRMA_SA_DIR", 1, strict=True, span=(1, 2)),
        Xfrma.IPTFS_DONT_FRAG: AttrRule("XFRMA_IPTFS_DONT_FRAG", 0, maximum=0),
    }
)

_TAKES_DIR: Final = frozenset({XfrmMsg.NEWSA, XfrmMsg.UPDSA, XfrmMsg.ALLOCSPI})
_TAKES_PCPU: Final = _TAKES_DIR | {XfrmMsg.ACQUIRE}


def message_attrs(message: Message, policy: Policy = POLICY) -> Attrs:
    """Steps 1 to 3: what a reply or a notification has to get past."""
    size = SIZES.get(message.type)
    if size is None:
        raise XfrmError(EINVAL, "", f"there is no xfrm message type {message.type:#x}")
    if len(message.body) < size:
        detail = f"XFRM_MSG_{XfrmMsg(message.type).name} of {len(message.body)} bytes, the fixed part has {size}"
        raise XfrmError(EINVAL, "Invalid header length", detail)
    return parse_attrs(message.body, (size + 3) & ~3, policy)


def request_attrs(message: Message, policy: Policy = POLICY) -> Attrs:
    """Steps 1 to 4: what a request has to get past."""
    attrs = message_attrs(message, policy)
    if policy is POLICY:
        for kind, takers in ((Xfrma.SA_DIR, _TAKES_DIR), (Xfrma.SA_PCPU, _TAKES_PCPU)):
            if kind in attrs and message.type not in takers:
                raise XfrmError(EINVAL, f"Invalid attribute {kind.name}", f"in XFRM_MSG_{XfrmMsg(message.type).name}")
    return attrs


def dump_attrs(message: Message) -> Attrs:
    """The attributes of a dump request, from the start of its body; what is no attribute there is ignored."""
    return parse_attrs(message.body, 0, POLICY)
