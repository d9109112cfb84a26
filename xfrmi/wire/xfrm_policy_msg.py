"""Policies in netlink: NEWPOLICY, UPDPOLICY, DELPOLICY, GETPOLICY, FLUSHPOLICY, POLEXPIRE (kernel-behaviour 7.2, 7.3).

As in xfrm_sa_msg: `encode_...` gives a body, `decode_...` takes a message.

    body                       value          sent as
    policy                     PolicyInfo     NEWPOLICY, UPDPOLICY: request, reply, dump entry, notification
    policy id                  PolicyId       DELPOLICY, GETPOLICY: request
    deleted policy             PolicyInfo     DELPOLICY: notification
    expired policy             PolicyExpiry   POLEXPIRE: notification, request
    policy type                int            FLUSHPOLICY: request, notification
A GETPOLICY with NLM_F_DUMP has no filter (NL-08) and any body or none.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from errno import EINVAL
from struct import Struct
from typing import Final

from xfrmi.errors import XfrmError
from xfrmi.wire.netlink import Attrs, Message, attr
from xfrmi.wire.xfrm_alg import get_sec_ctx
from xfrmi.wire.xfrm_attr import Xfrma, message_attrs, request_attrs
from xfrmi.wire.xfrm_const import PolicyType
from xfrmi.wire.xfrm_struct import (
    CURRENT_FORMAT,
    LIMITS_FORMAT,
    SELECTOR_FORMAT,
    Fields,
    address,
    current_of,
    get_mark,
    get_number,
    if_id_attr,
    limits_of,
    mark_attr,
    selector_fields,
    selector_of,
    spi_bytes,
    unfit,
)
from xfrmi.wire.xfrm_types import ANY_SELECTOR, PolicyId, PolicyInfo, Template

POLICY: Final = Struct(f"={SELECTOR_FORMAT}{LIMITS_FORMAT}{CURRENT_FORMAT}IIBBBB4x")
"""xfrm_userpolicy_info, 168 bytes: sel, lft, curlft, priority, index, dir, action, flags, share."""
POLICY_ID: Final = Struct(f"={SELECTOR_FORMAT}IB3x")
_TEMPLATE: Final = Struct("=16s4sB3xH2x16sIBBB1x3I")
"""xfrm_user_tmpl, 64 bytes: id (daddr, spi, proto), family, saddr, reqid, mode, share, optional, algorithm masks."""
_TYPE: Final = Struct("=B5x")
_HARD: Final = Struct("=B7x")


@dataclass(frozen=True, slots=True)
class PolicyExpiry:
    info: PolicyInfo
    hard: bool


# A policy


def policy_struct(info: PolicyInfo) -> bytes:
    """xfrm_userpolicy_info."""
    return POLICY.pack(
        *selector_fields(info.selector), *info.limits, *info.current,
        info.priority, info.index, info.dir, info.action, info.flags, info.share,
    )  # fmt: skip


def policy_attrs(info: PolicyInfo) -> bytes:
    """The attributes of a policy in the kernel's order; no templates, no attribute; the type always (7.3)."""
    templates = b"".join(map(template_struct, info.templates))
    return (
        (attr(Xfrma.TMPL, templates) if templates else b"")
        + (attr(Xfrma.SEC_CTX, info.sec_ctx) if info.sec_ctx is not None else b"")
        + type_attr(info.type)
        + mark_attr(info.mark)
        + if_id_attr(info.if_id)
    )


def template_struct(template: Template) -> bytes:
    return _TEMPLATE.pack(
        template.dst, spi_bytes(template.spi), template.proto, template.family, template.src, template.reqid,
        template.mode, template.share, template.optional, template.aalgos, template.ealgos, template.calgos,
    )  # fmt: skip


def type_attr(policy_type: int) -> bytes:
    return attr(Xfrma.POLICY_TYPE, _TYPE.pack(policy_type))


def encode_policy(info: PolicyInfo) -> bytes:
    """A NEWPOLICY or UPDPOLICY body. XfrmError if a number has no room."""
    try:
        return policy_struct(info) + policy_attrs(info)
    except (struct.error, OverflowError):
        raise unfit(info) from None


def decode_policy(message: Message) -> PolicyInfo:
    """A NEWPOLICY or UPDPOLICY request."""
    attrs = request_attrs(message)
    return policy_of(POLICY.unpack_from(message.body), attrs)


def decode_policy_notice(message: Message) -> PolicyInfo:
    """A NEWPOLICY or UPDPOLICY from the server."""
    attrs = message_attrs(message)
    return policy_of(POLICY.unpack_from(message.body), attrs)


