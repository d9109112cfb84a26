"""States in netlink: NEWSA, UPDSA, DELSA, GETSA, ALLOCSPI, FLUSHSA and the dump of all (kernel-behaviour 7.2, 7.3).

`encode_...` gives the body of a message, for `netlink.message` to frame; `decode_...` takes a whole netlink.Message
and raises XfrmError where the kernel would refuse its form. What a state may say (7.4) is not decided here.

    body                       value          sent as
    state                      StateInfo      NEWSA, UPDSA: request, reply, dump entry, notification; ALLOCSPI's reply
    state id                   StateId        DELSA, GETSA: request
    deleted state              StateInfo      DELSA: notification
    range of SPIs              SpiRequest     ALLOCSPI: request
    filter                     StateFilter    GETSA with NLM_F_DUMP: request
    protocol                   int            FLUSHSA: request, notification (0: ESP, AH and IPCOMP)
"""

from __future__ import annotations

import struct
from dataclasses import replace
from errno import EINVAL
from struct import Struct
from typing import Final, NamedTuple

from xfrmi.errors import XfrmError
from xfrmi.wire.netlink import Attrs, Message, attr, attr_u8, attr_u32, attr_u64, get_u8, get_u32, get_u64
from xfrmi.wire.xfrm_alg import (
    NO_REPLAY,
    algorithm_attr,
    algorithm_bits_attr,
    encap_attr,
    get_algorithm,
    get_algorithm_bits,
    get_encap,
    get_replay,
    get_replay_esn,
    get_sec_ctx,
    replay_attr,
    replay_esn_attr,
)
from xfrmi.wire.xfrm_attr import IPTFS_ATTRS, Xfrma, dump_attrs, message_attrs, request_attrs
from xfrmi.wire.xfrm_const import AF_UNSPEC, IPPROTO_AH, IPPROTO_COMP, IPPROTO_ESP, STATE_AF_UNSPEC, Mode
from xfrmi.wire.xfrm_struct import (
    CURRENT_FORMAT,
    LIMITS_FORMAT,
    SELECTOR_FORMAT,
    STATE_ID_FORMAT,
    Fields,
    address,
    address_attr,
    current_attr,
    current_of,
    get_current,
    get_mark,
    get_number,
    get_optional_u32,
    if_id_attr,
    limits_of,
    mark_attr,
    selector_fields,
    selector_of,
    spi_bytes,
    state_id_fields,
    state_id_of,
    unfit,
)
from xfrmi.wire.xfrm_types import NO_STATS, UNUSED, Mark, StateId, StateInfo, StateStats

STATE: Final = Struct(f"={SELECTOR_FORMAT}16s4sB3x16s{LIMITS_FORMAT}{CURRENT_FORMAT}5IHBBB7x")
"""xfrm_usersa_info, 224 bytes: sel, id (daddr, spi, proto), saddr, lft, curlft, stats, seq, reqid, family, mode,
replay_window, flags."""
_STATE_ID: Final = Struct("=" + STATE_ID_FORMAT)
_SPI_RANGE: Final = Struct("=II")
_FILTER: Final = Struct("=16s16sHBB")
_OFFLOAD: Final = Struct("=iB3x")
_NAMING_ATTRS: Final = frozenset({Xfrma.MARK, Xfrma.IF_ID, Xfrma.SA_PCPU, Xfrma.SA_DIR})
_IPSEC_PROTO_ANY: Final = 255
_IPSEC_PROTOS: Final = frozenset({IPPROTO_ESP, IPPROTO_AH, IPPROTO_COMP, _IPSEC_PROTO_ANY})


class SpiRequest(NamedTuple):
    """ALLOCSPI: an SPI between `min` and `max` for the larval state `info`."""

    info: StateInfo
    min: int
    max: int


class StateFilter(NamedTuple):
    """Which states a dump shows (NL-08): of one protocol (0: all), with addresses in two prefixes of one family."""

    proto: int = 0
    family: int = AF_UNSPEC
    """AF_UNSPEC: addresses do not matter."""
    src: bytes = b""
    prefixlen_s: int = 0
    dst: bytes = b""
    prefixlen_d: int = 0


