"""What is asked about xfrm devices for supervised programs: of a namespace's daemon, and of the kernel there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from xfrmi.daemon.left_behind import Tag
from xfrmi.daemon.runtime import ROUTE_SOCKET
from xfrmi.dev.netns import inside
from xfrmi.dev.rtnl import RTM_GETLINK, RTM_NEWLINK, Rtnl
from xfrmi.errors import XfrmError
from xfrmi.interpose.link_view import AF_UNSPEC, IFINFOMSG, Heard
from xfrmi.interpose.world import World
from xfrmi.wire import link_msg, netlink
from xfrmi.wire.link_types import LinkInfo, LinkStats
from xfrmi.wire.netlink import NLM_F_DUMP, NLM_F_REQUEST, Message

MOST_ANSWERS = 1 << 16


def kernel(world: World) -> contextlib.closing[Rtnl]:
    """The kernel's own view of the devices in that namespace."""
    with inside(world.netns_fd):
        return contextlib.closing(Rtnl())


def heard_at(world: World, which: str | int) -> Heard | None:
    """What the kernel says of a device there, by name or index; None if there is none."""
    with contextlib.suppress(XfrmError, OSError), kernel(world) as rtnl:
        body = rtnl.link_body(which)
        return None if body is None else Heard(body)
    return None


class Questions:
    def __init__(self) -> None:
        self._answers = bytearray(MOST_ANSWERS)

    def carry_out(self, world: World, request: bytes, fds: tuple[int, ...] = ()) -> XfrmError | None:
        """One request that asks for an acknowledgement. None if it was done. OSError if the daemon is gone."""
        for reply in self._replies(world, request, fds):
            try:
                netlink.raise_error(reply)
            except XfrmError as failure:
                return failure
        return None

    def device(self, world: World, ifindex: int) -> LinkInfo | None:
        """What the daemon knows of a device with this number there; None if it is none of its own."""
        return next(self._links(world, ifindex, 0), None)

    def keyed(self, world: World, tag: Tag) -> LinkInfo | None:
        """The daemon's device with this key, wherever it is now."""
        wanted = tag.external, tag.if_id
        return next((link for link in self._links(world, 0, NLM_F_DUMP) if (link.external, link.if_id) == wanted), None)

    def stats(self, home: World, here: World, ifindex: int, tag: Tag) -> LinkStats | None:
        """Its counters. None without a daemon."""
        if not home.hub_port and not home.attach(start=False):
            return None
        found = self.device(home, ifindex) if home is here else self.keyed(home, tag)
        return found.stats if found is not None else None

    def _links(self, world: World, ifindex: int, flags: int) -> Iterator[LinkInfo]:
        body = IFINFOMSG.pack(AF_UNSPEC, 0, ifindex, 0, 0)
        with contextlib.suppress(OSError, XfrmError):
            for reply in self._replies(world, netlink.message(RTM_GETLINK, NLM_F_REQUEST | flags, 0, 0, body)):
                if reply.type == RTM_NEWLINK:
                    yield link_msg.decode_link(reply)

    def _replies(self, world: World, request: bytes, fds: tuple[int, ...] = ()) -> Iterator[Message]:
        exchange = world.request(ROUTE_SOCKET, memoryview(request), fds)
        try:
            while length := exchange.receive_into(self._answers):
                yield from netlink.split(bytes(memoryview(self._answers)[:length]))
        finally:
            exchange.close()
