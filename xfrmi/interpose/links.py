"""xfrm links through NETLINK_ROUTE: which requests go to the daemon, and how its TUNs look like what they stand for.

To the daemon go requests that name the kind "xfrm" (make one, change its if_id), and those that would overwrite the
alias by which it knows its devices. All other requests, also those about xfrm devices (up, name, MTU, addresses,
delete, move elsewhere), are carried out by the kernel on the TUN, and the daemon follows.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator

from xfrmi.daemon.left_behind import Tag
from xfrmi.daemon.runtime import ROUTE_SOCKET
from xfrmi.dev.netns import inside, open_netns
from xfrmi.dev.rtnl import RTM_DELLINK, RTM_GETLINK, RTM_GETROUTE, RTM_NEWLINK, RTM_SETLINK, Rtnl
from xfrmi.errors import XfrmError
from xfrmi.interpose.carrier import Carrier, Show
from xfrmi.interpose.link_view import (
    AF_UNSPEC,
    IFF_POINTOPOINT,
    IFINFOMSG,
    IFLA_IFALIAS,
    IFLA_LINKINFO,
    INFO_KIND,
    Heard,
    without_counters,
)
from xfrmi.interpose.requests import answer
from xfrmi.interpose.task import Task
from xfrmi.interpose.world import World
from xfrmi.interpose.worlds import Worlds
from xfrmi.wire import link_msg, netlink
from xfrmi.wire.link_types import LinkInfo, LinkStats
from xfrmi.wire.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, Message, attr, attr_u32, get_string, get_u32

KIND = "xfrm"
IFLA_IFNAME, IFLA_NET_NS_PID, IFLA_NET_NS_FD = 3, 19, 28
DAEMON_KNOWS = frozenset({IFLA_IFNAME, 4, 5, 13, IFLA_LINKINFO, IFLA_NET_NS_PID, IFLA_IFALIAS, IFLA_NET_NS_FD})
"""IFLA_*: also MTU, LINK (which an xfrm device takes from its own data) and TXQLEN."""
WITHOUT_EFFECT = frozenset({29, 31, 32, 37})
"""EXT_MASK, NUM_TX_QUEUES, NUM_RX_QUEUES, LINK_NETNSID."""
MOST_ANSWERS = 1 << 16

_LENGTH = struct.Struct("=I")


class Links:
    def __init__(self, worlds: Worlds) -> None:
        self._worlds = worlds
        self._answers = bytearray(MOST_ANSWERS)

    # Requests ----------------------------------------------------------------------------------------------------

    def send(self, carrier: Carrier, sock: socket.socket, task: Task, request: memoryview) -> bool:
        """Carry out what a program sends. False: nothing of it concerns xfrm links, the kernel is to do it.

        OSError ECONNREFUSED if a daemon is needed and there is none.
        """
        messages = []
        with contextlib.suppress(XfrmError):  # what cannot be taken apart is the kernel's
            messages = list(netlink.split(request))
        if any(message.type == RTM_GETROUTE and not message.is_dump for message in messages):
            self._let_hear(carrier.world)
        kinds = [_concern(message) for message in messages]
        if not any(kinds) or (len(kinds) > 1 and not task.may_configure(carrier.world.owners)):
            return False
        for message, kind in zip(messages, kinds, strict=True):
            if kind == "dump":
                self._dump(carrier, sock, message)
            elif not kind or not self._ask(carrier, sock, task, message):
                if len(messages) == 1:
                    return False
                sock.send(netlink.message(*message[:4], bytes(message.body)))
        return True

    def _ask(self, carrier: Carrier, sock: socket.socket, task: Task, message: Message) -> bool:
        """By the daemon. False if it is the kernel's business after all."""
        world = carrier.world
        if not task.may_configure(world.owners):
            return False
        attrs = netlink.parse_attrs(message.body, IFINFOMSG.size)
        makes_one = _kind(attrs) == KIND
        if not world.attach(start=makes_one):
            if makes_one:
                raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
            return False
        place = _netns_fd(task, attrs)
        fds = () if place is None else (place,)
        try:
            failure = self._carry_out(world, _for_daemon(message, attrs), fds)
        finally:
            for fd in fds:
                os.close(fd)
        if failure is not None and failure.errno == errno.ENODEV and not makes_one:
            return False
        if failure is None and makes_one:
            failure = self._set_the_rest(world, message, attrs)
        if failure is not None or message.flags & NLM_F_ACK:
            said = netlink.ack(message) if failure is None else netlink.refusal(message, failure)
            answer(carrier, sock, said, sock.getsockname()[0])
        return True

    def _carry_out(self, world: World, request: bytes, fds: tuple[int, ...] = ()) -> XfrmError | None:
        """One request that asks for an acknowledgement. None if it was done."""
        for reply in self._replies(world, request, fds):
            try:
                netlink.raise_error(reply)
            except XfrmError as failure:
                return failure
        return None

    def _replies(self, world: World, request: bytes, fds: tuple[int, ...] = ()) -> Iterator[Message]:
        exchange = world.request(ROUTE_SOCKET, memoryview(request), fds)
        try:
            while length := exchange.receive_into(self._answers):
                yield from netlink.split(bytes(memoryview(self._answers)[:length]))
        finally:
            exchange.close()

    def _set_the_rest(self, world: World, message: Message, attrs: netlink.Attrs) -> XfrmError | None:
        """What a new device is to be besides (its group, the VRF it belongs to) the kernel sets, or it is no device."""
        rest = [
            attr(kind, bytes(value)) for kind, value in attrs.items() if kind not in DAEMON_KNOWS | WITHOUT_EFFECT
        ]
        if not rest or not message.flags & NLM_F_CREATE:
            return None
        if IFLA_IFNAME not in attrs or IFLA_NET_NS_FD in attrs or IFLA_NET_NS_PID in attrs:
            return XfrmError(errno.EOPNOTSUPP, detail="a device with such attributes needs a name, and is made here")
        name = attr(IFLA_IFNAME, bytes(attrs[IFLA_IFNAME]))
        any_device = IFINFOMSG.pack(AF_UNSPEC, 0, 0, 0, 0)
        with self._rtnl(world) as rtnl:
            try:
                rtnl.order(RTM_SETLINK, any_device + name + b"".join(rest))
            except XfrmError as failure:
                undo = netlink.message(RTM_DELLINK, NLM_F_REQUEST | NLM_F_ACK, 0, 0, any_device + name)
                self._carry_out(world, undo)
                return failure
        return None

    def _let_hear(self, world: World) -> None:
        """A kernel has dealt with an ICMP error when it is asked for the route; of ESP the daemon has to tell it."""
        with contextlib.suppress(OSError, XfrmError):
            if world.attach(start=False):
                self._carry_out(world, netlink.message(RTM_GETROUTE, NLM_F_REQUEST | NLM_F_ACK, 0, 0))

    @staticmethod
    def _rtnl(world: World) -> contextlib.closing[Rtnl]:
        with inside(world.netns_fd):
            return contextlib.closing(Rtnl())

    @staticmethod
    def _dump(carrier: Carrier, sock: socket.socket, message: Message) -> None:
        """Of devices of kind xfrm: a kernel that does not know the kind would show all, and none of ours is one."""
        body = bytes(message.body).replace(b"xfrm\0", b"tun\0\0", 1)
        carrier.link_kind = message.seq
        sock.send(netlink.message(*message[:4], body))

    # What the kernel says ----------------------------------------------------------------------------------------

    def show(self, carrier: Carrier, peek: bool) -> Show:
        """How datagrams on this socket are to be shown."""
        return lambda buffer, length: self._show(carrier, buffer, length, peek)

    def _show(self, carrier: Carrier, buffer: bytearray, length: int, peek: bool) -> int:
        parts: list[bytes] | None = None
        start = 0
        view = memoryview(buffer)
        while length - start >= netlink.NLMSG_HDRLEN:
            (size,) = _LENGTH.unpack_from(buffer, start)
            end = min(start + (size + 3 & ~3), length)
            if size < netlink.NLMSG_HDRLEN:
                break
            message = next(netlink.split(view[start:end]), None)
            if message is not None:
                seen = self._message(carrier, message, peek)
                if seen is not None and parts is None:
                    parts = [bytes(view[:start])]
                if parts is not None:
                    parts.append(bytes(view[start:end]) if seen is None else seen)
            start = end
        if parts is None:
            return length
        shown = b"".join(parts)
        assert len(shown) <= len(buffer)
        buffer[: len(shown)] = shown
        return len(shown)

    def _message(self, carrier: Carrier, message: Message, peek: bool) -> bytes | None:
        """What is to be seen instead of this message: nothing, or another. None: this message."""
        if message.type == netlink.NLMSG_DONE and message.seq == carrier.link_kind and not peek:
            carrier.link_kind = None
        if message.type not in (RTM_NEWLINK, RTM_DELLINK) or len(message.body) < IFINFOMSG.size:
            return None
        heard = Heard(message.body)
        is_event = not message.seq
        if heard.hidden and (is_event or message.flags & netlink.NLM_F_MULTI):
            return b""
        if heard.family != AF_UNSPEC:
            return self._of_a_family(carrier, message) if heard.ifindex in carrier.seen_links else None
        tag = heard.tag
        if tag is None:
            if carrier.link_kind is not None and message.seq == carrier.link_kind:
                return b""
            if not is_event or heard.kind != "tun" or heard.alias:
                return None
            finished = self._finished(carrier.world, heard)
            if finished is None or finished.tag is None:
                return None
            heard, tag = finished, finished.tag
        home = self._worlds.find(tag.home)
        stats = None if is_event or home is None else self._stats(home, carrier.world, heard, tag)
        away = tag.home != carrier.world.inode
        body = heard.as_xfrm(tag, stats, self._nsid(carrier.world, home) if away else None)
        if is_event:
            told = without_counters(body)
            if message.type == RTM_NEWLINK and carrier.seen_links.get(heard.ifindex) == told:
                return b""
            if not peek:
                if message.type == RTM_NEWLINK:
                    carrier.seen_links[heard.ifindex] = told
                else:
                    carrier.seen_links.pop(heard.ifindex, None)
        return netlink.message(message.type, message.flags, message.seq, message.pid, body)

    @staticmethod
    def _of_a_family(carrier: Carrier, message: Message) -> bytes:
        """IPv6 announces its settings of a device in messages of its own, with the device's flags."""
        family, kind, ifindex, flags, change = IFINFOMSG.unpack_from(message.body)
        body = IFINFOMSG.pack(family, kind, ifindex, flags & ~IFF_POINTOPOINT, change)
        rest = bytes(message.body[IFINFOMSG.size :])
        return netlink.message(message.type, message.flags, message.seq, message.pid, body + rest)

    def _finished(self, world: World, heard: Heard) -> Heard | None:
        """A TUN is announced before the daemon has made an xfrm device of it. When the daemon answers, it has: then
        what it has become is announced instead. None if the TUN is somebody else's."""
        if not world.hub_port or self._daemons(world, heard.ifindex) is None:
            return None
        with contextlib.suppress(XfrmError, OSError), self._rtnl(world) as rtnl:
            body = rtnl.link_body(heard.ifindex)
            return None if body is None else Heard(body)
        return None

    def _daemons(self, world: World, ifindex: int) -> LinkInfo | None:
        request = netlink.message(RTM_GETLINK, NLM_F_REQUEST, 0, 0, IFINFOMSG.pack(0, 0, ifindex, 0, 0))
        with contextlib.suppress(OSError, XfrmError):
            for reply in self._replies(world, request):
                if reply.type == RTM_NEWLINK:
                    return link_msg.decode_link(reply)
        return None

    def _stats(self, home: World, here: World, heard: Heard, tag: Tag) -> LinkStats | None:
        if not home.hub_port:
            return None
        if home is here:
            found = self._daemons(home, heard.ifindex)
            return found.stats if found is not None else None
        dump = netlink.message(RTM_GETLINK, NLM_F_REQUEST | netlink.NLM_F_DUMP, 0, 0, IFINFOMSG.pack(0, 0, 0, 0, 0))
        stats = None
        with contextlib.suppress(OSError, XfrmError):
            for reply in self._replies(home, dump):
                if reply.type == RTM_NEWLINK:
                    link = link_msg.decode_link(reply)
                    if (link.external, link.if_id) == (tag.external, tag.if_id):
                        stats = link.stats
        return stats

    @staticmethod
    def _nsid(here: World, home: World | None) -> int | None:
        """The number under which a namespace knows another."""
        if home is None:
            return None
        with contextlib.suppress(XfrmError, OSError), Links._rtnl(here) as rtnl:
            return rtnl.netns_id(home.netns_fd)
        return None