# A state


def state_struct(info: StateInfo) -> bytes:
    """xfrm_usersa_info."""
    stats = info.stats
    return STATE.pack(
        *selector_fields(info.selector), info.dst, spi_bytes(info.spi), info.proto, info.src,
        *info.limits, *info.current,
        stats.replay_window, stats.replay, stats.integrity_failed,
        info.seq, info.reqid, info.family, info.mode, info.replay_window, info.flags,
    )  # fmt: skip


def state_attrs(info: StateInfo, *, reply: bool) -> bytes:
    """The attributes of a state in the kernel's order (7.3).

    A reply has what the kernel always shows: XFRMA_ALG_AUTH beside XFRMA_ALG_AUTH_TRUNC, one replay state. A request
    has what `info` has.
    """
    parts = []
    if info.extra_flags:
        parts.append(attr_u32(Xfrma.SA_EXTRA_FLAGS, info.extra_flags))
    if info.coaddr is not None:
        parts.append(address_attr(Xfrma.COADDR, info.coaddr))
    if info.lastused:
        parts.append(attr_u64(Xfrma.LASTUSED, info.lastused))
    if info.aead is not None:
        parts.append(algorithm_bits_attr(Xfrma.ALG_AEAD, info.aead))
    if (auth := info.auth or info.auth_trunc if reply else info.auth) is not None:
        parts.append(algorithm_attr(Xfrma.ALG_AUTH, auth))
    if info.auth_trunc is not None:
        parts.append(algorithm_bits_attr(Xfrma.ALG_AUTH_TRUNC, info.auth_trunc))
    if info.crypt is not None:
        parts.append(algorithm_attr(Xfrma.ALG_CRYPT, info.crypt))
    if info.comp is not None:
        parts.append(algorithm_attr(Xfrma.ALG_COMP, info.comp))
    if info.encap is not None:
        parts.append(encap_attr(info.encap))
    if info.tfcpad:
        parts.append(attr_u32(Xfrma.TFCPAD, info.tfcpad))
    parts.append(mark_attr(info.mark))
    if info.set_mark is not None:
        parts.append(attr_u32(Xfrma.SET_MARK, info.set_mark.value))
        parts.append(attr_u32(Xfrma.SET_MARK_MASK, info.set_mark.mask))
    if info.replay_esn is not None:
        parts.append(replay_esn_attr(info.replay_esn))
    elif info.replay is not None or reply:
        parts.append(replay_attr(info.replay or NO_REPLAY))
    if info.offload is not None:
        parts.append(attr(Xfrma.OFFLOAD_DEV, _OFFLOAD.pack(*info.offload)))
    parts.append(if_id_attr(info.if_id))
    if info.sec_ctx is not None:
        parts.append(attr(Xfrma.SEC_CTX, info.sec_ctx))
    if info.mtimer_thresh:
        parts.append(attr_u32(Xfrma.MTIMER_THRESH, info.mtimer_thresh))
    if info.pcpu is not None:
        parts.append(attr_u32(Xfrma.SA_PCPU, info.pcpu))
    if info.dir:
        parts.append(attr_u8(Xfrma.SA_DIR, info.dir))
    if info.nat_keepalive_interval:
        parts.append(attr_u32(Xfrma.NAT_KEEPALIVE_INTERVAL, info.nat_keepalive_interval))
    return b"".join(parts)


def _request_attrs(info: StateInfo) -> bytes:
    """What is said of a state only when it is made."""
    parts = [current_attr(info.current)] if any(info.current) else []
    for kind, value in ((Xfrma.REPLAY_THRESH, info.replay_thresh), (Xfrma.ETIMER_THRESH, info.etimer_thresh)):
        if value is not None:
            parts.append(attr_u32(kind, value))
    return b"".join(parts)


def encode_state(info: StateInfo, *, reply: bool = False) -> bytes:
    """A NEWSA or UPDSA body; `reply` for what the server sends (see state_attrs). XfrmError if a number has no room."""
    try:
        return state_struct(info) + state_attrs(info, reply=reply) + (b"" if reply else _request_attrs(info))
    except (struct.error, OverflowError):
        raise unfit(info) from None


