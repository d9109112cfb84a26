"""The TUNs behind policies without if_id: into one go packets that have to become ESP, and what has come as ESP comes
out of it; into the other go packets that came in the clear where ESP was due.

A kernel has no such devices, so they are no users' business: no addresses, no routes. They have fixed names, by which
`xfrmi exec` hides them, and an alias that tells whose they are.
"""

from __future__ import annotations

import contextlib
import errno

from xfrmi.dev.rtnl import IFADDR, IFINFO, RTM_NEWADDR, RTM_SETLINK, Rtnl
from xfrmi.dev.sysctl import read_sysctl
from xfrmi.dev.tun import Tun, name_of, shape_like_xfrm
from xfrmi.errors import XfrmError
from xfrmi.wire.netlink import NLA_F_NESTED, NLM_F_CREATE, NLM_F_REPLACE, attr, attr_u8, attr_u32
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6, AF_UNSPEC

_MTU = 65535
"""The states decide what fits."""
_GSO_MAX_SIZE = 65536
"""Super-packets were made for another device, and are as large as that takes."""
_IFLA_AF_SPEC, _INET_CONF, _INET6_ADDR_GEN_MODE = 26, 1, 8
_FORWARDING, _RP_FILTER = 1, 8
_OFF, _LOOSE, _NO_ADDRESSES = 0, 2, 1
_DUMMY, _SCOPE_HOST = bytes((192, 0, 0, 8)), 254
"""An address that stands for none (RFC 7600), and is told nobody."""
_IFA_ADDRESS, _IFA_LOCAL = 1, 2


def open_hidden(rtnl: Rtnl, name: str, alias: str) -> tuple[Tun, int]:
    """Make the TUN, or take over the one that is there; it is up. Also its ifindex. XfrmError as Tun."""
    tun = Tun(name, persist=True)
    try:
        link = rtnl.link(name)
        if link is None:
            raise XfrmError(errno.ENODEV, detail=f'the TUN "{name}" vanished')
        shape_like_xfrm(rtnl, name, _MTU)
        with contextlib.suppress(XfrmError):
            rtnl.set_link(link.ifindex, gso_max_size=_GSO_MAX_SIZE)
        _give_address(rtnl, link.ifindex)
        with contextlib.suppress(XfrmError):  # no IPv6
            _configure(rtnl, link.ifindex, attr(AF_INET6 | NLA_F_NESTED, attr_u8(_INET6_ADDR_GEN_MODE, _NO_ADDRESSES)))
        rtnl.set_link(link.ifindex, alias=alias, up=True)
    except XfrmError:
        remove(tun)
        raise
    return tun, link.ifindex


def adopt_hidden(rtnl: Rtnl, fd: int) -> tuple[Tun, int]:
    """One that another process has opened, as it is. XfrmError as Tun."""
    tun = Tun(name_of(fd), persist=True, fd=fd, alone=True)
    link = rtnl.link(tun.name)
    if link is None:
        raise XfrmError(errno.ENODEV, detail=f'the TUN "{tun.name}" vanished')
    return tun, link.ifindex


def _give_address(rtnl: Rtnl, ifindex: int) -> None:
    """What a device says of the reverse-path filter counts with an address only, whatever address that is."""
    body = IFADDR.pack(AF_INET, 32, 0, _SCOPE_HOST, ifindex) + attr(_IFA_LOCAL, _DUMMY) + attr(_IFA_ADDRESS, _DUMMY)
    rtnl.order(RTM_NEWADDR, body, NLM_F_CREATE | NLM_F_REPLACE)


def reverse_path_filter() -> int:
    """The rp_filter for what comes out of the TUN. A kernel asks nobody for the way back of what was IPsec; it would
    be by another device, if there is one. The host's filter for all devices, which may be strict, is stronger than
    "off", but weaker than "loose"."""
    return _LOOSE if read_sysctl("net/ipv4/conf/all/rp_filter", _LOOSE) else _OFF


def set_switches(rtnl: Rtnl, ifindex: int, forwards: bool, rp_filter: int) -> None:
    """Whether IPv4 that comes out of it may be forwarded (in IPv6 that is no matter of a device), and its rp_filter."""
    switches = attr_u32(_FORWARDING, int(forwards)) + attr_u32(_RP_FILTER, rp_filter)
    _configure(rtnl, ifindex, attr(AF_INET | NLA_F_NESTED, attr(_INET_CONF | NLA_F_NESTED, switches)))


def remove(tun: Tun) -> None:
    with contextlib.suppress(OSError):
        tun.set_persist(False)
    tun.close()


def _configure(rtnl: Rtnl, ifindex: int, settings: bytes) -> None:
    rtnl.order(RTM_SETLINK, IFINFO.pack(AF_UNSPEC, 0, ifindex, 0, 0) + attr(_IFLA_AF_SPEC | NLA_F_NESTED, settings))
