"""xfrm links through NETLINK_ROUTE: which requests go to a daemon, and which do not stay as they are.

To a daemon go requests that name the kind "xfrm" and say something about it: to that of the namespace where the device
is to be, or of the one from which it has been moved away. Requests that give an xfrm device an alias are carried out
with an alias that also says what the device is (daemon/left_behind.py). What a TUN can do and an xfrm device cannot
(lose its carrier) is refused. All other requests, also those about xfrm devices (up, name, MTU, addresses, delete, move
elsewhere), are the kernel's, on the TUN, and the daemon follows.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator

from xfrmi.daemon.left_behind import Tag, write_alias
from xfrmi.dev.netns import open_netns
from xfrmi.dev.rtnl import IFF_MULTICAST, RTM_DELLINK, RTM_GETLINK, RTM_GETROUTE, RTM_NEWLINK, RTM_SETLINK
from xfrmi.errors import XfrmError
from xfrmi.interpose.carrier import Carrier
from xfrmi.interpose.link_questions import Questions, heard_at, kernel
from xfrmi.interpose.link_view import (
    AF_UNSPEC,
    IFINFOMSG,
    IFLA_IFALIAS,
    IFLA_LINKINFO,
    INFO_DATA,
    INFO_KIND,
    Heard,
    attributes,
)
from xfrmi.interpose.requests import answer
from xfrmi.interpose.task import Task
from xfrmi.interpose.world import World
from xfrmi.interpose.worlds import Worlds
from xfrmi.wire import link_msg, netlink
from xfrmi.wire.link_types import IFF_UP
from xfrmi.wire.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    Message,
    attr,
    attr_string,
    attr_u32,
    get_string,
    get_u32,
)

KIND = "xfrm"
IFLA_IFNAME, IFLA_NET_NS_PID, IFLA_NET_NS_FD, IFLA_CARRIER, IFLA_TARGET_NETNSID = 3, 19, 28, 33, 46
DAEMON_KNOWS = frozenset({IFLA_IFNAME, 4, 5, 13, IFLA_LINKINFO, IFLA_NET_NS_PID, IFLA_IFALIAS, IFLA_NET_NS_FD})
"""IFLA_*: also MTU, LINK (which an xfrm device takes from its own data) and TXQLEN."""
NETNS = frozenset({IFLA_NET_NS_PID, IFLA_NET_NS_FD})
DAEMON_SWITCHES = IFF_UP | IFF_MULTICAST
WITHOUT_EFFECT = frozenset({1, 29, 31, 32, 37})
"""ADDRESS (it has none), EXT_MASK, NUM_TX_QUEUES, NUM_RX_QUEUES, LINK_NETNSID."""


class Links:
    def __init__(self, worlds: Worlds, questions: Questions) -> None:
        self._worlds = worlds
        self._questions = questions

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
                continue
            native = message.body if not kind else self._ask(carrier, sock, task, message)
            if native is None:
                continue
            if len(messages) == 1 and native is message.body:
                return False
            sock.send(netlink.message(*message[:4], bytes(native)))
        return True

    def _let_hear(self, world: World) -> None:
        """A kernel has dealt with an ICMP error when it is asked for the route; of ESP the daemon has to tell it."""
        with contextlib.suppress(OSError, XfrmError):
            if world.attach(start=False):
                self._questions.carry_out(world, netlink.message(RTM_GETROUTE, NLM_F_REQUEST | NLM_F_ACK, 0, 0))

    @staticmethod
    def _dump(carrier: Carrier, sock: socket.socket, message: Message) -> None:
        """Of devices of kind xfrm: a kernel that does not know the kind would show all, and none of ours is one."""
        body = bytes(message.body).replace(b"xfrm\0", b"tun\0\0", 1)
        carrier.link_kind = message.seq
        sock.send(netlink.message(*message[:4], body))

    def _ask(
        self, carrier: Carrier, sock: socket.socket, task: Task, message: Message
    ) -> bytes | memoryview | None:
        """What of it is for the kernel; None if it has been answered."""
        here = carrier.world
        if not task.may_configure(here.owners):
            return message.body
        attrs = netlink.parse_attrs(message.body, IFINFOMSG.size)
        try:
            with _target(task, attrs) as place:
                native = self._decide(here, task, message, attrs, place)
        except XfrmError as failure:
            said = netlink.refusal(message, failure)
        else:
            if native is not None:
                return native
            said = netlink.ack(message) if message.flags & NLM_F_ACK else b""
        if said:
            answer(carrier, sock, said, sock.getsockname()[0])
        return None

    def _decide(
        self, here: World, task: Task, message: Message, attrs: netlink.Attrs, place: int | None
    ) -> bytes | memoryview | None:
        """As rtnl_newlink of a kernel goes about it; None if it is done. XfrmError if it is refused."""
        _, _, ifindex, _, _ = IFINFOMSG.unpack_from(message.body)
        name = get_string(attrs[IFLA_IFNAME]) if IFLA_IFNAME in attrs else ""
        found = heard_at(here, ifindex if ifindex > 0 else name) if ifindex > 0 or name else None
        info = netlink.parse_attrs(attrs[IFLA_LINKINFO]) if IFLA_LINKINFO in attrs else {}
        is_xfrm = _kind(attrs) == KIND
        if found is None:
            if is_xfrm and message.type == RTM_NEWLINK and message.flags & NLM_F_CREATE:
                self._make(here, task, message, attrs, place)
                return None
            return message.body
        if is_xfrm and message.flags & NLM_F_EXCL:
            raise XfrmError(errno.EEXIST)
        if is_xfrm and message.flags & NLM_F_REPLACE:
            raise XfrmError(errno.EOPNOTSUPP)
        if found.tag is None:
            if is_xfrm and INFO_DATA in info:
                raise XfrmError(errno.EOPNOTSUPP)
            return message.body
        if IFLA_CARRIER in attrs:
            raise XfrmError(errno.EOPNOTSUPP, detail="an xfrm device has no carrier to lose")
        if is_xfrm and INFO_DATA in info:
            self._change(here, task, found, message, attrs, place)
            return None
        return _with_alias(message.body, found.tag)

    def _make(self, here: World, task: Task, message: Message, attrs: netlink.Attrs, place: int | None) -> None:
        """By the daemon of the namespace where it is to be, which it belongs to from then on."""
        world = here if place is None else self._worlds.at(os.dup(place))
        if not task.may_configure(world.owners):
            raise XfrmError(errno.EPERM)
        if not world.attach(start=True):
            raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        self._order(world, _for_daemon(message, attrs, leave_out=NETNS))
        self._set_the_rest(world, message, attrs)

    def _set_the_rest(self, world: World, message: Message, attrs: netlink.Attrs) -> None:
        """What a new device is to be besides (its group, the bridge it belongs to) the kernel sets, or it is none."""
        rest = b"".join(
            attr(kind, bytes(value)) for kind, value in attrs.items() if kind not in DAEMON_KNOWS | WITHOUT_EFFECT
        )
        _, _, _, flags, change = IFINFOMSG.unpack_from(message.body)
        flags, change = flags & ~DAEMON_SWITCHES, change & ~DAEMON_SWITCHES
        if not rest and not change:
            return
        name = get_string(attrs[IFLA_IFNAME]) if IFLA_IFNAME in attrs else ""
        if not name or "%" in name:
            about = link_msg.decode_link(message)
            made = self._questions.keyed(world, Tag(about.if_id or 0, 0, about.external, 0))
            name = made.name if made is not None else name
        device = attr_string(IFLA_IFNAME, name)
        try:
            with kernel(world) as rtnl:
                rtnl.order(RTM_SETLINK, IFINFOMSG.pack(AF_UNSPEC, 0, 0, flags, change) + device + rest)
        except XfrmError:
            body = IFINFOMSG.pack(AF_UNSPEC, 0, 0, 0, 0) + device
            self._order(world, netlink.message(RTM_DELLINK, NLM_F_REQUEST | NLM_F_ACK, 0, 0, body))
            raise

    def _change(
        self, here: World, task: Task, found: Heard, message: Message, attrs: netlink.Attrs, place: int | None
    ) -> None:
        """By the daemon of the namespace that it belongs to, wherever it is now."""
        assert found.tag is not None
        home = here if found.tag.home == here.inode else self._worlds.find(found.tag.home)
        if home is None or not home.attach(start=home is here):
            raise XfrmError(errno.ENODEV, detail="the daemon of this device has ended, or is none that exec knows")
        if not task.may_configure(home.owners):
            raise XfrmError(errno.EPERM)
        where = b""
        if home is not here:
            with kernel(home) as rtnl:
                where = attr_u32(IFLA_TARGET_NETNSID, rtnl.netns_id(here.netns_fd))
        self._order(home, _for_daemon(message, attrs, found.ifindex, where), () if place is None else (place,))

    def _order(self, world: World, request: bytes, fds: tuple[int, ...] = ()) -> None:
        if failure := self._questions.carry_out(world, request, fds):
            raise failure


def _kind(attrs: netlink.Attrs) -> str:
    info = netlink.parse_attrs(attrs[IFLA_LINKINFO]) if IFLA_LINKINFO in attrs else {}
    return get_string(info[INFO_KIND]) if INFO_KIND in info else ""


def _concern(message: Message) -> str:
    """'ask': perhaps not the kernel's business; 'dump': of xfrm devices; '': the kernel's."""
    if not message.flags & NLM_F_REQUEST or message.type not in (RTM_NEWLINK, RTM_SETLINK, RTM_GETLINK):
        return ""
    if len(message.body) < IFINFOMSG.size:
        return ""
    attrs = netlink.parse_attrs(message.body, IFINFOMSG.size)
    is_xfrm = _kind(attrs) == KIND
    if message.type == RTM_GETLINK:
        return "dump" if is_xfrm and message.is_dump else ""
    return "ask" if is_xfrm or IFLA_IFALIAS in attrs or IFLA_CARRIER in attrs else ""


def _for_daemon(
    message: Message,
    attrs: netlink.Attrs,
    ifindex: int | None = None,
    more: bytes = b"",
    leave_out: frozenset[int] = frozenset(),
) -> bytes:
    """The request as the daemon takes it: acknowledged, and a namespace named by the descriptor that comes along."""
    family, kind, index, flags, change = IFINFOMSG.unpack_from(message.body)
    body = IFINFOMSG.pack(
        family, kind, index if ifindex is None else ifindex, flags & DAEMON_SWITCHES, change & DAEMON_SWITCHES
    )
    for number, value in attrs.items():
        if number in leave_out:
            continue
        if number in NETNS:
            body += attr_u32(IFLA_NET_NS_FD, 0)
        elif number in DAEMON_KNOWS:
            body += attr(number, bytes(value))
    return netlink.message(message.type, message.flags | NLM_F_ACK, message.seq, message.pid, body + more)


def _with_alias(body: memoryview, tag: Tag) -> bytes | memoryview:
    """The request; one that gives an alias with one that also says what the device is. XfrmError if it is too long."""
    parts = [bytes(body[: IFINFOMSG.size])]
    changed = False
    for number, value, raw in attributes(body):
        if number == IFLA_IFALIAS:
            changed = True
            parts.append(attr_string(IFLA_IFALIAS, write_alias(tag._replace(text=get_string(value)))))
        else:
            parts.append(bytes(raw))
    return b"".join(parts) if changed else body


@contextlib.contextmanager
def _target(task: Task, attrs: netlink.Attrs) -> Iterator[int | None]:
    """A descriptor of the namespace that a program means. XfrmError EBADF, ENOENT."""
    place = None
    if IFLA_NET_NS_FD in attrs and len(attrs[IFLA_NET_NS_FD]) >= 4:
        try:
            place = task.copy_fd(get_u32(attrs[IFLA_NET_NS_FD]))
        except OSError as error:
            raise XfrmError(error.errno or errno.EBADF) from None
    elif IFLA_NET_NS_PID in attrs and len(attrs[IFLA_NET_NS_PID]) >= 4:
        place = open_netns(f"/proc/{get_u32(attrs[IFLA_NET_NS_PID])}/ns/net")
    try:
        yield place
    finally:
        if place is not None:
            os.close(place)