def decode_state(message: Message) -> StateInfo:
    """A NEWSA or UPDSA request. What it says about IP-TFS is not kept: without that mode it may say nothing."""
    attrs = request_attrs(message)
    info = state_of(STATE.unpack_from(message.body), attrs)
    if info.mode != Mode.IPTFS and not IPTFS_ATTRS.isdisjoint(attrs):
        raise XfrmError(EINVAL, "IP-TFS options can only be used in IP-TFS mode", f"the mode is {info.mode}")
    # Counters count from XFRMA_LTIME_VAL; those of the fixed part are for dumps.
    return replace(info, current=get_current(attrs) or UNUSED)


def decode_state_notice(message: Message) -> StateInfo:
    """A NEWSA or UPDSA from the server."""
    attrs = message_attrs(message)
    return state_of(STATE.unpack_from(message.body), attrs)


def naming_attrs(attrs: Attrs) -> Attrs:
    """Those that name a state or the negotiation of one: all that many requests look at."""
    return {kind: value for kind, value in attrs.items() if kind in _NAMING_ATTRS}


def state_of(wire: Fields, attrs: Attrs) -> StateInfo:
    """A StateInfo from the 35 fields of STATE and its attributes."""
    daddr, spi, proto, saddr = wire[9:13]
    replay_lost, replayed, integrity, seq, reqid, family, mode, replay_window, flags = wire[25:]
    lastused = attrs.get(Xfrma.LASTUSED)
    coaddr = attrs.get(Xfrma.COADDR)
    offload = attrs.get(Xfrma.OFFLOAD_DEV)
    direction = attrs.get(Xfrma.SA_DIR)
    return StateInfo(
        src=address(saddr, family),
        dst=address(daddr, family),
        spi=int.from_bytes(spi, "big"),
        proto=proto,
        mode=mode,
        reqid=reqid,
        if_id=get_number(attrs, Xfrma.IF_ID),
        family=family,
        selector=selector_of(wire[:9], AF_UNSPEC if flags & STATE_AF_UNSPEC else family),
        flags=flags,
        extra_flags=get_number(attrs, Xfrma.SA_EXTRA_FLAGS),
        replay_window=replay_window,
        aead=get_algorithm_bits(attrs, Xfrma.ALG_AEAD),
        auth=get_algorithm(attrs, Xfrma.ALG_AUTH),
        auth_trunc=get_algorithm_bits(attrs, Xfrma.ALG_AUTH_TRUNC),
        crypt=get_algorithm(attrs, Xfrma.ALG_CRYPT),
        comp=get_algorithm(attrs, Xfrma.ALG_COMP),
        encap=get_encap(attrs, family),
        mark=get_mark(attrs),
        set_mark=_get_set_mark(attrs),
        tfcpad=get_number(attrs, Xfrma.TFCPAD),
        replay=get_replay(attrs),
        replay_esn=get_replay_esn(attrs),
        limits=limits_of(wire[13:21]),
        current=current_of(wire[21:25]),
        stats=StateStats(replay_lost, replayed, integrity) if replay_lost | replayed | integrity else NO_STATS,
        seq=seq,
        dir=0 if direction is None else get_u8(direction),
        coaddr=None if coaddr is None else address(bytes(coaddr[:16]), family),
        lastused=0 if lastused is None else get_u64(lastused),
        mtimer_thresh=get_number(attrs, Xfrma.MTIMER_THRESH),
        nat_keepalive_interval=get_number(attrs, Xfrma.NAT_KEEPALIVE_INTERVAL),
        replay_thresh=get_optional_u32(attrs, Xfrma.REPLAY_THRESH),
        etimer_thresh=get_optional_u32(attrs, Xfrma.ETIMER_THRESH),
        pcpu=get_optional_u32(attrs, Xfrma.SA_PCPU),
        offload=None if offload is None else _OFFLOAD.unpack_from(offload),
        sec_ctx=get_sec_ctx(attrs),
    )


