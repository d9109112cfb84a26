"""Sessions: what is carried out, what is owed, and whose turn it is."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import pytest

from tests.daemon.messages import POLICY, ROOT, STATE, request
from tests.daemon.server import Server, serving
from xfrmi.client import Client
from xfrmi.core.engine import Engine
from xfrmi.daemon.credentials import Credentials
from xfrmi.daemon.events import Events
from xfrmi.daemon.hub import Hub
from xfrmi.daemon.loop import Loop
from xfrmi.daemon.runtime import JSON_SOCKET, XFRM_SOCKET, find_directory
from xfrmi.daemon.session import MAX_OWED, MESSAGES_A_TURN, DatagramSession, LineSession
from xfrmi.daemon.xfrm_handler import XfrmHandler
from xfrmi.wire import netlink, xfrm_msg
from xfrmi.wire.netlink import NLM_F_DUMP
from xfrmi.wire.xfrm_attr import Group, XfrmMsg
from xfrmi.wire.xfrm_types import PolicyId, StateId, StateInfo


class World:
    """A loop, an engine, and one datagram session whose other end is `client`."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.engine = Engine()
        self.events = Events(self.engine)
        self.hub = Hub(self.events)
        self.handle = XfrmHandler(self.engine, self.events).handle
        self.client, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.client.setblocking(False)
        self.closed = 0
        self.session = DatagramSession(self.loop, end, self._count_closed, self._handle, self.events, self.hub)

    def _handle(self, datagram: bytes, credentials: Credentials) -> Iterator[bytes]:
        return self.handle(datagram, credentials)

    def _count_closed(self, _: object) -> None:
        self.closed += 1

    def turns(self, count: int = 1) -> None:
        """Let the loop run for so many turns."""
        left = [count]
        reader, writer = os.pipe()
        os.write(writer, b"x")

        def turn() -> None:
            left[0] -= 1
            if left[0] <= 0:
                self.loop.stop()

        self.loop.watch(reader, turn)
        self.loop._running = True
        self.loop._credit = math.inf  # turns are counted here, however long they take
        with patch("xfrmi.daemon.loop.CREDIT", math.inf):
            self.loop.run(lambda now: None, lambda: None)
        self.loop.unwatch(reader)
        os.close(reader)
        os.close(writer)

    def arrived(self) -> list[bytes]:
        """All datagrams that the client has not read; an empty one is the end."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while not found or found[-1]:
                found.append(self.client.recv(1 << 16))
        return found

    def read(self, turns: int = 60) -> list[bytes]:
        """What arrives in so many turns of the loop, read as it arrives."""
        found = []
        for _ in range(turns):
            self.turns()
            found += self.arrived()
            if found and not found[-1]:
                break
        return found

    def add_states(self, count: int) -> None:
        for spi in range(1, count + 1):
            self.engine.add_state(replace(STATE, spi=spi), 1000.0)


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.session.close()
    world.client.close()
    world.loop.close()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def connect(name: str) -> socket.socket:
    directory = find_directory()
    assert directory is not None
    kind = socket.SOCK_STREAM if name == JSON_SOCKET else socket.SOCK_SEQPACKET
    connection = socket.socket(socket.AF_UNIX, kind)
    connection.settimeout(10)
    connection.connect(f"{directory}/{name}")
    return connection


DUMP = request(XfrmMsg.GETSA, b"", NLM_F_DUMP)
SUBSCRIBE = request(netlink.NLMSG_SUBSCRIBE, xfrm_msg.encode_subscription(sum(group.bit for group in Group)))


def dumped(datagrams: list[bytes]) -> list[int]:
    """The SPIs in a dump."""
    messages = [message for datagram in datagrams for message in netlink.split(datagram)]
    return [xfrm_msg.decode_state_notice(message).spi for message in messages if message.type == XfrmMsg.NEWSA]


# Whose turn it is ----------------------------------------------------------------------------------------------------


def test_a_dump_of_any_size_leaves_the_others_their_turns(world: World) -> None:
    world.add_states(1000)
    world.client.send(DUMP)
    seen: list[bytes] = []
    for _ in range(3):
        world.turns()
        now = world.arrived()
        assert 0 < len(now) <= MESSAGES_A_TURN
        seen += now
    assert dumped(seen) == list(range(1000, 1000 - len(dumped(seen)), -1))
    seen += world.read()
    assert dumped(seen) == list(range(1000, 0, -1))
    *_, last = netlink.split(seen[-1])
    assert last.type == netlink.NLMSG_DONE


def test_nothing_is_encoded_before_it_can_be_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory a dump takes is that of a few datagrams."""
    world.add_states(1000)
    encoded: list[StateInfo] = []
    real = xfrm_msg.encode_state

    def encode(info: StateInfo, *, reply: bool) -> bytes:
        encoded.append(info)
        return real(info, reply=reply)

    monkeypatch.setattr(xfrm_msg, "encode_state", encode)
    answers = world.handle(DUMP, ROOT)
    assert not encoded
    next(answers)
    assert 0 < len(encoded) < 20


