"""The few questions and orders the daemon has for the kernel's routing socket: links, addresses, one route.

Synchronous and small on purpose: a general netlink library costs more to import than the whole command line. Every
failure is an XfrmError with the kernel's errno and extended-ack text. A socket belongs to the network namespace it was
made in, wherever the process goes afterwards.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import socket
import struct
from typing import NamedTuple

from xfrmi.errors import XfrmError
from xfrmi.wire import netlink
from xfrmi.wire.address import family_of
from xfrmi.wire.link_types import IFF_UP, LinkStats
from xfrmi.wire.netlink import attr, attr_string, attr_u32, get_string, get_u8, get_u32, parse_attrs
from xfrmi.wire.xfrm_const import AF_INET6, AF_UNSPEC

NETLINK_ROUTE = 0
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_GETADDR = 20, 22
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
RTM_NEWQDISC = 36
RTM_NEWNSID, RTM_GETNSID = 88, 90

IFF_MULTICAST = 0x1000

RTN_UNICAST, RTN_LOCAL = 1, 2

_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 270, 10, 11, 12
_NLM_F_DUMP_INTR = 0x10
"""The table changed while it was dumped."""

_IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_TXQLEN, _IFLA_OPERSTATE = 3, 4, 5, 13, 16
_IFLA_LINKINFO, _IFLA_NET_NS_PID, _IFLA_IFALIAS, _IFLA_STATS64, _IFLA_NET_NS_FD = 18, 19, 20, 23, 28
_IFLA_GSO_MAX_SIZE, _IFLA_TARGET_NETNSID = 41, 46
_IFLA_AF_SPEC, _IFLA_INET6_CONF = 26, 2
_CONF6 = struct.Struct("=4xii")
_IFLA_INFO_KIND = 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_SRC, _RTA_OIF, _RTA_PREFSRC, _RTA_METRICS, _RTA_MARK = 1, 2, 4, 7, 8, 16
_RTAX_LOCK, _RTAX_MTU, _RTAX_HOPLIMIT = 1, 2, 10
_RTM_F_FIB_MATCH = 0x2000
_NETNSA_NSID, _NETNSA_FD = 1, 3
_ANY_NSID = 0xFFFFFFFF

_RTGENMSG = bytes(4)
IFINFO = struct.Struct("=BxHiII")
TCMSG = struct.Struct("=BxxxiIII")
_TC_H_ROOT, TCA_KIND = 0xFFFFFFFF, 1
IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_BUFFER = 1 << 17
_ZERO = memoryview(bytes(4))
_ALL_ONES = memoryview(b"\xff" * 4)
_NOTHING = memoryview(b"")


class Link(NamedTuple):
    """A network device of any kind. `link` is the ifindex below it (0: none), `kind` is '' for a physical one."""

    ifindex: int
    name: str
    flags: int
    mtu: int
    qlen: int
    operstate: int
    kind: str
    alias: str
    link: int
    stats: LinkStats
    mtu6: int
    """What IPv6 may use of the MTU: sysctl net.ipv6.conf.NAME.mtu, which routers set. 0 where there is no IPv6."""
    hop_limit6: int
    """Hop limit of what begins here: sysctl net.ipv6.conf.NAME.hop_limit, which routers set. 0 without IPv6."""


class Address(NamedTuple):
    """One of our own addresses, packed."""

    ifindex: int
    address: bytes
    prefixlen: int


class RouteAnswer(NamedTuple):
    """What the kernel would do with a packet. `mtu` is what the route was configured with, in bytes, 0 if it was not;
    `locked` if it is to stay whatever routers on the way say. `hop_limit` is 0, too, where it was not configured."""

    type: int
    ifindex: int
    prefsrc: bytes
    mtu: int
    locked: bool
    hop_limit: int


class Rtnl:
    """One request at a time over one NETLINK_ROUTE socket."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._socket.bind((0, 0))
        self._sequence = itertools.count(1)

    def close(self) -> None:
        self._socket.close()

    # Links

    def link(self, which: str | int, nsid: int | None = None) -> Link | None:
        """The device of that name or ifindex, None if there is none. With `nsid` (netns_id) in another namespace,
        and None, too, if that is no more.
        """
        body = self.link_body(which, nsid)
        return None if body is None else _link(body)

    def link_body(self, which: str | int, nsid: int | None = None) -> memoryview | None:
        """As `link`, what the kernel says of the device, as it says it."""
        index, attributes = (which, b"") if isinstance(which, int) else (0, attr_string(_IFLA_IFNAME, which))
        attributes += b"" if nsid is None else attr_u32(_IFLA_TARGET_NETNSID, nsid)
        try:
            return self._request(RTM_GETLINK, IFINFO.pack(AF_UNSPEC, 0, index, 0, 0) + attributes)[0]
        except XfrmError as error:
            if error.errno == errno.ENODEV or (error.errno == errno.EINVAL and nsid is not None):
                return None
            raise

    def links(self) -> list[Link]:
        return [_link(body) for body in self._request(RTM_GETLINK, IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0), dump=True)]

    def set_link(
        self,
        ifindex: int,
        *,
        up: bool | None = None,
        multicast: bool | None = None,
        mtu: int | None = None,
        name: str | None = None,
        alias: str | None = None,
        txqlen: int | None = None,
        gso_max_size: int | None = None,
        netns_fd: int | None = None,
        netns_pid: int | None = None,
    ) -> None:
        """Change what is given, leave the rest. XfrmError: EPERM, ENODEV, EEXIST (name), EINVAL (mtu)..."""
        flags = change = 0
        for wanted, bit in ((up, IFF_UP), (multicast, IFF_MULTICAST)):
            if wanted is not None:
                change |= bit
                flags |= bit if wanted else 0
        numbers = (
            (mtu, _IFLA_MTU), (txqlen, _IFLA_TXQLEN), (gso_max_size, _IFLA_GSO_MAX_SIZE),
            (netns_fd, _IFLA_NET_NS_FD), (netns_pid, _IFLA_NET_NS_PID),
        )  # fmt: skip
        texts = (name, _IFLA_IFNAME), (alias, _IFLA_IFALIAS)
        attributes = [attr_u32(kind, number) for number, kind in numbers if number is not None]
        attributes += [attr_string(kind, text) for text, kind in texts if text is not None]
        self._request(RTM_SETLINK, IFINFO.pack(AF_UNSPEC, 0, ifindex, flags, change) + b"".join(attributes))

    def set_qdisc(self, ifindex: int, kind: str) -> None:
        """Replace what queues packets for the device. XfrmError ENOENT where the kernel has no such discipline."""
        body = TCMSG.pack(AF_UNSPEC, ifindex, 0, _TC_H_ROOT, 0) + attr_string(TCA_KIND, kind)
        self._request(RTM_NEWQDISC, body, netlink.NLM_F_CREATE | netlink.NLM_F_REPLACE)

    def order(self, kind: int, body: bytes, flags: int = 0) -> None:
        """Any request that is only acknowledged. XfrmError as the kernel refuses it."""
        self._request(kind, body, flags)

    def ask(self, kind: int, body: bytes, dump: bool = False) -> list[memoryview]:
        """The bodies of what answers any other request."""
        return self._request(kind, body, dump=dump)

    def delete_link(self, ifindex: int) -> None:
        self._request(RTM_DELLINK, IFINFO.pack(AF_UNSPEC, 0, ifindex, 0, 0))

    def netns_id(self, netns_fd: int) -> int:
        """The number under which our namespace knows another, given now if it has none. It keeps nothing alive.

        The kernel takes it back when that namespace ends. XfrmError EINVAL if the descriptor is of no namespace.
        """
        which = _RTGENMSG + attr_u32(_NETNSA_FD, netns_fd)
        known = self._netns_id(which)
        if known is None:
            with contextlib.suppress(XfrmError):  # EEXIST: somebody was faster
                self._request(RTM_NEWNSID, which + attr_u32(_NETNSA_NSID, _ANY_NSID))
            known = self._netns_id(which)
        if known is None:
            raise XfrmError(errno.ENOENT, detail="the network namespace gets no number here")
        return known

    def _netns_id(self, which: bytes) -> int | None:
        (answer,) = self._request(RTM_GETNSID, which)
        number = get_u32(parse_attrs(answer, len(_RTGENMSG)).get(_NETNSA_NSID, _ALL_ONES))
        return None if number == _ANY_NSID else number

    # Addresses and routes

    def addresses(self) -> list[Address]:
        """Every address of every device of the namespace, both families."""
        found = []
        for body in self._request(RTM_GETADDR, IFADDR.pack(AF_UNSPEC, 0, 0, 0, 0), dump=True):
            _, prefixlen, _, _, ifindex = IFADDR.unpack_from(body)
            attrs = parse_attrs(body, IFADDR.size)
            # IFA_ADDRESS is the far end of a point-to-point link; IFA_LOCAL, where present, is always ours.
            own = attrs.get(_IFA_LOCAL) or attrs.get(_IFA_ADDRESS, _NOTHING)
            found.append(Address(ifindex, bytes(own), prefixlen))
        return found

    def route(self, dst: bytes, src: bytes = b"", oif: int = 0, mark: int = 0) -> RouteAnswer:
        """Ask the kernel for one route. What it has learned itself about its MTU is left out: it believes forgeries
        (1.7). XfrmError: ENETUNREACH, EINVAL (foreign `src`)...
        """
        asked = attr(_RTA_DST, dst)
        asked += attr(_RTA_SRC, src) if src else b""
        asked += attr_u32(_RTA_OIF, oif) if oif else b""
        asked += attr_u32(_RTA_MARK, mark) if mark else b""
        bits = len(dst) * 8, len(src) * 8
        answer = self._request(RTM_GETROUTE, _RTMSG.pack(family_of(dst), *bits, 0, 0, 0, 0, 0, 0) + asked)[0]
        kind = _RTMSG.unpack_from(answer)[7]
        attrs = parse_attrs(answer, _RTMSG.size)
        mtu, locked = _mtu_metric(attrs)
        if mtu:  # of the table, or learned? The entry in the table knows the one, and nothing of sources and devices
            entry = self._request(
                RTM_GETROUTE, _RTMSG.pack(family_of(dst), *bits, 0, 0, 0, 0, 0, _RTM_F_FIB_MATCH) + asked
            )[0]
            mtu, locked = _mtu_metric(parse_attrs(entry, _RTMSG.size))
        return RouteAnswer(
            kind, get_u32(attrs.get(_RTA_OIF, _ZERO)), bytes(attrs.get(_RTA_PREFSRC, b"")), mtu, locked,
            get_u32(parse_attrs(attrs.get(_RTA_METRICS, _NOTHING)).get(_RTAX_HOPLIMIT, _ZERO)),
        )  # fmt: skip

    # One exchange

    def _request(self, kind: int, body: bytes, flags: int = 0, dump: bool = False) -> list[memoryview]:
        """Send one request and return the bodies of its answers (none for a bare acknowledgement)."""
        flags |= netlink.NLM_F_REQUEST | (netlink.NLM_F_DUMP if dump else netlink.NLM_F_ACK)
        while True:
            sequence = next(self._sequence)
            self._socket.send(netlink.message(kind, flags, sequence, 0, body))
            answers, torn = self._answers(sequence)
            if not torn:
                return answers

    def _answers(self, sequence: int) -> tuple[list[memoryview], bool]:
        """Collect up to DONE or the acknowledgement; `torn` if the table changed under the dump (ask again)."""
        answers: list[memoryview] = []
        torn = False
        while True:
            for message in netlink.split(self._socket.recv(_BUFFER)):
                if message.seq != sequence:  # left over from a request that failed half-way
                    continue
                torn |= bool(message.flags & _NLM_F_DUMP_INTR)
                if message.type in (netlink.NLMSG_ERROR, netlink.NLMSG_DONE):
                    netlink.raise_error(message)
                    return answers, torn
                answers.append(message.body)


