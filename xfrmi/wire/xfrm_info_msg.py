"""Counts, thresholds and defaults in netlink: SADINFO, SPDINFO, SETDEFAULT, GETDEFAULT (kernel-behaviour 7.2).

As in xfrm_sa_msg: `encode_...` gives a body, `decode_...` takes a message.

    body             value        sent as
    flags            int          GETSADINFO, GETSPDINFO: request
    sad counts       SadInfo      NEWSADINFO: reply
    spd counts       SpdInfo      NEWSPDINFO: reply
    thresholds       Thresholds   NEWSPDINFO: request
    defaults         Defaults     SETDEFAULT: request; GETDEFAULT: request (values ignored), reply, notification

The INFO messages have attribute numbers of their own (XFRMA_SAD_*, XFRMA_SPD_*).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from errno import EINVAL
from struct import Struct
from typing import Final

from xfrmi.errors import XfrmError
from xfrmi.wire.netlink import AttrRule, Attrs, Message, attr, attr_u32, get_u32
from xfrmi.wire.xfrm_attr import message_attrs, request_attrs
from xfrmi.wire.xfrm_const import Default
from xfrmi.wire.xfrm_struct import Fields, unfit

_SAD_COUNT: Final = 1
_SAD_HASH: Final = 2
_SPD_COUNTS: Final = 1
_SPD_HASH: Final = 2
_SPD_IPV4_THRESHOLD: Final = 3
_SPD_IPV6_THRESHOLD: Final = 4

_SAD_POLICY: Final = {
    _SAD_COUNT: AttrRule("XFRMA_SAD_CNT", 4),
    _SAD_HASH: AttrRule("XFRMA_SAD_HINFO", 8),
}
_THRESHOLD_POLICY: Final = {
    _SPD_IPV4_THRESHOLD: AttrRule("XFRMA_SPD_IPV4_HTHRESH", 2),
    _SPD_IPV6_THRESHOLD: AttrRule("XFRMA_SPD_IPV6_HTHRESH", 2),
}
_SPD_POLICY: Final = _THRESHOLD_POLICY | {
    _SPD_COUNTS: AttrRule("XFRMA_SPD_INFO", 24),
    _SPD_HASH: AttrRule("XFRMA_SPD_HINFO", 8),
}

_FLAGS: Final = Struct("=I")
_HASH: Final = Struct("=II")
_COUNTS: Final = Struct("=6I")
_THRESHOLD: Final = Struct("=BB")
_DEFAULTS: Final = Struct("=BBB")


@dataclass(frozen=True, slots=True)
class SadInfo:
    """How many states, in how many hash buckets now and at most."""

    count: int = 0
    buckets: int = 8
    max_buckets: int = 1048576


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Prefix lengths (local, remote) from which on policies are hashed. None in a request: left as they are."""

    ipv4: tuple[int, int] | None = None
    ipv6: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class SpdInfo:
    """How many policies, of the interfaces and routes and of sockets; hash buckets; thresholds."""

    count_in: int = 0
    count_out: int = 0
    count_fwd: int = 0
    socket_in: int = 0
    socket_out: int = 0
    socket_fwd: int = 0
    buckets: int = 7
    max_buckets: int = 1048576
    ipv4: tuple[int, int] = (32, 32)
    ipv6: tuple[int, int] = (128, 128)


@dataclass(frozen=True, slots=True)
class Defaults:
    """What happens to packets that no policy matches, by direction; Default values. UNSPEC in a request changes
    nothing."""

    input: int = Default.UNSPEC
    fwd: int = Default.UNSPEC
    output: int = Default.UNSPEC


# Counts


def encode_get_info(flags: int = 0xFFFFFFFF) -> bytes:
    """A GETSADINFO or GETSPDINFO request; the flags come back in the reply and mean nothing (iproute2 sets all)."""
    return _FLAGS.pack(flags)


def decode_get_info(message: Message) -> int:
    request_attrs(message)
    return int(_FLAGS.unpack_from(message.body)[0])