def test_a_dump_is_of_its_moment(world: World) -> None:
    """NL-07. What comes later is not part of it, what has gone when its turn comes is left out."""
    world.add_states(1000)
    world.client.send(DUMP)
    world.turns()
    world.engine.delete_state(StateId(STATE.dst, 5), 1000.0)
    world.engine.add_state(replace(STATE, spi=5000), 1000.0)
    assert dumped(world.read()) == [spi for spi in range(1000, 0, -1) if spi != 5]


def test_who_is_owed_too_much_to_be_handed_over_still_gets_it_here(world: World) -> None:
    """If the hand-over fails, this process goes on with all of it: the end of a dump, too."""
    answers = [number.to_bytes(4) for number in range(MAX_OWED + 50)]
    world.handle = lambda datagram, credentials: iter(answers)
    world.client.send(DUMP)
    world.turns()
    begun = world.arrived()
    assert world.session.save("xfrm") is None
    assert begun + world.read() == answers


def test_a_dump_of_policies_is_of_its_moment(world: World) -> None:
    for priority in range(2):
        world.engine.add_policy(replace(POLICY, if_id=priority + 1), 1000.0)
    answers = world.handle(request(XfrmMsg.GETPOLICY, b"", NLM_F_DUMP), ROOT)
    gone = next(iter(world.engine.policies()))
    world.engine.delete_policy(PolicyId(POLICY.selector, POLICY.dir, gone.if_id), 1000.0)
    (datagram,) = answers
    entry, done = netlink.split(datagram)
    assert xfrm_msg.decode_policy_notice(entry).if_id != gone.if_id
    assert done.type == netlink.NLMSG_DONE


def test_events_wait_for_a_dump_to_end(world: World) -> None:
    world.client.send(SUBSCRIBE)
    world.turns()
    world.arrived()
    world.add_states(200)
    world.read(40)
    world.client.send(DUMP)
    world.turns()
    world.engine.delete_state(StateId(STATE.dst, 200), 1000.0)
    types = [message.type for datagram in world.read(20) for message in netlink.split(datagram)]
    assert types.index(XfrmMsg.DELSA) == types.index(netlink.NLMSG_DONE) + 1 == len(types) - 1


def test_while_something_waits_events_cost_no_system_call(world: World) -> None:
    class Full:
        """A connection that takes nothing."""

        sends = 0

        def send(self, data: bytes, flags: int) -> int:
            self.sends += 1
            raise BlockingIOError

    world.client.send(SUBSCRIBE)
    world.turns()
    full, real = Full(), world.session._connection
    full.fileno = real.fileno  # type: ignore[attr-defined]
    world.session._connection = full  # type: ignore[assignment]
    world.add_states(100)
    assert full.sends == 1
    world.session._connection = real
    heard = [message.type for datagram in world.read(20) for message in netlink.split(datagram)]
    assert heard == [netlink.NLMSG_ERROR] + [XfrmMsg.NEWSA] * 100


# What is carried out -------------------------------------------------------------------------------------------------


def test_a_request_is_carried_out_whoever_waits_for_the_answer(world: World) -> None:
    one, two = (xfrm_msg.encode_state(replace(STATE, spi=spi)) for spi in (1, 2))
    world.client.send(request(XfrmMsg.NEWSA, one) + request(XfrmMsg.NEWSA, two))
    world.client.close()
    world.turns(3)
    assert len(world.engine.sad) == 2
    assert world.closed == 1


def test_who_hangs_up_on_what_he_is_owed_has_ended(world: World) -> None:
    world.add_states(2000)
    world.client.send(DUMP)
    world.client.send(DUMP)
    world.turns(50)
    assert not world.closed, "the socket is full, the client may still read"
    world.client.shutdown(socket.SHUT_RDWR)
    world.turns(3)
    assert world.closed == 1


def test_a_client_may_stop_asking_and_still_listen(world: World) -> None:
    world.add_states(1000)
    world.client.send(DUMP)
    world.client.shutdown(socket.SHUT_WR)
    *datagrams, end = world.read()
    assert dumped(datagrams) == list(range(1000, 0, -1))
    assert end == b""
    assert world.closed == 1


