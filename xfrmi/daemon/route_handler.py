"""RTM link messages as a function: RTM_NEWLINK, SETLINK, DELLINK and GETLINK for the xfrm devices of this daemon.

As xfrm_handler: bytes and credentials in, bytes out. What a device may be is decided by the engine (1.1) and, for
names, MTU and namespaces, by the kernel that holds the TUN; a refusal of either comes back with its errno and phrase.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from xfrmi.daemon.credentials import Credentials, may_configure
from xfrmi.errors import XfrmError
from xfrmi.wire import link_msg, netlink
from xfrmi.wire.link_types import (
    IFF_LOWER_UP,
    IFF_NOARP,
    IFF_RUNNING,
    IFF_UP,
    OPER_DOWN,
    OPER_UNKNOWN,
    XFRM_LINK_QLEN,
    LinkInfo,
)
from xfrmi.wire.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_MULTI, NLM_F_REQUEST, Message

if TYPE_CHECKING:
    from xfrmi.core.interface import Interface
    from xfrmi.daemon.devices import Devices

KIND = "xfrm"


def link_info(interface: Interface) -> LinkInfo:
    """An interface as `ip -d -s link` of a kernel with xfrm interfaces shows it (1.3): no carrier to lose (1.2)."""
    return LinkInfo(
        name=interface.name,
        ifindex=interface.ifindex,
        if_id=interface.if_id,
        link=interface.link,
        external=interface.external,
        kind=KIND,
        mtu=interface.mtu,
        txqlen=XFRM_LINK_QLEN,
        flags=IFF_NOARP | (IFF_UP | IFF_RUNNING | IFF_LOWER_UP if interface.up else 0),
        operstate=OPER_UNKNOWN if interface.up else OPER_DOWN,
        stats=interface.stats(),
    )


class RouteHandler:
    def __init__(self, devices: Devices) -> None:
        self._devices = devices

    def handle(self, datagram: bytes, credentials: Credentials) -> list[bytes]:
        """Carry out the requests of `datagram` in order; each is done wholly or not at all."""
        answers: list[bytes] = []
        try:
            for request in netlink.split(datagram):
                answers += self._answer(request, credentials)
        except XfrmError:
            pass  # impossible framing: like the kernel, end here; there is no message to answer
        return answers

    def _answer(self, request: Message, credentials: Credentials) -> list[bytes]:
        try:
            if not request.flags & NLM_F_REQUEST:
                return []
            answers = self._carry_out(request, credentials)
        except XfrmError as failure:
            return [netlink.refusal(request, failure)]
        if request.flags & NLM_F_ACK and not self._is_dump(request):
            answers.append(netlink.ack(request))
        return answers

    @staticmethod
    def _is_dump(request: Message) -> bool:
        return request.is_dump and request.type == link_msg.RTM_GETLINK

    def _carry_out(self, request: Message, credentials: Credentials) -> list[bytes]:
        self._devices.sync()  # what `ip link` of the kernel has done meanwhile counts
        if self._is_dump(request):
            entries = [self._reply(request, device.interface, NLM_F_MULTI) for device in self._devices]
            return list(netlink.datagrams([*entries, netlink.done(request)]))
        if request.type == link_msg.RTM_GETLINK:
            return [self._reply(request, self._existing(link_msg.decode_link(request)), 0)]
        if not may_configure(credentials):
            raise XfrmError(errno.EPERM, detail=f"uid {credentials.uid} may not configure this daemon")
        if request.type == link_msg.RTM_DELLINK:
            self._devices.remove(self._existing(link_msg.decode_link(request)))
        elif request.type in (link_msg.RTM_NEWLINK, link_msg.RTM_SETLINK):
            self._new_or_set(request, link_msg.decode_link(request))
        else:
            raise XfrmError(errno.EOPNOTSUPP, detail=f"message type {request.type} is none of NEW, SET, DEL, GETLINK")
        return []

    def _new_or_set(self, request: Message, info: LinkInfo) -> None:
        # With an ifindex the name is the new one; without it names the device (rtnl_newlink, do_setlink).
        found = self._devices.find(info.ifindex or info.name) if info.ifindex or info.name else None
        if found is None:
            if request.type == link_msg.RTM_NEWLINK and request.flags & NLM_F_CREATE:
                self._add(info)
                return
            raise self._no_device(info)
        if request.flags & NLM_F_EXCL:
            raise XfrmError(errno.EEXIST, detail=f'an interface "{found.name}" exists already')
        self._set(found, info)

    def _add(self, info: LinkInfo) -> None:
        if info.kind != KIND:
            raise XfrmError(errno.EOPNOTSUPP, "Unknown device type", f'only "type {KIND}" is made here')
        interface = self._devices.add(info)
        if netns := self._netns(info):
            self._devices.set(interface, LinkInfo(), netns)

    def _set(self, interface: Interface, info: LinkInfo) -> None:
        """Checks first: the key may be refused by the engine, everything else by the kernel in one order."""
        if info.kind not in ("", KIND):
            raise XfrmError(errno.EOPNOTSUPP, detail=f'"{interface.name}" is of type {KIND} and stays so')
        netns = self._netns(info)
        if info.kind:
            self._devices.change(interface, info)
        changes = info.name not in ("", interface.name) or info.change or netns
        if changes or info.mtu is not None or info.txqlen is not None:
            self._devices.set(interface, info, netns)

    def _netns(self, info: LinkInfo) -> str | None:
        """The path of the namespace to move to. A descriptor number is the client's own and means nothing here."""
        if info.netns_fd is not None:
            raise XfrmError(errno.EINVAL, detail="name the network namespace by a process id, not by a descriptor")
        return None if info.netns_pid is None else f"/proc/{info.netns_pid}/ns/net"

    def _existing(self, info: LinkInfo) -> Interface:
        found = self._devices.find(info.ifindex or info.name) if info.ifindex or info.name else None
        if found is None:
            raise self._no_device(info)
        return found

    @staticmethod
    def _no_device(info: LinkInfo) -> XfrmError:
        which = f'"{info.name}"' if info.name else f"with index {info.ifindex}"
        return XfrmError(errno.ENODEV, detail=f"there is no xfrm interface {which} here")

    def _reply(self, request: Message, interface: Interface, flags: int) -> bytes:
        body = link_msg.encode_link(link_info(interface), reply=True)
        return netlink.message(link_msg.RTM_NEWLINK, flags, request.seq, request.pid, body)
