"""What happens to states, in netlink: EXPIRE, ACQUIRE, MAPPING, NEWAE and GETAE (kernel-behaviour 7.2, 7.6, 3.7).

As in xfrm_sa_msg: `encode_...` gives a body, `decode_...` takes a message.

    body             value        sent as
    expired state    StateExpiry  EXPIRE: notification; request of a user who ends a state
    acquire          Acquire      ACQUIRE: notification; request of a user who wants one seen
    mapping          Mapping      MAPPING: notification only
    aevent           Aevent       NEWAE: request, reply, notification; GETAE: request
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from errno import EINVAL
from struct import Struct
from typing import Final

from xfrmi.errors import XfrmError
from xfrmi.wire.netlink import NLM_F_REPLACE, Attrs, Message, attr_u8, attr_u32, get_u8
from xfrmi.wire.xfrm_alg import NO_REPLAY, get_replay, get_replay_esn, replay_attr, replay_esn_attr
from xfrmi.wire.xfrm_attr import Xfrma, message_attrs, request_attrs
from xfrmi.wire.xfrm_const import IPPROTO_ESP
from xfrmi.wire.xfrm_policy_msg import POLICY, policy_attrs, policy_of, policy_struct
from xfrmi.wire.xfrm_sa_msg import STATE, naming_attrs, state_of, state_struct
from xfrmi.wire.xfrm_struct import (
    SELECTOR_FORMAT,
    STATE_ID_FORMAT,
    address,
    current_attr,
    get_current,
    get_number,
    get_optional_u32,
    if_id_attr,
    mark_attr,
    selector_fields,
    selector_of,
    spi_bytes,
    state_id_fields,
    state_id_of,
    unfit,
)
from xfrmi.wire.xfrm_types import ANY_ALGOS, Current, PolicyInfo, Replay, ReplayEsn, Selector, StateId, StateInfo

AE_REPLAY_THRESH: Final = 1
"""Aevent flags (XFRM_AE_*). In a GETAE they ask for the thresholds, in a NEWAE they say what it holds and why."""
AE_REPLAY: Final = 2
AE_LIFETIME: Final = 4
AE_ETIMER_THRESH: Final = 8
AE_CAUSE_REPLAY: Final = 16
AE_CAUSE_TIMER: Final = 32
AE_CAUSE_UPDATE: Final = 64

_HARD: Final = Struct("=B7x")
_ACQUIRE_HEAD: Final = Struct(f"=16s4sB3x16s{SELECTOR_FORMAT}")
"""xfrm_user_acquire, 280 bytes: id (daddr, spi, proto), saddr, sel; then an xfrm_userpolicy_info; then the tail."""
_ACQUIRE_TAIL: Final = Struct("=4I")
_ACQUIRE_POLICY: Final = _ACQUIRE_HEAD.size
_MAPPING: Final = Struct(f"={STATE_ID_FORMAT}I16s16s2s2s")
_AEVENT: Final = Struct(f"={STATE_ID_FORMAT}16sII")


@dataclass(frozen=True, slots=True)
class StateExpiry:
    """Of `info` only what xfrm_usersa_info, MARK, IF_ID, SA_PCPU and SA_DIR hold travels."""

    info: StateInfo
    hard: bool


@dataclass(frozen=True, slots=True)
class Acquire:
    """A packet wants a state that nobody has (7.6): `selector` is the packet's flow, `policy` the one it met."""

    src: bytes
    """Outer addresses wanted, of the larval state; all zero bytes where the policy leaves them open."""
    dst: bytes
    selector: Selector
    policy: PolicyInfo
    seq: int
    """km sequence: the NEWSA that answers carries it."""
    spi: int = 0
    proto: int = IPPROTO_ESP
    aalgos: int = ANY_ALGOS
    ealgos: int = ANY_ALGOS
    calgos: int = ANY_ALGOS
    pcpu: int | None = None


