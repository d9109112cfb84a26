"""Vectored receive and send, and the same looped where the C library lacks them."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct

import pytest

from xfrmi.dev import mmsg
from xfrmi.dev.mmsg import Destination, ReceiveRows, SendRows, SendTrains, cmsg, cmsg_offsets

NOWHERE = Destination(b"")
"""For connected sockets."""


class OldLibc:
    """A C library without the vectored calls."""

    def __init__(self) -> None:
        libc = ctypes.PyDLL(None, use_errno=True)
        self.recvmsg, self.sendmsg = libc.recvmsg, libc.sendmsg


def calls(libc: str) -> dict[str, object]:
    if libc == "new":
        return {"receive": None, "send": None}
    return {
        "receive": mmsg._vectored("recvmmsg", "recvmsg", OldLibc()),
        "send": mmsg._vectored("sendmmsg", "sendmsg", OldLibc()),
    }


both_libcs = pytest.mark.parametrize("libc", ["new", "old"])


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)


@both_libcs
def test_what_is_staged_arrives_in_order(libc: str) -> None:
    here, there = pair()
    send, receive = SendRows(4, calls(libc)["send"]), ReceiveRows(3, call=calls(libc)["receive"])
    bodies = [bytes([number]) * (number + 1) for number in range(4)]
    assert [send.stage(body, NOWHERE) for body in bodies] == [False, False, False, True]
    assert send.send(here.fileno(), 0) == []
    assert send.staged == 0
    seen = []
    for expected in (3, 1, 0):
        lengths = receive.receive(there.fileno())
        assert len(lengths) == expected
        seen += [bytes(row[:length]) for row, length in zip(receive.rows, lengths, strict=False)]
    assert seen == bodies


@both_libcs
def test_a_full_socket_is_waited_for_and_then_given_up(libc: str) -> None:
    here, _there = pair()
    here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    rows = SendRows(64, calls(libc)["send"])
    while not rows.stage(bytes(100), NOWHERE):
        pass
    failed = rows.send(here.fileno(), 0.02)
    assert failed
    assert failed == [(index, errno.EAGAIN) for index in range(64 - len(failed), 64)]
    assert rows.staged == 0


@both_libcs
def test_one_that_cannot_be_sent_does_not_stop_the_others(libc: str) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there,
    ):
        there.bind(("127.0.0.1", 0))
        there.settimeout(2)
        good = Destination(struct.pack("=HH4s8x", 2, socket.htons(there.getsockname()[1]), bytes((127, 0, 0, 1))))
        bad = Destination(struct.pack("=HH4s8x", 2, 0, bytes((127, 0, 0, 1))))
        rows = SendRows(8, calls(libc)["send"])
        for body, where in ((b"one", good), (b"lost", bad), (b"two", good), (b"three", good), (b"lost", bad)):
            rows.stage(body, where)
        assert rows.send(here.fileno(), 0) == [(1, errno.EINVAL), (4, errno.EINVAL)]
        assert [there.recv(10) for _ in range(3)] == [b"one", b"two", b"three"]


@both_libcs
def test_senders_and_control_messages_come_along_every_time(libc: str) -> None:
    """The kernel writes used lengths over the capacities: they must be restored."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there,
    ):
        there.bind(("127.0.0.1", 0))
        there.setsockopt(socket.IPPROTO_IP, 12, 1)  # IP_RECVTTL
        here.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 33)
        here.connect(there.getsockname())
        rows = ReceiveRows(4, control=64, call=calls(libc)["receive"])
        for turn in range(3):
            for _ in range(2 + turn):
                here.send(b"x")
            for index in range(len(rows.receive(there.fileno()))):
                port, address = struct.unpack_from(">H4s", rows.names[index], 2)
                assert (address, port) == (bytes((127, 0, 0, 1)), here.getsockname()[1])
                at = cmsg_offsets(rows.controls[index], rows.control_length(index))
                assert struct.unpack_from("=i", rows.controls[index], at[socket.IPPROTO_IP, socket.IP_TTL]) == (33,)
            assert index == 1 + turn


def test_the_largest_datagram_fits_a_row() -> None:
    here, there = pair()
    here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    send, receive = SendRows(2), ReceiveRows(2)
    large = bytes(range(256)) * 256
    send.stage(large[:65535], NOWHERE)
    assert send.send(here.fileno(), 0) == []
    assert receive.receive(there.fileno()) == [65535]
    assert receive.rows[0][:65535] == large[:65535]


def test_a_misused_call_is_no_silence() -> None:
    with pytest.raises(OSError, match="file descriptor"):
        ReceiveRows(1).receive(-1)


def test_control_messages_as_the_socket_module_packs_them() -> None:
    packed = cmsg(1, 2, b"abc") + cmsg(3, 4, b"12345678")
    offsets = cmsg_offsets(packed, len(packed))
    assert {key: packed[at : at + size] for (key, at), size in zip(offsets.items(), (3, 8), strict=True)} == {
        (1, 2): b"abc", (3, 4): b"12345678",
    }  # fmt: skip
    assert len(cmsg(1, 2, b"abc")) == socket.CMSG_SPACE(3)
    assert cmsg_offsets(bytes(32), 32) == {}  # a length of 0 ends the walk


class Reluctant:
    """sendmmsg that takes one to three messages a call, and is interrupted before each."""

    def __init__(self) -> None:
        self._call = mmsg._vectored("sendmmsg", "sendmsg")
        self.turn = 0

    def __call__(self, fd: int, messages: object, count: int, flags: int) -> int:
        self.turn += 1
        if self.turn % 4:
            ctypes.set_errno(errno.EINTR)
            return -1
        return self._call(fd, messages, min(count, 1 + self.turn // 4 % 3), flags)


def test_a_call_that_takes_a_few_and_is_interrupted() -> None:
    here, there = pair()
    call = Reluctant()
    bodies = [b"%02d" % number * 10 for number in range(20)]
    rows = SendRows(32, call)
    for body in bodies:
        rows.stage(body, NOWHERE)
    assert rows.send(here.fileno(), 0) == []
    assert [there.recv(100) for _ in bodies] == bodies
    train = SendTrains(32, call)
    assert train.send(here.fileno(), (b"head", b"last"), memoryview(b"".join(bodies))[:-5], 20, NOWHERE, 0) == []
    assert [there.recv(100) for _ in bodies] == [*(b"head" + body for body in bodies[:-1]), b"last" + bodies[-1][:-5]]
    with pytest.raises(BlockingIOError):
        there.recv(100)
    assert call.turn >= 2 * 4 * 10


def test_a_receiving_call_that_is_interrupted() -> None:
    """Nothing now; it is still there for the next call."""
    here, there = pair()
    real, turn = mmsg._vectored("recvmmsg", "recvmsg"), [0]

    def interrupted(*arguments: object) -> int:
        turn[0] += 1
        if turn[0] % 2:
            ctypes.set_errno(errno.EINTR)
            return -1
        return real(*arguments)

    rows = ReceiveRows(4, call=interrupted)
    here.send(b"one")
    assert rows.receive(there.fileno()) == []
    assert rows.receive(there.fileno()) == [3] and bytes(rows.rows[0][:3]) == b"one"
