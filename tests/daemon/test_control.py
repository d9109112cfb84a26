"""The sockets themselves: who gets in, who serves, and what a bad client can do to the others (nothing)."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.daemon.messages import STATE, request
from tests.daemon.server import Server, runtime_directory, serving
from xfrmi.client import Client
from xfrmi.daemon import control, session
from xfrmi.daemon.control import ACCEPTS_A_TURN, ControlSockets, take_directory
from xfrmi.daemon.credentials import Credentials
from xfrmi.daemon.loop import Loop
from xfrmi.daemon.runtime import JSON_SOCKET, LOCK_FILE, MAX_DATAGRAM, ROUTE_SOCKET, XFRM_SOCKET, find_directory
from xfrmi.errors import XfrmError
from xfrmi.wire import netlink, xfrm_msg
from xfrmi.wire.netlink import NLM_F_DUMP
from xfrmi.wire.xfrm_attr import Group, XfrmMsg


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def connect(name: str = XFRM_SOCKET) -> socket.socket:
    directory = find_directory()
    assert directory is not None
    kind = socket.SOCK_STREAM if name == JSON_SOCKET else socket.SOCK_SEQPACKET
    connection = socket.socket(socket.AF_UNIX, kind)
    connection.settimeout(10)
    connection.connect(f"{directory}/{name}")
    return connection


def refusal_in(datagram: bytes) -> XfrmError:
    (answer,) = netlink.split(datagram)
    with pytest.raises(XfrmError) as refused:
        netlink.raise_error(answer)
    return refused.value


def test_a_crowd_at_the_door_comes_in_a_few_a_turn() -> None:
    with runtime_directory():
        server = Server()
        crowd = [connect() for _ in range(2 * ACCEPTS_A_TURN + 3)]
        for expected in (ACCEPTS_A_TURN, 2 * ACCEPTS_A_TURN, len(crowd), len(crowd)):
            server.sockets._accept(XFRM_SOCKET, server.sockets._listeners[XFRM_SOCKET])
            assert len(server.sockets._sessions) == expected
        for connection in crowd:
            connection.close()
        server.start()
        server.stop()


# Getting in ----------------------------------------------------------------------------------------------------------


def test_nobody_else_gets_in(server: Server) -> None:
    directory = find_directory()
    assert directory is not None
    assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
    for name in (XFRM_SOCKET, ROUTE_SOCKET, JSON_SOCKET, LOCK_FILE):
        assert stat.S_IMODE(os.stat(f"{directory}/{name}").st_mode) == 0o600, name


def test_a_stranger_is_hung_up_on(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the modes let him through."""
    monkeypatch.setattr(control, "peer_credentials", lambda _: Credentials(1, os.geteuid() + 1, 0))
    with connect() as stranger:
        assert stranger.recv(100) == b""


