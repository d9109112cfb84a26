"""The devices and addresses of a host, as far as policies for all of them are concerned, and when they change."""

from __future__ import annotations

from typing import NamedTuple

from xfrmi.dev.rtnl import IFINFO, RTM_GETLINK, Rtnl
from xfrmi.wire.netlink import get_string, parse_attrs
from xfrmi.wire.xfrm_const import AF_INET, AF_UNSPEC

ARPHRD_ETHER, ARPHRD_RAWIP, ARPHRD_LOOPBACK, ARPHRD_NONE = 1, 519, 772, 65534

# RTMGRP_*: LINK, IPV4_IFADDR, IPV6_IFADDR, and group 24, IPV4_NETCONF
CHANGES = 0x1 | 0x10 | 0x100 | 1 << 23
"""Announcements (announcements.py) of devices, addresses, and switches for forwarding."""

_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_AF_SPEC = 3, 18, 20, 26
_INFO_KIND, _INFO_SLAVE_KIND = 1, 4
_INET_CONF = 1
_FORWARDING, _NO_XFRM, _NO_POLICY = 1, 15, 16
"""IPV4_DEVCONF_*: numbers of a device's switches, from one."""
_NOTHING = memoryview(b"")


class HostDevice(NamedTuple):
    """A network device of any kind."""

    ifindex: int
    name: str
    type: int
    """ARPHRD_*."""
    kind: str
    alias: str
    port_of: str
    """Kind of the device that it is a part of: "bridge", "bond", "vrf"; '' if of none."""
    forwards: bool
    """IPv4 that comes in here may be forwarded."""
    no_xfrm: bool
    """What of IPv4 leaves here meets no policies (sysctl disable_xfrm)."""
    no_policy: bool
    """What of IPv4 comes in here meets no policies (sysctl disable_policy)."""


def host_devices(rtnl: Rtnl) -> list[HostDevice]:
    """All of the network namespace."""
    return [_device(body) for body in rtnl.ask(RTM_GETLINK, IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0), dump=True)]


def _device(body: memoryview) -> HostDevice:
    _, kind, ifindex, _, _ = IFINFO.unpack_from(body)
    attrs = parse_attrs(body, IFINFO.size)
    info = parse_attrs(attrs.get(_IFLA_LINKINFO, _NOTHING))
    families = parse_attrs(attrs.get(_IFLA_AF_SPEC, _NOTHING))
    conf = parse_attrs(families.get(AF_INET, _NOTHING)).get(_INET_CONF, _NOTHING)
    return HostDevice(
        ifindex,
        get_string(attrs.get(_IFLA_IFNAME, _NOTHING)),
        kind,
        get_string(info.get(_INFO_KIND, _NOTHING)),
        get_string(attrs.get(_IFLA_IFALIAS, _NOTHING)),
        get_string(info.get(_INFO_SLAVE_KIND, _NOTHING)),
        *(any(conf[4 * (switch - 1) : 4 * switch]) for switch in (_FORWARDING, _NO_XFRM, _NO_POLICY)),
    )


def own_addresses(rtnl: Rtnl) -> set[bytes]:
    """Packed addresses that packets may have as their destination to be for this host; multicast left out."""
    own = set()
    for _, address, prefixlen in rtnl.addresses():
        own.add(address)
        if len(address) == 4 and prefixlen < 31:
            own.add(broadcast_of(address, prefixlen))
    return own | {b"\xff\xff\xff\xff"}


def broadcast_of(address: bytes, prefixlen: int) -> bytes:
    """Of an IPv4 network. The kernel makes its route itself, whether or not the address was given it."""
    return (int.from_bytes(address) | (1 << 32 - prefixlen) - 1).to_bytes(4)