def _get_set_mark(attrs: Attrs) -> Mark | None:
    if (value := attrs.get(Xfrma.SET_MARK)) is None:
        return None
    mask = attrs.get(Xfrma.SET_MARK_MASK)
    return Mark(get_u32(value), 0xFFFFFFFF if mask is None else get_u32(mask))


# One state by its id


def encode_state_id(state: StateId) -> bytes:
    """A DELSA or GETSA request."""
    try:
        source = address_attr(Xfrma.SRCADDR, state.src) if state.src else b""
        return _STATE_ID.pack(*state_id_fields(state)) + mark_attr(state.mark) + source
    except (struct.error, OverflowError):
        raise unfit(state) from None


def decode_state_id(message: Message) -> StateId:
    """A DELSA or GETSA request. A protocol without SPIs needs XFRMA_SRCADDR (7.3)."""
    attrs = request_attrs(message)
    state = state_id_of(_STATE_ID.unpack_from(message.body), attrs)
    if state.proto not in _IPSEC_PROTOS and Xfrma.SRCADDR not in attrs:
        raise XfrmError(EINVAL, "", f"a state of protocol {state.proto} is named by its source address too")
    return state


def encode_state_deleted(info: StateInfo) -> bytes:
    """A DELSA notification: the id, then the state in XFRMA_SA and its attributes."""
    head = _STATE_ID.pack(info.dst, spi_bytes(info.spi), info.family, info.proto)
    return head + attr(Xfrma.SA, state_struct(info)) + state_attrs(info, reply=True)


def decode_state_deleted(message: Message) -> StateInfo:
    attrs = message_attrs(message)
    if (state := attrs.get(Xfrma.SA)) is None:
        raise XfrmError(EINVAL, "", "XFRM_MSG_DELSA without XFRMA_SA is a request")
    return state_of(STATE.unpack_from(state), attrs)


# Requests about many, or about none yet


def encode_alloc_spi(request: SpiRequest) -> bytes:
    info = request.info
    try:
        return state_struct(info) + _SPI_RANGE.pack(request.min, request.max) + state_attrs(info, reply=False)
    except (struct.error, OverflowError):
        raise unfit(request) from None


def decode_alloc_spi(message: Message) -> SpiRequest:
    """An ALLOCSPI request: algorithms and all else a larval state does not have are not even looked at (3.3)."""
    attrs = naming_attrs(request_attrs(message))
    info = state_of(STATE.unpack_from(message.body), attrs)
    return SpiRequest(info, *_SPI_RANGE.unpack_from(message.body, STATE.size))


def encode_state_filter(wanted: StateFilter) -> bytes:
    """A GETSA request to be sent with NLM_F_DUMP. Without a filter its body is empty (NL-07)."""
    body = attr_u8(Xfrma.PROTO, wanted.proto) if wanted.proto else b""
    if wanted.family:
        prefixes = _FILTER.pack(wanted.src, wanted.dst, wanted.family, wanted.prefixlen_s, wanted.prefixlen_d)
        body += attr(Xfrma.ADDRESS_FILTER, prefixes)
    return body


def decode_state_filter(message: Message) -> StateFilter:
    attrs = dump_attrs(message)
    proto = attrs.get(Xfrma.PROTO)
    src, dst, family, prefixlen_s, prefixlen_d = bytes(16), bytes(16), AF_UNSPEC, 0, 0
    if (value := attrs.get(Xfrma.ADDRESS_FILTER)) is not None:
        src, dst, family, prefixlen_s, prefixlen_d = _FILTER.unpack_from(value)
        if max(prefixlen_s, prefixlen_d) > 128:
            raise XfrmError(EINVAL, "", f"prefix lengths {prefixlen_s} and {prefixlen_d}")
    return StateFilter(
        0 if proto is None else get_u8(proto), family,
        address(src, family), prefixlen_s, address(dst, family), prefixlen_d,
    )  # fmt: skip


def encode_flush_states(proto: int) -> bytes:
    """A protocol number, 0..255, padded as the kernel sends it."""
    return proto.to_bytes(1, "little") + bytes(3)


def decode_flush_states(message: Message) -> int:
    request_attrs(message)
    return message.body[0]
