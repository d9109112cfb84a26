"""NETLINK_XFRM, every message: the one place to ask "what does this message say?" (kernel-behaviour 7.2).

A request, as the server reads it, and a notice (reply, dump entry or notification), as a client or monitor reads it,
are two directions of one language: `decode_request` and `decode_notice` give the value of a message whose type says
what happened to it. Which body goes with which value is in the tables of xfrm_sa_msg, xfrm_policy_msg,
xfrm_event_msg, xfrm_migrate_msg and xfrm_info_msg; their functions, one a body, are re-exported here.

    client:  netlink.message(XfrmMsg.NEWSA, NLM_F_REQUEST | NLM_F_ACK, seq, 0, encode_state(info))
    server:  decode_request(message) -> StateInfo;  netlink.ack(message)  or  netlink.refusal(message, error)
    monitor: decode_notice(message) -> StateInfo, with message.type NEWSA: added, UPDSA: updated, DELSA: deleted
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EINVAL
from struct import Struct
from typing import Final

from xfrmi.errors import XfrmError
from xfrmi.wire.netlink import Message
from xfrmi.wire.xfrm_attr import Group, Xfrma, XfrmMsg, request_attrs
from xfrmi.wire.xfrm_event_msg import (
    AE_CAUSE_REPLAY,
    AE_CAUSE_TIMER,
    AE_CAUSE_UPDATE,
    AE_ETIMER_THRESH,
    AE_LIFETIME,
    AE_REPLAY,
    AE_REPLAY_THRESH,
    Acquire,
    Aevent,
    Mapping,
    StateExpiry,
    decode_acquire,
    decode_aevent_notice,
    decode_get_aevent,
    decode_mapping,
    decode_new_aevent,
    decode_state_expiry,
    decode_state_expiry_notice,
    encode_acquire,
    encode_aevent,
    encode_mapping,
    encode_state_expiry,
)
from xfrmi.wire.xfrm_info_msg import (
    Defaults,
    SadInfo,
    SpdInfo,
    Thresholds,
    decode_defaults,
    decode_get_info,
    decode_sad_info,
    decode_spd_info,
    decode_thresholds,
    encode_defaults,
    encode_get_info,
    encode_sad_info,
    encode_spd_info,
    encode_thresholds,
)
from xfrmi.wire.xfrm_migrate_msg import (
    KmAddress,
    Migration,
    Move,
    decode_migration,
    decode_migration_notice,
    encode_migration,
    encode_migration_notice,
)
from xfrmi.wire.xfrm_policy_msg import (
    PolicyExpiry,
    decode_flush_policies,
    decode_policy,
    decode_policy_deleted,
    decode_policy_expiry,
    decode_policy_id,
    decode_policy_notice,
    encode_flush_policies,
    encode_policy,
    encode_policy_deleted,
    encode_policy_expiry,
    encode_policy_id,
)
from xfrmi.wire.xfrm_sa_msg import (
    SpiRequest,
    StateFilter,
    decode_alloc_spi,
    decode_flush_states,
    decode_state,
    decode_state_deleted,
    decode_state_filter,
    decode_state_id,
    decode_state_notice,
    encode_alloc_spi,
    encode_flush_states,
    encode_state,
    encode_state_deleted,
    encode_state_filter,
    encode_state_id,
)
from xfrmi.wire.xfrm_types import PolicyId, PolicyInfo, StateId, StateInfo

__all__ = [
    "AE_CAUSE_REPLAY",
    "AE_CAUSE_TIMER",
    "AE_CAUSE_UPDATE",
    "AE_ETIMER_THRESH",
    "AE_LIFETIME",
    "AE_REPLAY",
    "AE_REPLAY_THRESH",
    "Acquire",
    "Aevent",
    "Defaults",
    "Group",
    "KmAddress",
    "Mapping",
    "Migration",
    "Move",
    "Notice",
    "PolicyExpiry",
    "Request",
    "SadInfo",
    "SpdInfo",
    "SpiRequest",
    "StateExpiry",
    "StateFilter",
    "Thresholds",
    "XfrmMsg",
    "Xfrma",
    "decode_acquire",
    "decode_aevent_notice",
    "decode_alloc_spi",
    "decode_defaults",
    "decode_flush_policies",
    "decode_flush_states",
    "decode_get_aevent",
    "decode_get_info",
    "decode_mapping",
    "decode_migration",
    "decode_migration_notice",
    "decode_new_aevent",
    "decode_notice",
    "decode_policy",
    "decode_policy_deleted",
    "decode_policy_expiry",
    "decode_policy_id",
    "decode_policy_notice",
    "decode_request",
    "decode_sad_info",
    "decode_spd_info",
    "decode_state",
    "decode_state_deleted",
    "decode_state_expiry",
    "decode_state_expiry_notice",
    "decode_state_filter",
    "decode_state_id",
    "decode_state_notice",
    "decode_subscription",
    "decode_thresholds",
    "encode_acquire",
    "encode_aevent",
    "encode_alloc_spi",
    "encode_defaults",
    "encode_flush_policies",
    "encode_flush_states",
    "encode_get_info",
    "encode_mapping",
    "encode_migration",
    "encode_migration_notice",
    "encode_policy",
    "encode_policy_deleted",
    "encode_policy_expiry",
    "encode_policy_id",
    "encode_sad_info",
    "encode_spd_info",
    "encode_state",
    "encode_state_deleted",
    "encode_state_expiry",
    "encode_state_filter",
    "encode_state_id",
    "encode_subscription",
    "encode_thresholds",
]

Request = (
    StateInfo | StateId | StateFilter | SpiRequest | StateExpiry | Aevent | Acquire
    | PolicyInfo | PolicyId | PolicyExpiry | Migration | Thresholds | Defaults | int | None
)  # fmt: skip
"""int: protocol of FLUSHSA, type of FLUSHPOLICY, flags of GETSADINFO and GETSPDINFO. None: a dump of policies."""

Notice = (
    StateInfo | StateExpiry | Aevent | Acquire | Mapping
    | PolicyInfo | PolicyExpiry | Migration | SadInfo | SpdInfo | Defaults | int
)  # fmt: skip
"""int: protocol of FLUSHSA, type of FLUSHPOLICY."""

_GROUPS: Final = Struct("=I")

_REQUESTS: Final[dict[int, Callable[[Message], Request]]] = {
    XfrmMsg.NEWSA: decode_state,
    XfrmMsg.UPDSA: decode_state,
    XfrmMsg.DELSA: decode_state_id,
    XfrmMsg.GETSA: decode_state_id,
    XfrmMsg.NEWPOLICY: decode_policy,
    XfrmMsg.UPDPOLICY: decode_policy,
    XfrmMsg.DELPOLICY: decode_policy_id,
    XfrmMsg.GETPOLICY: decode_policy_id,
    XfrmMsg.ALLOCSPI: decode_alloc_spi,
    XfrmMsg.ACQUIRE: decode_acquire,
    XfrmMsg.EXPIRE: decode_state_expiry,
    XfrmMsg.POLEXPIRE: decode_policy_expiry,
    XfrmMsg.FLUSHSA: decode_flush_states,
    XfrmMsg.FLUSHPOLICY: decode_flush_policies,
    XfrmMsg.NEWAE: decode_new_aevent,
    XfrmMsg.GETAE: decode_get_aevent,
    XfrmMsg.GETSADINFO: decode_get_info,
    XfrmMsg.NEWSPDINFO: decode_thresholds,
    XfrmMsg.GETSPDINFO: decode_get_info,
    XfrmMsg.SETDEFAULT: decode_defaults,
    XfrmMsg.GETDEFAULT: decode_defaults,
    XfrmMsg.MIGRATE: decode_migration,
}

_NOTICES: Final[dict[int, Callable[[Message], Notice]]] = {
    XfrmMsg.NEWSA: decode_state_notice,
    XfrmMsg.UPDSA: decode_state_notice,
    XfrmMsg.DELSA: decode_state_deleted,
    XfrmMsg.NEWPOLICY: decode_policy_notice,
    XfrmMsg.UPDPOLICY: decode_policy_notice,
    XfrmMsg.DELPOLICY: decode_policy_deleted,
    XfrmMsg.ACQUIRE: decode_acquire,
    XfrmMsg.EXPIRE: decode_state_expiry_notice,
    XfrmMsg.POLEXPIRE: decode_policy_expiry,
    XfrmMsg.FLUSHSA: decode_flush_states,
    XfrmMsg.FLUSHPOLICY: decode_flush_policies,
    XfrmMsg.NEWAE: decode_aevent_notice,
    XfrmMsg.NEWSADINFO: decode_sad_info,
    XfrmMsg.NEWSPDINFO: decode_spd_info,
    XfrmMsg.MAPPING: decode_mapping,
    XfrmMsg.GETDEFAULT: decode_defaults,
    XfrmMsg.MIGRATE: decode_migration_notice,
}


def decode_request(message: Message) -> Request:
    """What a request says. XfrmError as the kernel answers: EINVAL for a type nobody handles (NL-02) and for a short
    body (NL-03), attribute errors (NL-04).
    """
    if message.is_dump and message.type == XfrmMsg.GETSA:
        return decode_state_filter(message)
    if message.is_dump and message.type == XfrmMsg.GETPOLICY:
        return None
    decode = _REQUESTS.get(message.type)
    if decode is not None:
        return decode(message)
    request_attrs(message)
    raise XfrmError(EINVAL, "", f"XFRM_MSG_{XfrmMsg(message.type).name} is not a request")


def decode_notice(message: Message) -> Notice:
    """What a reply, dump entry or notification says."""
    decode = _NOTICES.get(message.type)
    if decode is None:
        raise XfrmError(EINVAL, "", f"xfrm message type {message.type:#x} comes from no server")
    return decode(message)


def encode_subscription(groups: int) -> bytes:
    """The body of an NLMSG_SUBSCRIBE: `groups` is the union of the Group.bit wanted."""
    return _GROUPS.pack(groups)


def decode_subscription(message: Message) -> int:
    if len(message.body) < _GROUPS.size:
        raise XfrmError(EINVAL, "Invalid header length", f"NLMSG_SUBSCRIBE of {len(message.body)} bytes")
    return int(_GROUPS.unpack_from(message.body)[0])
