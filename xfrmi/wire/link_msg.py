"""xfrm links in netlink: RTM_NEWLINK, DELLINK, GETLINK, SETLINK <-> LinkInfo (kernel-behaviour 1.3, 7.8).

One body serves all four: an ifinfomsg (family, type, index, flags, change mask) and IFLA_* attributes, of which
IFLA_LINKINFO holds the kind and, for kind "xfrm", IFLA_XFRM_LINK, IFLA_XFRM_IF_ID and IFLA_XFRM_COLLECT_METADATA.
`encode_link` gives a body, `decode_link` takes a message; a request names only what it wants (the rest is None, ""),
a reply everything. Sizes are checked as the kernel's rtnetlink does; what a device may be is not decided here.
"""

from __future__ import annotations

import struct
from errno import EINVAL
from struct import Struct
from typing import Final

from xfrmi.errors import XfrmError
from xfrmi.wire.link_types import XFRM_LINK_MAX_MTU, XFRM_LINK_MIN_MTU, LinkInfo, LinkStats
from xfrmi.wire.netlink import (
    AttrRule,
    Attrs,
    Message,
    attr,
    attr_string,
    attr_u8,
    attr_u32,
    get_string,
    parse_attrs,
)
from xfrmi.wire.xfrm_const import AF_INET6
from xfrmi.wire.xfrm_struct import get_optional_u32, unfit

RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_SETLINK: Final = 19
RTNLGRP_LINK: Final = 1

_ARPHRD_NONE: Final = 0xFFFE

_IFNAME: Final = 3
_MTU: Final = 4
_LINK: Final = 5
_QDISC: Final = 6
_TXQLEN: Final = 13
_OPERSTATE: Final = 16
_LINKMODE: Final = 17
_LINKINFO: Final = 18
_NET_NS_PID: Final = 19
_IFALIAS: Final = 20
STATS64: Final = 23
_AF_SPEC: Final = 26
_GROUP: Final = 27
_NET_NS_FD: Final = 28
_PROMISCUITY: Final = 30
_NUM_TX_QUEUES: Final = 31
_NUM_RX_QUEUES: Final = 32
_CARRIER: Final = 33
_GSO_MAX_SEGS: Final = 40
_GSO_MAX_SIZE: Final = 41
_TARGET_NETNSID: Final = 46
_MIN_MTU: Final = 50
_MAX_MTU: Final = 51
_ALLMULTI: Final = 61

_INFO_KIND: Final = 1
_INFO_DATA: Final = 2
_XFRM_LINK: Final = 1
_XFRM_IF_ID: Final = 2
_XFRM_COLLECT_METADATA: Final = 3
_INET6_ADDR_GEN_MODE: Final = 8
_ADDR_GEN_MODE_RANDOM: Final = 3

_IFINFOMSG: Final = Struct("=BxHiII")
_STATS_WORDS: Final = len(LinkStats.__slots__)
_STATS: Final = Struct(f"={_STATS_WORDS}Q")

_POLICY: Final = {
    _IFNAME: AttrRule("IFLA_IFNAME", 1, maximum=15, text=True),
    _MTU: AttrRule("IFLA_MTU", 4),
    _LINK: AttrRule("IFLA_LINK", 4),
    _TXQLEN: AttrRule("IFLA_TXQLEN", 4),
    _OPERSTATE: AttrRule("IFLA_OPERSTATE", 1),
    _NET_NS_PID: AttrRule("IFLA_NET_NS_PID", 4),
    _IFALIAS: AttrRule("IFLA_IFALIAS", 0, maximum=255),
    _NET_NS_FD: AttrRule("IFLA_NET_NS_FD", 4),
    _TARGET_NETNSID: AttrRule("IFLA_TARGET_NETNSID", 4),
}
_LINKINFO_POLICY: Final = {_INFO_KIND: AttrRule("IFLA_INFO_KIND", 1)}
_XFRM_POLICY: Final = {
    _XFRM_LINK: AttrRule("IFLA_XFRM_LINK", 4),
    _XFRM_IF_ID: AttrRule("IFLA_XFRM_IF_ID", 4),
    _XFRM_COLLECT_METADATA: AttrRule("IFLA_XFRM_COLLECT_METADATA", 0, maximum=0),
}


def encode_link(info: LinkInfo, *, reply: bool = False) -> bytes:
    """The body of any of the four. XfrmError if a number has no room.

    `reply`: with everything `ip -d link` shows of an xfrm device, also what never varies (1.2, 1.3).
    """
    try:
        return _encode(info, reply)
    except struct.error:
        raise unfit(info) from None


