"""What the kernel says of a TUN that stands for an xfrm device -> what it would say of the xfrm device.

The kernel's own words stay where they are right: names, MTU, flags, addresses' settings, the device it is enslaved to.
What makes it a TUN is left out, what makes it an xfrm device is added (kernel-behaviour 1.2, 1.3), and the counters are
the daemon's, which count as xfrm does. The result is never longer than what it is made of.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from xfrmi.daemon.left_behind import HIDDEN, Tag, read_alias
from xfrmi.dev.tun import GSO_MAX_SIZE, shown_qlen
from xfrmi.wire.link_msg import STATS64, encode_linkinfo, encode_stats
from xfrmi.wire.link_types import IFF_LOWER_UP, IFF_RUNNING, IFF_UP, XFRM_LINK_MAX_MTU, LinkInfo, LinkStats
from xfrmi.wire.netlink import attr, attr_string, attr_u32, get_string, get_u32, parse_attrs

IFLA_IFNAME, IFLA_STATS, IFLA_LINK, IFLA_QDISC, IFLA_LINKINFO, IFLA_IFALIAS = 3, 7, 5, 6, 18, 20
IFLA_LINK_NETNSID, IFLA_GSO_MAX_SIZE, IFLA_MAX_MTU = 37, 41, 51
INFO_KIND, INFO_DATA, INFO_XSTATS = 1, 2, 3
IFF_POINTOPOINT = 0x10
IFF_DORMANT = 0x2_0000
IFF_CONDITION = IFF_UP | IFF_RUNNING | IFF_LOWER_UP | IFF_DORMANT
IFLA_CONDITION = (6, 16, 33, 35, 47, 48)
"""QDISC, OPERSTATE, CARRIER, CARRIER_CHANGES, CARRIER_UP_COUNT, CARRIER_DOWN_COUNT."""
XFRM_GSO_MAX_SIZE = 65536
AF_UNSPEC = 0

IFINFOMSG = struct.Struct("=BxHiII")
RTM_NEWSTATS = 92
STATS_MSG = struct.Struct("=BxxxiI")
"""if_stats_msg: family, ifindex, filter."""
IFLA_STATS_LINK_64 = 1
_ATTR = struct.Struct("=HH")
_STATS32 = struct.Struct("=24I")
_TYPE_MASK = 0x3FFF


class Heard:
    """A link message of the kernel, looked at."""

    __slots__ = ("alias", "body", "family", "hidden", "ifindex", "kind", "tag")

    def __init__(self, body: memoryview) -> None:
        """`body` has at least an ifinfomsg."""
        self.body = body
        self.family, _, self.ifindex, _, _ = IFINFOMSG.unpack_from(body)
        attrs = parse_attrs(body, IFINFOMSG.size)
        info = parse_attrs(attrs[IFLA_LINKINFO]) if IFLA_LINKINFO in attrs else {}
        self.kind = get_string(info[INFO_KIND]) if INFO_KIND in info else ""
        self.alias = get_string(attrs[IFLA_IFALIAS]) if IFLA_IFALIAS in attrs else ""
        self.hidden = IFLA_IFNAME in attrs and get_string(attrs[IFLA_IFNAME]) in HIDDEN
        """A kernel has no such device."""
        self.tag = read_alias(self.alias) if self.kind == "tun" else None

    def as_xfrm(self, tag: Tag, stats: LinkStats | None, link_nsid: int | None) -> bytes:
        """The body as of an xfrm device. `link_nsid` is the number of the namespace where the device below is, None
        if that is here."""
        family, kind, ifindex, flags, change = IFINFOMSG.unpack_from(self.body)
        parts = [IFINFOMSG.pack(family, kind, ifindex, flags & ~IFF_POINTOPOINT, change)]
        parts += (self._attribute(number, value, raw, tag, stats) for number, value, raw in attributes(self.body))
        parts.append(attr_u32(IFLA_LINK, tag.link))
        if link_nsid is not None:
            parts.append(attr_u32(IFLA_LINK_NETNSID, link_nsid))
        return b"".join(parts)

    def in_condition_of(self, other: Heard) -> Heard:
        """This, but up or down, and with a carrier or without, as `other` of the same device says."""
        family, kind, ifindex, flags, change = IFINFOMSG.unpack_from(self.body)
        flags = flags & ~IFF_CONDITION | IFINFOMSG.unpack_from(other.body)[3] & IFF_CONDITION
        its = {number: bytes(raw) for number, _, raw in attributes(other.body) if number in IFLA_CONDITION}
        parts = (its.get(number, bytes(raw)) for number, _, raw in attributes(self.body))
        return Heard(memoryview(IFINFOMSG.pack(family, kind, ifindex, flags, change) + b"".join(parts)))

    @staticmethod
    def _attribute(number: int, value: memoryview, raw: memoryview, tag: Tag, stats: LinkStats | None) -> bytes:
        match number:
            case 5 | 37:  # LINK, LINK_NETNSID
                return b""
            case 20:  # IFALIAS: what is behind ours
                return attr_string(IFLA_IFALIAS, tag.text) if tag.text else b""
            case 6:  # QDISC
                return bytes(raw) if get_string(value) == "noop" else attr_string(IFLA_QDISC, "noqueue")
            case 13:  # TXQLEN
                return attr_u32(number, shown_qlen(get_u32(value)))
            case 18:  # LINKINFO
                return _linkinfo(value, tag)
            case 41 if get_u32(value) == GSO_MAX_SIZE:  # what a TUN can take is nobody's business
                return attr_u32(IFLA_GSO_MAX_SIZE, XFRM_GSO_MAX_SIZE)
            case 51:  # MAX_MTU
                return attr_u32(IFLA_MAX_MTU, XFRM_LINK_MAX_MTU)
            case 23 if stats is not None:
                return encode_stats(stats, len(value))
            case 7 if stats is not None:
                return attr(IFLA_STATS, _stats32(stats)[: len(value)])
        return bytes(raw)


def without_counters(body: bytes) -> bytes:
    """What has to differ for an announcement to be one."""
    return IFINFOMSG.pack(*IFINFOMSG.unpack_from(body)[:4], 0) + b"".join(
        raw for number, _, raw in attributes(memoryview(body)) if number not in (IFLA_STATS, STATS64)
    )


def attributes(body: memoryview, offset: int = IFINFOMSG.size) -> Iterator[tuple[int, memoryview, memoryview]]:
    """(type, value, the whole with its padding) of each attribute."""
    end = len(body)
    while end - offset >= _ATTR.size:
        length, kind = _ATTR.unpack_from(body, offset)
        if not _ATTR.size <= length <= end - offset:
            return
        yield kind & _TYPE_MASK, body[offset + _ATTR.size : offset + length], body[offset : offset + (length + 3 & ~3)]
        offset += length + 3 & ~3


def _linkinfo(value: memoryview, tag: Tag) -> bytes:
    info = LinkInfo(if_id=tag.if_id, link=tag.link, external=tag.external)
    others = b"".join(
        attr(number, bytes(content))
        for number, content in parse_attrs(value).items()
        if number not in (INFO_KIND, INFO_DATA, INFO_XSTATS)
    )
    own = encode_linkinfo(info)
    return attr(IFLA_LINKINFO, own[_ATTR.size :] + others)


def link_stats(body: memoryview, stats: LinkStats) -> bytes:
    """The body of RTM_NEWSTATS with other counters of the device."""
    parts = [bytes(body[: STATS_MSG.size])]
    for number, value, raw in attributes(body, STATS_MSG.size):
        if number == IFLA_STATS_LINK_64:
            (length,) = struct.unpack_from("=H", raw)
            parts.append(_ATTR.pack(length, number) + encode_stats(stats, len(value))[_ATTR.size :])
        else:
            parts.append(bytes(raw))
    return b"".join(parts)


def _stats32(stats: LinkStats) -> bytes:
    return _STATS32.pack(*(getattr(stats, name) & 0xFFFFFFFF for name in LinkStats.__slots__[:24]))