def test_there_is_an_end_to_sessions(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_SESSIONS", 2)
    with connect() as one, connect():
        one.send(request(netlink.NLMSG_NOOP))
        assert one.recv(100)
        with connect() as third:
            assert third.recv(100) == b""
        one.send(request(netlink.NLMSG_NOOP))
        assert one.recv(100), "who is in stays in"


def test_only_one_serves() -> None:
    with serving() as server:
        with pytest.raises(XfrmError) as refused:
            take_directory()
        assert refused.value.errno == errno.EADDRINUSE
        assert f"(pid {os.getpid()})" in refused.value.detail
        assert Client().count_states().count == len(server.engine.sad) == 0


def test_what_a_killed_daemon_left_is_taken_over() -> None:
    """Its lock died with it; sockets and lock file are still there."""
    with runtime_directory():
        directory, lock = take_directory()
        for name in (XFRM_SOCKET, ROUTE_SOCKET, JSON_SOCKET):
            stale = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stale.bind(f"{directory}/{name}")
            stale.close()
        os.close(lock)
        with pytest.raises(XfrmError) as refused:
            Client().count_states()
        assert refused.value.errno == errno.ECONNREFUSED
        assert '"xfrmi daemon"' in refused.value.detail
        server = Server()
        server.start()
        assert Client().count_states().count == 0
        server.stop()


def test_nothing_is_left_behind() -> None:
    with runtime_directory() as base:
        server = Server()
        server.start()
        server.stop()
        assert list(Path(base).iterdir()) == []


def test_a_lock_on_a_removed_file_is_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last daemon removes the directory between our open and our lock."""
    with runtime_directory():
        real, raced = control.fcntl.flock, []

        def flock(fd: int, how: int) -> None:
            if not raced:
                raced.append(fd)
                path = os.readlink(f"/proc/self/fd/{fd}")
                os.unlink(path)
                os.rmdir(os.path.dirname(path))
            real(fd, how)

        monkeypatch.setattr(control.fcntl, "flock", flock)
        directory, lock = take_directory()
        assert raced
        assert os.stat(f"{directory}/{LOCK_FILE}").st_ino == os.fstat(lock).st_ino
        os.close(lock)


def test_a_path_that_is_too_long_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with runtime_directory() as base:
        monkeypatch.setenv("XFRMI_RUNTIME_DIR", f"{base}/{'x' * 100}")
        loop = Loop()
        sockets = ControlSockets(loop)
        with pytest.raises(XfrmError) as refused:
            sockets.listen(None, None, None, None, {}, {})  # type: ignore[arg-type]
        assert "x" * 100 in refused.value.detail
        sockets.close()
        loop.close()


# Bad clients ---------------------------------------------------------------------------------------------------------


def test_a_request_that_is_too_long(server: Server) -> None:
    with connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_DATAGRAM * 4)
        client.send(request(XfrmMsg.NEWSA, bytes(MAX_DATAGRAM)))
        assert refusal_in(client.recv(1000)).errno == errno.EMSGSIZE
        client.send(request(netlink.NLMSG_NOOP))
        assert client.recv(100), "and it may go on"


@pytest.mark.parametrize("datagram", [b"x", b"", b"\xff" * 15])
def test_what_is_no_message_ends_the_session(server: Server, datagram: bytes) -> None:
    with connect() as client:
        client.send(datagram)
        if datagram:
            assert client.recv(100) == b""
    assert Client().count_states().count == 0


@pytest.mark.parametrize("body", [b"", b"\1\2"])
def test_a_subscription_without_groups_is_refused(server: Server, body: bytes) -> None:
    with connect() as client:
        client.send(request(netlink.NLMSG_SUBSCRIBE, body))
        assert refusal_in(client.recv(1000)).errno == errno.EINVAL


def test_descriptors_nobody_asked_for_are_closed(server: Server) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with connect() as client, open(os.devnull) as nothing:
        opened = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            socket.send_fds(client, [request(netlink.NLMSG_NOOP)], [nothing.fileno()] * 3)
            assert client.recv(100)
        assert len(os.listdir("/proc/self/fd")) <= opened + 1, "the server's end of the session"
    assert before <= opened


def test_who_asks_and_does_not_read_holds_up_nobody(server: Server) -> None:
    """Dumps upon dumps, unread: another client is served, and the first gets all it asked for when it reads."""
    with Client() as client:
        for spi in range(1, 201):
            client.add_state(replace(STATE, spi=spi))
        with connect() as lazy:
            lazy.setblocking(False)
            asked = 0
            try:
                while asked < 50:
                    lazy.send(request(XfrmMsg.GETSA, b"", NLM_F_DUMP, seq=asked))
                    asked += 1
            except BlockingIOError:
                pass
            assert asked > 1
            assert client.count_states().count == 200
            lazy.settimeout(10)
            done = 0
            while done < asked:
                done += sum(m.type == netlink.NLMSG_DONE for m in netlink.split(lazy.recv(MAX_DATAGRAM)))
        assert client.count_states().count == 200


def test_a_monitor_that_does_not_read_holds_up_nobody(server: Server) -> None:
    """It loses events and is told so; whoever made them never waited."""
    with Client() as client, connect() as lazy:
        lazy.send(request(netlink.NLMSG_SUBSCRIBE, xfrm_msg.encode_subscription(Group.SA.bit)))
        assert lazy.recv(100)
        state = xfrm_msg.encode_state(STATE)
        pair = request(XfrmMsg.NEWSA, state, 0) + request(XfrmMsg.UPDSA, state, 0) * 100
        with connect() as busy:
            for _ in range(80):
                busy.send(pair)
            busy.send(request(netlink.NLMSG_NOOP))
            assert busy.recv(100)
        heard = 0
        while True:
            (message,) = netlink.split(lazy.recv(MAX_DATAGRAM))
            if message.type == netlink.NLMSG_ERROR:
                break
            heard += 1
        assert 4096 <= heard < 80 * 100
        with pytest.raises(XfrmError) as lost:
            netlink.raise_error(message)
        assert lost.value.errno == errno.ENOBUFS
        client.delete_state(STATE)
        (message,) = netlink.split(lazy.recv(MAX_DATAGRAM))
        assert message.type == XfrmMsg.DELSA


def test_a_client_that_vanishes_with_replies_owed(server: Server) -> None:
    with Client() as client:
        for spi in range(1, 501):
            client.add_state(replace(STATE, spi=spi))
        for _ in range(10):
            with connect() as rude:
                rude.send(request(XfrmMsg.GETSA, b"", NLM_F_DUMP))
        assert client.count_states().count == 500
    assert server.loop.faults == 0


def test_a_bug_of_ours_ends_the_session_it_was_found_in(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server.engine, "get_state", lambda _: 1 / 0)
    with Client() as client, pytest.raises(XfrmError) as ended:
        client.state(STATE)
    assert ended.value.errno == errno.ECONNRESET
    assert Client().count_states().count == 0
    assert server.loop.faults == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


# JSON ----------------------------------------------------------------------------------------------------------------


def converse(*lines: bytes) -> list[dict[str, object]]:
    with connect(JSON_SOCKET) as client:
        for line in lines:
            client.sendall(line)
        client.shutdown(socket.SHUT_WR)
        return [json.loads(line) for line in client.makefile("rb")]


def test_lines_are_answered_in_order_however_they_arrive(server: Server) -> None:
    answers = converse(b'{"cmd": "status"}\n{"cmd"', b': "stat"}\n', b'{"cmd": "status"}\n')
    assert [answer["result"] == {"pid": 1} for answer in answers] == [True, False, True]
    assert list(answers[1]["result"])[:2] == ["XfrmInError", "XfrmInBufferError"]  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"7", b'{"cmd": "nosuch"}', b'{"cmd": []}', b"\xff\xfe", b"{" * 5000, b'{"cmd": NaN']
)
def test_a_line_that_is_no_request_is_told_what_one_is(server: Server, line: bytes) -> None:
    (answer,) = converse(line + b"\n")
    assert answer["errno"] == errno.EINVAL
    assert "stat, states, status" in str(answer["error"])


def test_a_line_without_an_end(server: Server) -> None:
    with connect(JSON_SOCKET) as client:
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            for _ in range(10):
                client.sendall(b"x" * session.MAX_LINE)
        client.settimeout(10)
    assert Client().status() == {"pid": 1}
