"""Events multicast to netlink sockets, and the two messages of those who pass on what others ask."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.daemon.messages import ROOT, STATE, request
from tests.daemon.server import Server, serving
from tests.netns import in_netns
from tests.system.hosts import eventually
from xfrmi.client.channel import connect
from xfrmi.core.engine import Engine
from xfrmi.daemon.events import Events
from xfrmi.daemon.hub import NETLINK_USERSOCK, Hub
from xfrmi.daemon.runtime import XFRM_SOCKET
from xfrmi.daemon.xfrm_handler import XfrmHandler
from xfrmi.dev.netns import OWN_NETNS
from xfrmi.wire import netlink, xfrm_msg
from xfrmi.wire.xfrm_attr import Group, XfrmMsg


@contextmanager
def carrier(groups: int = 0) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_USERSOCK) as sock:
        sock.bind((0, groups))
        sock.setblocking(False)
        yield sock


class World:
    def __init__(self) -> None:
        self.engine = Engine()
        self.events = Events(self.engine)
        self.unused = 0
        self.hub = Hub(self.events, self._count)
        self.handler = XfrmHandler(self.engine, self.events)

    def _count(self) -> None:
        self.unused += 1

    def ask(self, kind: int, body: bytes) -> None:
        for _ in self.handler.handle(request(kind, body), ROOT):
            pass


@in_netns
def test_members_of_the_group_get_what_a_subscriber_gets() -> None:
    world = World()
    subscriber = world.events.subscribe(Group.SA.bit, lambda: None)
    with carrier(Group.SA.bit) as member, carrier(Group.POLICY.bit) as other:
        port = world.hub.attach("supervisor", Group.SA.bit)
        world.ask(XfrmMsg.NEWSA, xfrm_msg.encode_state(STATE))
        datagram, (sender, groups) = member.recvfrom(1 << 16)
        assert (sender, groups) == (port, Group.SA.bit)
        assert datagram == subscriber.take()
        with pytest.raises(BlockingIOError):
            other.recv(1 << 16)
    world.hub.close()


@in_netns
def test_nothing_is_made_or_sent_for_groups_nobody_told_of() -> None:
    world = World()
    with carrier(Group.SA.bit) as member:
        world.hub.attach("supervisor", Group.EXPIRE.bit)
        world.ask(XfrmMsg.NEWSA, xfrm_msg.encode_state(STATE))
        with pytest.raises(BlockingIOError):
            member.recv(1 << 16)
    world.hub.close()


@in_netns
def test_listeners_for_acquires_count_while_attached() -> None:
    """7.6: larval states are made only for them."""
    world = World()
    world.hub.attach("one", 0)
    assert world.engine.acquire_listeners == 0
    world.hub.attach("one", Group.ACQUIRE.bit)
    world.hub.attach("two", Group.ACQUIRE.bit | Group.SA.bit)
    assert world.engine.acquire_listeners == 1
    world.hub.detach("one")
    assert world.engine.acquire_listeners == 1
    assert world.unused == 0
    world.hub.detach("two")
    assert world.engine.acquire_listeners == 0
    assert world.unused == 1
    world.hub.detach("two")
    assert world.unused == 1
    world.hub.close()


@in_netns
def test_who_does_not_read_hears_of_the_gap_and_holds_up_nobody() -> None:
    world = World()
    with carrier(Group.SA.bit) as member:
        world.hub.attach("supervisor", Group.SA.bit)
        for _ in range(2000):
            world.ask(XfrmMsg.FLUSHSA, xfrm_msg.encode_flush_states(0))
            world.ask(XfrmMsg.NEWSA, xfrm_msg.encode_state(STATE))
        with pytest.raises(OSError) as gap:
            member.recv(1 << 16)
        assert gap.value.errno == errno.ENOBUFS
        assert member.recv(1 << 16)
    world.hub.close()


def of(server: Server) -> socket.socket:
    return connect(OWN_NETNS, XFRM_SOCKET, socket.SOCK_SEQPACKET, 10)


def test_an_envelope_tells_where_its_answers_end() -> None:
    """Also those of requests that want no acknowledgement, of dumps, and of what is no request at all."""
    add = request(XfrmMsg.NEWSA, xfrm_msg.encode_state(STATE), flags=0)
    dump = request(XfrmMsg.GETSA, flags=netlink.NLM_F_DUMP)
    with serving() as server, of(server) as session:
        for content, expected in (
            (add, []),
            (add, [netlink.NLMSG_ERROR]),
            (dump, [XfrmMsg.NEWSA, netlink.NLMSG_DONE]),
            (b"\xff" * 20, []),
            (b"", []),
        ):
            session.send(netlink.message(netlink.NLMSG_ENVELOPE, 0, 77, 0, content))
            kinds: list[int] = []
            while True:
                message, *others = netlink.split(session.recv(1 << 16))
                kinds += [other.type for other in (message, *others) if other.type != netlink.NLMSG_ENVELOPE]
                if message.type == netlink.NLMSG_ENVELOPE:
                    assert message.seq == 77
                    break
            assert kinds == expected


def test_attached_by_message_detached_by_hanging_up() -> None:
    with serving() as server:
        with of(server) as session:
            groups = xfrm_msg.encode_subscription(Group.ACQUIRE.bit)
            session.send(netlink.message(netlink.NLMSG_ATTACH, 0, 5, 0, groups))
            (answer,) = netlink.split(session.recv(1 << 16))
            assert (answer.type, answer.seq) == (netlink.NLMSG_ATTACH, 5)
            assert xfrm_msg.decode_subscription(answer) != 0
            assert server.engine.acquire_listeners == 1
            session.send(netlink.message(netlink.NLMSG_ATTACH, 0, 6, 0, b""))
            (answer,) = netlink.split(session.recv(1 << 16))
            with pytest.raises(Exception, match="EINVAL"):
                netlink.raise_error(answer)
        with of(server) as session:  # asked after the other has hung up
            session.send(netlink.message(netlink.NLMSG_ENVELOPE, 0, 1, 0, b""))
            session.recv(1 << 16)
        # Who hangs up and who asks are seen in one turn, in any order.
        eventually(lambda: server.engine.acquire_listeners == 0, "it is attached for ever")
