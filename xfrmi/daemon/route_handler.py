"""RTM link messages as a function: RTM_NEWLINK, SETLINK, DELLINK and GETLINK for the xfrm devices of this daemon.

What a device may be is decided by the engine (1.1) and, for names, MTU and namespaces, by the kernel that holds the
TUN; a refusal of either comes back with its errno and phrase.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from xfrmi.daemon.credentials import Credentials, may_configure
from xfrmi.daemon.handler import Handler
from xfrmi.dev.rtnl import IFF_MULTICAST, RTM_GETROUTE
from xfrmi.errors import XfrmError
from xfrmi.wire import link_msg, netlink
from xfrmi.wire.link_types import (
    IFF_LOWER_UP,
    IFF_NOARP,
    IFF_RUNNING,
    IFF_UP,
    OPER_DOWN,
    OPER_UNKNOWN,
    LinkInfo,
)
from xfrmi.wire.netlink import NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Message

if TYPE_CHECKING:
    from xfrmi.core.interface import Interface
    from xfrmi.daemon.devices import Devices
    from xfrmi.daemon.xfrm_device import XfrmDevice

KIND = "xfrm"


def link_info(device: XfrmDevice, alias: str = "") -> LinkInfo:
    """A device as `ip -d -s link` of a kernel with xfrm interfaces shows it (1.3): no carrier to lose (1.2)."""
    interface = device.interface
    up = IFF_UP | IFF_RUNNING | IFF_LOWER_UP if interface.up else 0
    return LinkInfo(
        name=interface.name,
        ifindex=interface.ifindex,
        if_id=interface.if_id,
        link=interface.link,
        external=interface.external,
        kind=KIND,
        mtu=interface.mtu,
        txqlen=device.txqlen,
        alias=alias or None,
        flags=IFF_NOARP | up | (IFF_MULTICAST if device.multicast else 0),
        operstate=OPER_UNKNOWN if interface.up else OPER_DOWN,
        stats=interface.stats(),
    )


class RouteHandler(Handler):
    dumps = frozenset({link_msg.RTM_GETLINK})

    def __init__(self, devices: Devices, hear: Callable[[], None] = lambda: None) -> None:
        """`hear` takes in what routers have said by now."""
        self._devices = devices
        self._hear = hear

    def carry_out(self, request: Message, credentials: Credentials) -> Iterable[bytes]:
        if request.type == RTM_GETROUTE:  # for the kernel to answer, when it knows what we know
            self._hear()
            return ()
        self._devices.sync()  # what `ip link` of the kernel has done meanwhile counts
        if self.is_dump(request):
            return self.dump(request, link_msg.RTM_NEWLINK, map(self._body, list(self._devices)))
        if request.type == link_msg.RTM_GETLINK:
            body = self._body(self._devices[self._existing(link_msg.decode_link(request))])
            return (netlink.message(link_msg.RTM_NEWLINK, 0, request.seq, request.pid, body),)
        if not may_configure(credentials):
            raise XfrmError(errno.EPERM, detail=f"uid {credentials.uid} may not configure this daemon")
        if request.type == link_msg.RTM_DELLINK:
            self._devices.remove(self._existing(link_msg.decode_link(request)))
        elif request.type in (link_msg.RTM_NEWLINK, link_msg.RTM_SETLINK):
            self._new_or_set(request, link_msg.decode_link(request), credentials)
        else:
            raise XfrmError(errno.EOPNOTSUPP, detail=f"message type {request.type} is none of NEW, SET, DEL, GETLINK")
        return ()

    def _new_or_set(self, request: Message, info: LinkInfo, credentials: Credentials) -> None:
        # With an ifindex the name is the new one; without it names the device (rtnl_newlink, do_setlink).
        found = self._find(info)
        if found is None:
            if request.type == link_msg.RTM_NEWLINK and request.flags & NLM_F_CREATE:
                self._add(info, _netns_fd(info, credentials))
                return
            raise self._no_device(info)
        if request.flags & NLM_F_EXCL:
            raise XfrmError(errno.EEXIST, detail=f'an interface "{found.name}" exists already')
        if request.flags & NLM_F_REPLACE:
            raise XfrmError(errno.EOPNOTSUPP, detail="a device is changed or deleted, not replaced")
        self._set(found, info, _netns_fd(info, credentials))

    def _add(self, info: LinkInfo, netns_fd: int | None) -> None:
        if info.kind != KIND:
            raise XfrmError(errno.EOPNOTSUPP, "Unknown device type", f'only "type {KIND}" is made here')
        interface = self._devices.add(info)
        if netns_fd is not None or info.netns_pid is not None:
            try:
                self._devices.set(interface, LinkInfo(netns_pid=info.netns_pid), netns_fd)
            except XfrmError:
                self._devices.remove(interface)
                raise

    def _set(self, interface: Interface, info: LinkInfo, netns_fd: int | None) -> None:
        """The key is the engine's to refuse, all else the kernel's: nothing has changed unless both agree."""
        if info.kind not in ("", KIND):
            raise XfrmError(errno.EOPNOTSUPP, detail=f'"{interface.name}" is of type {KIND} and stays so')
        if info.kind:
            self._devices.check_change(interface, info)
        name = "" if info.name == interface.name else info.name
        moves = netns_fd is not None or info.netns_pid is not None
        if name or info.change or info.alias is not None or moves or info.mtu is not None or info.txqlen is not None:
            self._devices.set(interface, replace(info, name=name), netns_fd)
        if info.kind:
            self._devices.change(interface, info)

    def _existing(self, info: LinkInfo) -> Interface:
        found = self._find(info)
        if found is None:
            raise self._no_device(info)
        return found

    def _find(self, info: LinkInfo) -> Interface | None:
        return self._devices.find(info.ifindex or info.name, info.target_nsid) if info.ifindex or info.name else None

    def _body(self, device: XfrmDevice) -> bytes:
        return link_msg.encode_link(link_info(device, self._devices.alias(device)), reply=True)

    @staticmethod
    def _no_device(info: LinkInfo) -> XfrmError:
        which = f'"{info.name}"' if info.name else f"with index {info.ifindex}"
        return XfrmError(errno.ENODEV, detail=f"there is no xfrm interface {which} here")


def _netns_fd(info: LinkInfo, credentials: Credentials) -> int | None:
    """The namespace to move to, among the descriptors that came with the request."""
    if info.netns_fd is None:
        return None
    if info.netns_fd >= len(credentials.fds):
        raise XfrmError(errno.EBADF, detail="the descriptor of the network namespace did not come with the request")
    return credentials.fds[info.netns_fd]