def _mtu_metric(attrs: dict[int, memoryview]) -> tuple[int, bool]:
    """(MTU of a route or 0, whether it is locked)."""
    metrics = parse_attrs(attrs.get(_RTA_METRICS, _NOTHING))
    locks = get_u32(metrics.get(_RTAX_LOCK, _ZERO))
    return get_u32(metrics.get(_RTAX_MTU, _ZERO)), bool(locks & 1 << _RTAX_MTU)


def _link(body: memoryview) -> Link:
    _, _, ifindex, flags, _ = IFINFO.unpack_from(body)
    attrs = parse_attrs(body, IFINFO.size)
    info = parse_attrs(attrs.get(_IFLA_LINKINFO, _NOTHING))
    counters = attrs.get(_IFLA_STATS64, _NOTHING)
    count = min(len(counters) // 8, len(LinkStats.__dataclass_fields__))
    hop_limit6, mtu6 = _conf6(attrs)
    return Link(
        ifindex,
        get_string(attrs.get(_IFLA_IFNAME, _NOTHING)),
        flags,
        get_u32(attrs.get(_IFLA_MTU, _ZERO)),
        get_u32(attrs.get(_IFLA_TXQLEN, _ZERO)),
        get_u8(attrs.get(_IFLA_OPERSTATE, _ZERO)),
        get_string(info.get(_IFLA_INFO_KIND, _NOTHING)),
        get_string(attrs.get(_IFLA_IFALIAS, _NOTHING)),
        get_u32(attrs.get(_IFLA_LINK, _ZERO)),
        LinkStats(*struct.unpack_from(f"={count}Q", counters)),
        mtu6,
        hop_limit6,
    )


def _conf6(attrs: dict[int, memoryview]) -> tuple[int, int]:
    """(hop limit, MTU) of a device for IPv6."""
    families = parse_attrs(attrs.get(_IFLA_AF_SPEC, _NOTHING))
    conf = parse_attrs(families.get(AF_INET6, _NOTHING)).get(_IFLA_INET6_CONF, _NOTHING)
    return _CONF6.unpack_from(conf) if len(conf) >= _CONF6.size else (0, 0)