def encode_sad_info(info: SadInfo, flags: int = 0) -> bytes:
    return (
        _FLAGS.pack(flags)
        + attr_u32(_SAD_COUNT, info.count)
        + attr(_SAD_HASH, _HASH.pack(info.buckets, info.max_buckets))
    )


def decode_sad_info(message: Message) -> SadInfo:
    attrs = message_attrs(message, _SAD_POLICY)
    hashed: Fields = _HASH.unpack_from(attrs[_SAD_HASH]) if _SAD_HASH in attrs else (0, 0)
    return SadInfo(get_u32(attrs[_SAD_COUNT]) if _SAD_COUNT in attrs else 0, *hashed)


def encode_spd_info(info: SpdInfo, flags: int = 0) -> bytes:
    counts = info.count_in, info.count_out, info.count_fwd, info.socket_in, info.socket_out, info.socket_fwd
    return (
        _FLAGS.pack(flags)
        + attr(_SPD_COUNTS, _COUNTS.pack(*counts))
        + attr(_SPD_HASH, _HASH.pack(info.buckets, info.max_buckets))
        + attr(_SPD_IPV4_THRESHOLD, _THRESHOLD.pack(*info.ipv4))
        + attr(_SPD_IPV6_THRESHOLD, _THRESHOLD.pack(*info.ipv6))
    )


def decode_spd_info(message: Message) -> SpdInfo:
    attrs = message_attrs(message, _SPD_POLICY)
    counts: Fields = _COUNTS.unpack_from(attrs[_SPD_COUNTS]) if _SPD_COUNTS in attrs else (0,) * 6
    hashed: Fields = _HASH.unpack_from(attrs[_SPD_HASH]) if _SPD_HASH in attrs else (0, 0)
    ipv4: Fields = _pair(attrs, _SPD_IPV4_THRESHOLD) or (32, 32)
    ipv6: Fields = _pair(attrs, _SPD_IPV6_THRESHOLD) or (128, 128)
    return SpdInfo(*(*counts, *hashed, ipv4, ipv6))


def encode_thresholds(thresholds: Thresholds) -> bytes:
    """A NEWSPDINFO request."""
    body = _FLAGS.pack(0xFFFFFFFF)
    try:
        if thresholds.ipv4 is not None:
            body += attr(_SPD_IPV4_THRESHOLD, _THRESHOLD.pack(*thresholds.ipv4))
        if thresholds.ipv6 is not None:
            body += attr(_SPD_IPV6_THRESHOLD, _THRESHOLD.pack(*thresholds.ipv6))
    except struct.error:
        raise unfit(thresholds) from None
    return body


def decode_thresholds(message: Message) -> Thresholds:
    """A NEWSPDINFO request."""
    attrs = request_attrs(message, _THRESHOLD_POLICY)
    thresholds = Thresholds(_pair(attrs, _SPD_IPV4_THRESHOLD), _pair(attrs, _SPD_IPV6_THRESHOLD))
    for pair, bits, name in ((thresholds.ipv4, 32, "IPv4"), (thresholds.ipv6, 128, "IPv6")):
        if pair is not None and max(pair) > bits:
            raise XfrmError(EINVAL, f"Invalid hash threshold (must be <= {bits} for {name})", f"it is {max(pair)}")
    return thresholds


def _pair(attrs: Attrs, kind: int) -> tuple[int, int] | None:
    return None if kind not in attrs else _THRESHOLD.unpack_from(attrs[kind])


# Defaults


def encode_defaults(defaults: Defaults) -> bytes:
    try:
        return _DEFAULTS.pack(defaults.input, defaults.fwd, defaults.output) + b"\0"  # padded, as the kernel sends it
    except struct.error:
        raise unfit(defaults) from None


def decode_defaults(message: Message) -> Defaults:
    request_attrs(message)
    return Defaults(*_DEFAULTS.unpack_from(message.body))