def policy_of(wire: Fields, attrs: Attrs) -> PolicyInfo:
    """A PolicyInfo from the 27 fields of POLICY and its attributes."""
    priority, index, direction, action, flags, share = wire[21:]
    selector = selector_of(wire[:9])
    return PolicyInfo(
        selector=selector,
        dir=direction,
        if_id=get_number(attrs, Xfrma.IF_ID),
        templates=get_templates(attrs, selector.family),
        action=action,
        priority=priority,
        mark=get_mark(attrs),
        index=index,
        flags=flags,
        share=share,
        type=get_type(attrs),
        limits=limits_of(wire[9:17]),
        current=current_of(wire[17:21]),
        sec_ctx=get_sec_ctx(attrs),
    )


def get_templates(attrs: Attrs, family: int) -> tuple[Template, ...]:
    """All whole templates of XFRMA_TMPL (7.4: a rest is ignored); one without a family has that of the selector."""
    if (value := attrs.get(Xfrma.TMPL)) is None:
        return ()
    whole = len(value) // _TEMPLATE.size * _TEMPLATE.size
    return tuple(_template_of(wire, family) for wire in _TEMPLATE.iter_unpack(value[:whole]))


def _template_of(wire: Fields, family: int) -> Template:
    daddr, spi, proto, own_family, saddr, reqid, mode, share, optional, aalgos, ealgos, calgos = wire
    family = own_family or family
    return Template(
        address(saddr, family), address(daddr, family), int.from_bytes(spi, "big"), proto, mode, reqid, optional,
        family, share, aalgos, ealgos, calgos,
    )  # fmt: skip


def get_type(attrs: Attrs) -> int:
    value = attrs.get(Xfrma.POLICY_TYPE)
    return PolicyType.MAIN if value is None else value[0]


# One policy by its id


def encode_policy_id(policy: PolicyId) -> bytes:
    """A DELPOLICY or GETPOLICY request."""
    try:
        return policy_id_struct(policy) + (
            (attr(Xfrma.SEC_CTX, policy.sec_ctx) if policy.sec_ctx is not None else b"")
            + type_attr(policy.type)
            + mark_attr(policy.mark)
            + if_id_attr(policy.if_id)
        )
    except (struct.error, OverflowError):
        raise unfit(policy) from None


def policy_id_struct(policy: PolicyId) -> bytes:
    return POLICY_ID.pack(*selector_fields(policy.selector), policy.index, policy.dir)


def decode_policy_id(message: Message) -> PolicyId:
    """A DELPOLICY or GETPOLICY request. Where an index names the policy a context is not even looked at."""
    attrs = request_attrs(message)
    wire = POLICY_ID.unpack_from(message.body)
    index = wire[9]
    return PolicyId(
        selector_of(wire[:9]), wire[10], get_number(attrs, Xfrma.IF_ID), index, get_mark(attrs), get_type(attrs),
        None if index else get_sec_ctx(attrs),
    )  # fmt: skip


def encode_policy_deleted(info: PolicyInfo, *, by_index: bool = False) -> bytes:
    """A DELPOLICY notification: the id as the request named it, then the policy in XFRMA_POLICY and its attributes."""
    if by_index:
        head = policy_id_struct(PolicyId(ANY_SELECTOR, info.dir, index=info.index))
    else:
        head = policy_id_struct(PolicyId(info.selector, info.dir))
    return head + attr(Xfrma.POLICY, policy_struct(info)) + policy_attrs(info)


def decode_policy_deleted(message: Message) -> PolicyInfo:
    attrs = message_attrs(message)
    if (policy := attrs.get(Xfrma.POLICY)) is None:
        raise XfrmError(EINVAL, "", "XFRM_MSG_DELPOLICY without XFRMA_POLICY is a request")
    return policy_of(POLICY.unpack_from(policy), attrs)


# Policies at their end


def encode_policy_expiry(expiry: PolicyExpiry) -> bytes:
    try:
        return policy_struct(expiry.info) + _HARD.pack(expiry.hard) + policy_attrs(expiry.info)
    except (struct.error, OverflowError):
        raise unfit(expiry) from None


def decode_policy_expiry(message: Message) -> PolicyExpiry:
    """A POLEXPIRE, from the server or from a user who ends a policy."""
    attrs = request_attrs(message)
    hard = bool(message.body[POLICY.size])
    return PolicyExpiry(policy_of(POLICY.unpack_from(message.body), attrs), hard)


def encode_flush_policies(policy_type: int = PolicyType.MAIN) -> bytes:
    return type_attr(policy_type)


def decode_flush_policies(message: Message) -> int:
    return get_type(request_attrs(message))