@dataclass(frozen=True, slots=True)
class Mapping:
    """The peer of a UDP-encapsulated state `id` (its dst is ours) sends from a new address or port."""

    id: StateId
    reqid: int
    old_src: bytes
    old_sport: int
    new_src: bytes
    new_sport: int


@dataclass(frozen=True, slots=True)
class Aevent:
    """Replay counters and lifetime of a state, to report or to set. None: not said."""

    id: StateId
    src: bytes = b""
    reqid: int = 0
    flags: int = 0
    replay: Replay | None = None
    replay_esn: ReplayEsn | None = None
    current: Current | None = None
    replay_thresh: int | None = None
    """Packets."""
    etimer_thresh: int | None = None
    """Tenths of a second."""
    if_id: int = 0
    pcpu: int | None = None
    dir: int = 0


# EXPIRE


def encode_state_expiry(expiry: StateExpiry, *, reply: bool = False) -> bytes:
    """`reply` for a notification: with CPU and direction, which a request must not name (3.6)."""
    info = expiry.info
    try:
        named = _HARD.pack(expiry.hard) + mark_attr(info.mark) + if_id_attr(info.if_id)
        return state_struct(info) + named + (_cpu_and_dir(info.pcpu, info.dir) if reply else b"")
    except (struct.error, OverflowError):
        raise unfit(expiry) from None


def decode_state_expiry(message: Message) -> StateExpiry:
    """A request: the state is looked up by id and mark of `info`."""
    return _state_expiry_of(message, naming_attrs(request_attrs(message)))


def decode_state_expiry_notice(message: Message) -> StateExpiry:
    return _state_expiry_of(message, message_attrs(message))


def _state_expiry_of(message: Message, attrs: Attrs) -> StateExpiry:
    return StateExpiry(state_of(STATE.unpack_from(message.body), attrs), bool(message.body[STATE.size]))


def _cpu_and_dir(pcpu: int | None, direction: int) -> bytes:
    return (b"" if pcpu is None else attr_u32(Xfrma.SA_PCPU, pcpu)) + (
        attr_u8(Xfrma.SA_DIR, direction) if direction else b""
    )


# ACQUIRE


def encode_acquire(acquire: Acquire) -> bytes:
    policy = acquire.policy
    try:
        return (
            _ACQUIRE_HEAD.pack(
                acquire.dst, spi_bytes(acquire.spi), acquire.proto, acquire.src, *selector_fields(acquire.selector)
            )
            + policy_struct(policy)
            + _ACQUIRE_TAIL.pack(acquire.aalgos, acquire.ealgos, acquire.calgos, acquire.seq)
            + policy_attrs(policy)
            + _cpu_and_dir(acquire.pcpu, 0)
        )
    except (struct.error, OverflowError):
        raise unfit(acquire) from None


def decode_acquire(message: Message) -> Acquire:
    """A request or a notification. The outer addresses have the family of the first template."""
    attrs = request_attrs(message)
    body = message.body
    daddr, spi, proto, saddr, *selector = _ACQUIRE_HEAD.unpack_from(body)
    policy = policy_of(POLICY.unpack_from(body, _ACQUIRE_POLICY), attrs)
    aalgos, ealgos, calgos, seq = _ACQUIRE_TAIL.unpack_from(body, _ACQUIRE_POLICY + POLICY.size)
    flow = selector_of(tuple(selector), policy.selector.family)
    family = policy.templates[0].family if policy.templates else flow.family
    return Acquire(
        address(saddr, family), address(daddr, family), flow, policy, seq, int.from_bytes(spi, "big"), proto,
        aalgos, ealgos, calgos, get_optional_u32(attrs, Xfrma.SA_PCPU),
    )  # fmt: skip


# MAPPING