def _kind(attrs: netlink.Attrs) -> str:
    info = netlink.parse_attrs(attrs[IFLA_LINKINFO]) if IFLA_LINKINFO in attrs else {}
    return get_string(info[INFO_KIND]) if INFO_KIND in info else ""


def _concern(message: Message) -> str:
    """'ask': perhaps the daemon's business; 'dump': of xfrm devices; '': the kernel's."""
    if not message.flags & NLM_F_REQUEST or message.type not in (RTM_NEWLINK, RTM_SETLINK, RTM_GETLINK):
        return ""
    if len(message.body) < IFINFOMSG.size:
        return ""
    attrs = netlink.parse_attrs(message.body, IFINFOMSG.size)
    is_xfrm = _kind(attrs) == KIND
    if message.type == RTM_GETLINK:
        return "dump" if is_xfrm and message.is_dump else ""
    return "ask" if is_xfrm or IFLA_IFALIAS in attrs else ""


def _for_daemon(message: Message, attrs: netlink.Attrs) -> bytes:
    """The request as the daemon takes it: acknowledged, and a namespace named by the descriptor that comes along."""
    body = bytes(message.body[: IFINFOMSG.size])
    for kind, value in attrs.items():
        if kind in (IFLA_NET_NS_PID, IFLA_NET_NS_FD):
            body += attr_u32(IFLA_NET_NS_FD, 0)
        elif kind in DAEMON_KNOWS:
            body += attr(kind, bytes(value))
    return netlink.message(message.type, message.flags | NLM_F_ACK, message.seq, message.pid, body)


def _netns_fd(task: Task, attrs: netlink.Attrs) -> int | None:
    """A descriptor of the namespace that a program means. OSError EBADF, XfrmError ENOENT."""
    if IFLA_NET_NS_FD in attrs and len(attrs[IFLA_NET_NS_FD]) >= 4:
        return task.copy_fd(get_u32(attrs[IFLA_NET_NS_FD]))
    if IFLA_NET_NS_PID in attrs and len(attrs[IFLA_NET_NS_PID]) >= 4:
        return open_netns(f"/proc/{get_u32(attrs[IFLA_NET_NS_PID])}/ns/net")
    return None