def _encode(info: LinkInfo, reply: bool) -> bytes:
    # In a request flags without a mask would mean all of them, so that those not to be changed are not sent.
    flags = info.flags if reply else info.flags & info.change
    parts = [_IFINFOMSG.pack(0, _ARPHRD_NONE if reply else 0, info.ifindex, flags, info.change)]
    if info.name:
        parts.append(attr_string(_IFNAME, info.name))
    if info.txqlen is not None:
        parts.append(attr_u32(_TXQLEN, info.txqlen))
    if reply:
        parts += attr_u8(_OPERSTATE, info.operstate), attr_u8(_LINKMODE, 0)
    if info.mtu is not None:
        parts.append(attr_u32(_MTU, info.mtu))
    if reply:
        parts.append(_CONSTANT)
    if info.alias is not None:
        parts.append(attr_string(_IFALIAS, info.alias))
    if info.netns_pid is not None:
        parts.append(attr_u32(_NET_NS_PID, info.netns_pid))
    if info.netns_fd is not None:
        parts.append(attr_u32(_NET_NS_FD, info.netns_fd))
    if info.target_nsid is not None:
        parts.append(attr_u32(_TARGET_NETNSID, info.target_nsid))
    if info.stats is not None:
        parts.append(encode_stats(info.stats))
    if info.kind:
        parts.append(encode_linkinfo(info))
    if reply:
        parts += attr_u32(_LINK, info.link or 0), attr_string(_QDISC, "noqueue"), _INET6_SPEC
    return b"".join(parts)


def encode_stats(stats: LinkStats, size: int = _STATS.size) -> bytes:
    """IFLA_STATS64 alone, of at most `size` bytes: kernels of different age have more or fewer counters at the end."""
    return attr(STATS64, _STATS.pack(*(getattr(stats, name) for name in LinkStats.__slots__))[:size])


def encode_linkinfo(info: LinkInfo) -> bytes:
    """IFLA_LINKINFO alone, with the kind and what is said of it. Attributes of link messages that hold others are not
    flagged as nested, by no kernel, and there are programs that would not know them."""
    data = b"" if info.link is None else attr_u32(_XFRM_LINK, info.link)
    if info.if_id is not None:
        data += attr_u32(_XFRM_IF_ID, info.if_id)
    if info.external:
        data += attr(_XFRM_COLLECT_METADATA, b"")
    kind = attr_string(_INFO_KIND, info.kind)
    return attr(_LINKINFO, kind + attr(_INFO_DATA, data) if data else kind)


_CONSTANT: Final = (
    attr_u32(_MIN_MTU, XFRM_LINK_MIN_MTU) + attr_u32(_MAX_MTU, XFRM_LINK_MAX_MTU) + attr_u32(_GROUP, 0)
    + attr_u32(_PROMISCUITY, 0) + attr_u32(_ALLMULTI, 0) + attr_u32(_NUM_TX_QUEUES, 1)
    + attr_u32(_GSO_MAX_SEGS, 65535) + attr_u32(_GSO_MAX_SIZE, 65536) + attr_u32(_NUM_RX_QUEUES, 1)
    + attr_u8(_CARRIER, 1)
)  # fmt: skip
_INET6_SPEC: Final = attr(_AF_SPEC, attr(AF_INET6, attr_u8(_INET6_ADDR_GEN_MODE, _ADDR_GEN_MODE_RANDOM)))


def decode_link(message: Message) -> LinkInfo:
    """What any of the four says. `kind` is "" where nothing is said about it; for other kinds than xfrm their data
    stays unread. XfrmError for a short body or attribute.
    """
    if len(message.body) < _IFINFOMSG.size:
        detail = f"a link message of {len(message.body)} bytes, the fixed part has {_IFINFOMSG.size}"
        raise XfrmError(EINVAL, "Invalid header length", detail)
    _, _, ifindex, flags, change = _IFINFOMSG.unpack_from(message.body)
    attrs = parse_attrs(message.body, _IFINFOMSG.size, _POLICY)
    about = parse_attrs(attrs[_LINKINFO], 0, _LINKINFO_POLICY) if _LINKINFO in attrs else {}
    kind = get_string(about[_INFO_KIND]) if _INFO_KIND in about else ""
    data = parse_attrs(about[_INFO_DATA], 0, _XFRM_POLICY) if kind == "xfrm" and _INFO_DATA in about else {}
    return LinkInfo(
        name=get_string(attrs[_IFNAME]) if _IFNAME in attrs else "",
        ifindex=ifindex,
        if_id=get_optional_u32(data, _XFRM_IF_ID),
        link=get_optional_u32(data, _XFRM_LINK),
        external=_XFRM_COLLECT_METADATA in data,
        kind=kind,
        mtu=get_optional_u32(attrs, _MTU),
        txqlen=get_optional_u32(attrs, _TXQLEN),
        flags=flags,
        change=change,
        operstate=attrs[_OPERSTATE][0] if _OPERSTATE in attrs else 0,
        netns_fd=get_optional_u32(attrs, _NET_NS_FD),
        target_nsid=get_optional_u32(attrs, _TARGET_NETNSID),
        netns_pid=get_optional_u32(attrs, _NET_NS_PID),
        alias=get_string(attrs[_IFALIAS]) if _IFALIAS in attrs else None,
        stats=_stats_of(attrs),
    )


def _stats_of(attrs: Attrs) -> LinkStats | None:
    """Kernels of different age have more or fewer counters at the end."""
    if (value := attrs.get(STATS64)) is None:
        return None
    words = min(len(value) // 8, _STATS_WORDS)
    return LinkStats(*struct.unpack_from(f"={words}Q", value))