def encode_mapping(mapping: Mapping) -> bytes:
    try:
        return _MAPPING.pack(
            *state_id_fields(mapping.id), mapping.reqid, mapping.old_src, mapping.new_src,
            mapping.old_sport.to_bytes(2, "big"), mapping.new_sport.to_bytes(2, "big"),
        )  # fmt: skip
    except (struct.error, OverflowError):
        raise unfit(mapping) from None


def decode_mapping(message: Message) -> Mapping:
    attrs = message_attrs(message)
    *state_id, reqid, old_src, new_src, old_sport, new_sport = _MAPPING.unpack_from(message.body)
    state = state_id_of(state_id, attrs)
    return Mapping(
        state, reqid, address(old_src, state.family), int.from_bytes(old_sport, "big"),
        address(new_src, state.family), int.from_bytes(new_sport, "big"),
    )  # fmt: skip


# NEWAE, GETAE


def encode_aevent(aevent: Aevent, *, reply: bool = False) -> bytes:
    """`reply`, for what the server sends: with one replay state always, and with CPU and direction (3.6)."""
    try:
        return _aevent(aevent, reply)
    except (struct.error, OverflowError):
        raise unfit(aevent) from None


def _aevent(aevent: Aevent, reply: bool) -> bytes:
    parts = [_AEVENT.pack(*state_id_fields(aevent.id), aevent.src, aevent.flags, aevent.reqid)]
    if aevent.replay_esn is not None:
        parts.append(replay_esn_attr(aevent.replay_esn))
    elif aevent.replay is not None or reply:
        parts.append(replay_attr(aevent.replay or NO_REPLAY))
    if aevent.current is not None:
        parts.append(current_attr(aevent.current))
    if aevent.replay_thresh is not None:
        parts.append(attr_u32(Xfrma.REPLAY_THRESH, aevent.replay_thresh))
    if aevent.etimer_thresh is not None:
        parts.append(attr_u32(Xfrma.ETIMER_THRESH, aevent.etimer_thresh))
    parts += mark_attr(aevent.id.mark), if_id_attr(aevent.if_id)
    if reply:
        parts.append(_cpu_and_dir(aevent.pcpu, aevent.dir))
    return b"".join(parts)


def decode_get_aevent(message: Message) -> Aevent:
    """A GETAE request: the id and the flags; other attributes are not even looked at."""
    return _aevent_of(message, naming_attrs(request_attrs(message)))


def decode_new_aevent(message: Message) -> Aevent:
    """A NEWAE request: it sets something, and says NLM_F_REPLACE (NL-05)."""
    aevent = _aevent_of(message, request_attrs(message))
    said = aevent.current, aevent.replay, aevent.replay_esn, aevent.etimer_thresh, aevent.replay_thresh
    if said == (None,) * 5:
        raise XfrmError(EINVAL, "Missing required attribute for AE", "nothing to set")
    if not message.flags & NLM_F_REPLACE:
        raise XfrmError(EINVAL, "NLM_F_REPLACE flag is required")
    return aevent


def decode_aevent_notice(message: Message) -> Aevent:
    """A NEWAE from the server: the reply to a GETAE, or a notification."""
    return _aevent_of(message, message_attrs(message))


def _aevent_of(message: Message, attrs: Attrs) -> Aevent:
    *state_id, src, flags, reqid = _AEVENT.unpack_from(message.body)
    state = state_id_of(state_id, attrs)
    direction = attrs.get(Xfrma.SA_DIR)
    return Aevent(
        id=state,
        src=address(src, state.family),
        reqid=reqid,
        flags=flags,
        replay=get_replay(attrs),
        replay_esn=get_replay_esn(attrs),
        current=get_current(attrs),
        replay_thresh=get_optional_u32(attrs, Xfrma.REPLAY_THRESH),
        etimer_thresh=get_optional_u32(attrs, Xfrma.ETIMER_THRESH),
        if_id=get_number(attrs, Xfrma.IF_ID),
        pcpu=get_optional_u32(attrs, Xfrma.SA_PCPU),
        dir=0 if direction is None else get_u8(direction),
    )