def test_the_same_with_lines(server: Server) -> None:
    with connect(JSON_SOCKET) as client:
        client.sendall(b'{"cmd": "status"}\n' * 1000)
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as lines:
            assert [json.loads(line) for line in lines] == [{"result": {"pid": 1}}] * 1000


class Trickle:
    """A connection that takes up to three bytes a call, and then wants to be waited for."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.fileno, self.close, self.recvmsg = connection.fileno, connection.close, connection.recvmsg
        self.turn = 0

    def send(self, data: bytes, flags: int) -> int:
        self.turn += 1
        if self.turn % 2:
            raise BlockingIOError
        return self._connection.send(data[: 1 + self.turn // 2 % 3], flags)


def test_a_stream_that_takes_and_gives_a_few_bytes_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request is answered once, whole and in order."""
    loop = Loop()
    client, end = socket.socketpair()
    client.setblocking(False)
    session = LineSession(loop, end, lambda _: None, {"echo": lambda request: request["number"]}, {})
    trickle = Trickle(end)
    monkeypatch.setattr(session, "_connection", trickle)
    monkeypatch.setattr(session, "_room", 5)
    client.sendall(b"".join(b'{"cmd": "echo", "number": %d}\n' % number for number in range(20)))
    heard = b""
    deadline = loop.clock() + 20

    def look(now: float) -> None:
        nonlocal heard
        with contextlib.suppress(BlockingIOError):
            heard += client.recv(1 << 16)
        if heard.count(b"\n") >= 20 or now > deadline:
            loop.stop()

    loop.run(look, lambda: 0.0)
    assert [json.loads(line) for line in heard.splitlines()] == [{"result": number} for number in range(20)]
    assert trickle.turn > 200
    session.close()
    client.close()
    loop.close()


def test_lines_are_answered_a_few_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 KiB of empty lines are 65536 requests, each of which has an answer."""
    loop = Loop()
    client, end = socket.socketpair()
    session = LineSession(loop, end, lambda _: None, {}, {})
    answered: list[bytes] = []
    real = session._answer_line

    def answer(line: bytes) -> bytes:
        answered.append(line)
        return real(line)

    monkeypatch.setattr(session, "_answer_line", answer)
    client.send(b"\n" * 1000)
    session._readable()
    assert len(answered) <= MESSAGES_A_TURN
    session.close()
    client.close()
    loop.close()


def test_subscribing_again_replaces_the_groups(world: World) -> None:
    world.client.send(SUBSCRIBE)
    world.turns()
    assert world.engine.acquire_listeners == 1
    only_policies = xfrm_msg.encode_subscription(Group.POLICY.bit)
    world.client.send(request(netlink.NLMSG_SUBSCRIBE, only_policies))
    world.turns()
    assert world.engine.acquire_listeners == 0
    world.arrived()
    world.add_states(1)
    world.engine.add_policy(POLICY, 1000.0)
    assert [message.type for d in world.arrived() for message in netlink.split(d)] == [XfrmMsg.NEWPOLICY]
    world.session.close()
    assert world.events._subscribers == []


@pytest.mark.parametrize("error", [OSError(5, "a device of ours"), BlockingIOError(), RuntimeError()])
def test_an_error_of_ours_is_no_end_of_the_client(world: World, error: Exception) -> None:
    """It is told as what it is, and the client does not wait for an answer that never comes."""

    def broken(*_: object) -> Iterator[bytes]:
        raise error

    world.handle = broken
    world.client.send(request(XfrmMsg.GETSADINFO, bytes(4)))
    world.turns(3)
    assert world.closed == 1
    assert world.loop.faults == 1
    assert world.arrived() == [b""]


def test_a_bug_in_an_entry_ends_the_session_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add_states(1000)
    world.client.send(DUMP)
    world.turns()

    def broken(*_: object, **__: object) -> bytes:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(xfrm_msg, "encode_state", broken)
    world.turns(5)
    assert world.closed == 1
    assert world.loop.faults == 1


# The end of descriptors ----------------------------------------------------------------------------------------------


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    taken = []
    try:
        while True:
            try:
                taken.append(os.dup(0))
            except OSError as error:
                assert error.errno == errno.EMFILE
                break
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_out_of_descriptors_clients_are_turned_away(server: Server) -> None:
    """They are not left waiting, and the listener does not stay readable."""
    client = Client()
    assert client.count_states().count == 0
    directory = find_directory()
    late = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    late.settimeout(10)
    with no_descriptors_left():
        late.connect(f"{directory}/{XFRM_SOCKET}")
        assert late.recv(100) == b""
        assert client.count_states().count == 0, "who is in stays in"
    with connect(XFRM_SOCKET) as welcome:
        welcome.send(request(netlink.NLMSG_NOOP))
        assert welcome.recv(100)
    late.close()
    client.close()
