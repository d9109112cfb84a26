"""What the kernel says about links on a program's socket, TUNs of xfrm devices shown as what they stand for."""

from __future__ import annotations

import contextlib
import struct

from xfrmi.dev.rtnl import RTM_DELLINK, RTM_NEWLINK
from xfrmi.errors import XfrmError
from xfrmi.interpose.carrier import Carrier, Show
from xfrmi.interpose.link_questions import Questions, heard_at, kernel
from xfrmi.interpose.link_view import (
    AF_UNSPEC,
    IFF_POINTOPOINT,
    IFINFOMSG,
    RTM_NEWSTATS,
    STATS_MSG,
    Heard,
    link_stats,
    without_counters,
)
from xfrmi.interpose.world import World
from xfrmi.interpose.worlds import Worlds
from xfrmi.wire import netlink
from xfrmi.wire.netlink import Message

_LENGTH = struct.Struct("=I")


class LinkNews:
    def __init__(self, worlds: Worlds, questions: Questions) -> None:
        self._worlds = worlds
        self._questions = questions

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
        if message.type == RTM_NEWSTATS and len(message.body) >= STATS_MSG.size:
            return self._of_stats(carrier.world, message)
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
        stats = (
            None if is_event or home is None else self._questions.stats(home, carrier.world, heard.ifindex, tag)
        )
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

    def _of_stats(self, here: World, message: Message) -> bytes | None:
        """Counters by RTM_GETSTATS: of a TUN of ours those of the xfrm device."""
        _, ifindex, _ = STATS_MSG.unpack_from(message.body)
        heard = heard_at(here, ifindex)
        if heard is None or heard.tag is None or (home := self._worlds.find(heard.tag.home)) is None:
            return None
        stats = self._questions.stats(home, here, ifindex, heard.tag)
        if stats is None:
            return None
        body = link_stats(message.body, stats)
        return netlink.message(message.type, message.flags, message.seq, message.pid, body)

    def _finished(self, world: World, heard: Heard) -> Heard | None:
        """A TUN is announced before the daemon has made an xfrm device of it. When the daemon answers, it has: then
        what it has become is announced instead, but not that it may be up by now: of that its own announcement tells.
        None if the TUN is somebody else's."""
        if not world.hub_port or self._questions.device(world, heard.ifindex) is None:
            return None
        now = heard_at(world, heard.ifindex)
        return None if now is None else now.in_condition_of(heard)

    @staticmethod
    def _nsid(here: World, home: World | None) -> int | None:
        """The number under which a namespace knows another."""
        if home is None:
            return None
        with contextlib.suppress(XfrmError, OSError), kernel(here) as rtnl:
            return rtnl.netns_id(home.netns_fd)
        return None
