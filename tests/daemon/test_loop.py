"""The loop: bounded turns, removal in mid-turn, deadlines, faults that do not spread, and the way out."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from xfrmi.daemon.loop import SHARE, Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    yield a, b
    a.close()
    b.close()


def never() -> None:
    return None


def test_each_readable_has_its_turn(loop: Loop, pair: tuple[socket.socket, socket.socket]) -> None:
    """A descriptor that is never drained does not keep another from being served."""
    a, b = pair
    reader, writer = os.pipe()
    os.write(writer, b"x" * 100)
    turns: list[str] = []

    def pipe_turn() -> None:
        turns.append("pipe")
        os.read(reader, 1)

    def socket_turn() -> None:
        turns.append("socket")
        a.recv(1)
        if turns.count("socket") == 3:
            loop.stop()

    loop.watch(reader, pipe_turn)
    loop.watch(a.fileno(), socket_turn)
    for _ in range(3):
        b.send(b"y")
    loop.run(lambda now: None, never)
    assert turns.count("socket") == 3
    assert turns.count("pipe") <= 4
    os.close(reader)
    os.close(writer)


def test_a_callback_may_remove_another_of_the_same_turn(loop: Loop) -> None:
    pipes = [os.pipe() for _ in range(2)]
    calls: list[int] = []

    def first_come(own: int, other: int) -> None:
        calls.append(own)
        loop.unwatch(other)
        os.read(own, 1)
        loop.stop()

    for (own, _), (other, _) in zip(pipes, reversed(pipes), strict=True):
        loop.watch(own, lambda own=own, other=other: first_come(own, other))  # type: ignore[misc]
    for _, writer in pipes:
        os.write(writer, b"x")
    loop.run(lambda now: None, never)
    assert len(calls) == 1
    for fds in pipes:
        for fd in fds:
            os.close(fd)


def test_a_fault_is_reported_and_the_loop_goes_on(
    loop: Loop, pair: tuple[socket.socket, socket.socket], capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = pair
    b.send(b"bad")
    b.send(b"good")

    def serve() -> None:
        if a.recv(10) == b"bad":
            raise RuntimeError("a bug of ours")
        loop.stop()

    loop.watch(a.fileno(), serve)
    loop.run(lambda now: None, never)
    assert loop.faults == 1
    assert "a bug of ours" in capsys.readouterr().err


def test_tick_comes_with_the_deadline_and_the_clock(loop: Loop) -> None:
    now = 100.0
    deadlines = [99.0, 100.0, None]
    ticks: list[float] = []
    loop.clock = lambda: now

    def tick(at: float) -> None:
        ticks.append(at)
        deadlines.pop(0)
        if deadlines[0] is None:
            loop.stop()

    loop.run(tick, lambda: deadlines[0])
    assert ticks == [100.0, 100.0]


def test_reading_pauses_while_writing_is_owed(loop: Loop, pair: tuple[socket.socket, socket.socket]) -> None:
    a, b = pair
    b.send(b"request")
    order: list[str] = []

    def read() -> None:
        order.append("read")
        a.recv(10)
        loop.stop()

    def write() -> None:
        order.append("write")
        loop.want_write(a.fileno(), None)

    loop.watch(a.fileno(), read)
    loop.want_write(a.fileno(), write)
    loop.run(lambda now: None, never)
    assert order == ["write", "read"]


def test_who_has_to_wait_to_write_is_not_asked_to_read(loop: Loop) -> None:
    """Both are readable in one turn; the first makes the second one wait, as an event does that does not fit."""
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    ends = [end for end, _ in pairs]
    calls: list[str] = []

    def first_come(own: socket.socket, other: socket.socket) -> None:
        calls.append("read")
        own.recv(1)
        loop.want_write(other.fileno(), lambda: calls.append("write"))
        loop.stop()

    for own, other in (ends, ends[::-1]):
        loop.watch(own.fileno(), lambda own=own, other=other: first_come(own, other))  # type: ignore[misc]
    for _, far in pairs:
        far.send(b"x")
    loop.run(lambda now: None, never)
    assert calls == ["read", "write"]
    for sockets in pairs:
        for each in sockets:
            each.close()


def test_who_waits_to_write_learns_of_the_end(loop: Loop, pair: tuple[socket.socket, socket.socket]) -> None:
    """Also while the socket is full."""
    a, b = pair
    with pytest.raises(BlockingIOError):
        while True:
            a.send(bytes(1000))
    ended: list[type[Exception]] = []

    def write() -> None:
        try:
            a.send(b"x")
        except OSError as error:
            ended.append(type(error))
            loop.stop()

    loop.watch(a.fileno(), never)
    loop.want_write(a.fileno(), write)
    b.shutdown(socket.SHUT_RDWR)
    loop.run(lambda now: None, never)
    assert ended == [BrokenPipeError]


def test_stop_from_another_thread_wakes_the_loop(loop: Loop) -> None:
    timer = threading.Timer(0.05, loop.stop)
    timer.start()
    loop.run(lambda now: None, never)
    timer.join()


def test_a_signal_ends_the_loop(loop: Loop) -> None:
    old = signal.getsignal(signal.SIGUSR1)
    old_wakeup = signal.set_wakeup_fd(-1)
    try:
        loop.stop_on(signal.SIGUSR1)
        timer = threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGUSR1))
        timer.start()
        loop.run(lambda now: None, never)
        timer.join()
    finally:
        signal.set_wakeup_fd(old_wakeup)
        signal.signal(signal.SIGUSR1, old)


def test_unwatch_of_a_stranger_is_nothing(loop: Loop) -> None:
    loop.unwatch(12345)


def test_after_leave_nothing_more_is_called(loop: Loop) -> None:
    """What was readable in the same turn, either: it may be somebody else's by now (handover.py)."""
    calls: list[int] = []
    ends = [socket.socketpair() for _ in range(2)]

    def called(number: int) -> None:
        calls.append(number)
        loop.leave()

    for number, (here, there) in enumerate(ends):
        loop.watch(here.fileno(), lambda number=number: called(number))  # type: ignore[misc]
        there.send(b"x")
    loop.run(lambda now: calls.append(99), lambda: 0.0)
    assert len(calls) == 1
    for here, there in ends:
        here.close()
        there.close()


def test_clients_have_their_share_and_packets_the_rest(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many want to be served at once: while there are packets they have SHARE of their time; and who asks now
    and then is not behind those who ask all the time."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    spent = {"packets": 0.0, "shouting": 0.0, "polite": 0.0}
    waited: list[float] = []
    asked = [0.0]
    pipes = [os.pipe() for _ in range(22)]

    def packets() -> None:
        spent["packets"] += 0.002
        clock[0] += 0.002
        if clock[0] > 2.0:
            loop.stop()
        if not asked[0] and len(waited) < 20 and clock[0] > len(waited) * 0.08:
            asked[0] = clock[0]
            os.write(pipes[1][1], b"x")

    def polite() -> None:
        os.read(pipes[1][0], 1)
        waited.append(clock[0] - asked[0])
        asked[0] = 0.0
        clock[0] += 0.001
        spent["polite"] += 0.001

    def shout() -> None:
        spent["shouting"] += 0.001
        clock[0] += 0.001

    loop.watch(pipes[0][0], packets)
    loop.watch(pipes[1][0], polite, patient=True)
    for reader, _ in pipes[2:]:
        loop.watch(reader, shout, patient=True)
    for _, writer in (pipes[0], *pipes[2:]):
        os.write(writer, b"x")
    loop.run(lambda now: None, never)
    for pipe in pipes:
        loop.unwatch(pipe[0])
        for fd in pipe:
            os.close(fd)
    clients = spent["shouting"] + spent["polite"]
    assert SHARE * 0.9 < clients / spent["packets"] < SHARE * 1.1
    assert len(waited) == 20 and max(waited[1:]) < 0.016  # at first all are new


def test_who_was_there_before_does_not_wait_behind_a_crowd(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes with the crowd waits behind it; and who asks again and again is not favoured by either."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    pipes = [os.pipe() for _ in range(103)]
    served: list[int] = []

    def packets() -> None:
        clock[0] += 0.002
        if clock[0] > 1.5:
            loop.stop()
        if len(served) == 1:
            for number in range(1, 103):
                os.write(pipes[number][1], b"x")
            served.append(0)

    def ask(number: int) -> None:
        clock[0] += 0.001
        if number != 2:  # that one always has one more request
            os.read(pipes[number][0], 1)
        served.append(number)

    loop.watch(pipes[0][0], packets)
    for number in range(1, 103):
        loop.watch(pipes[number][0], lambda number=number: ask(number), patient=True)  # type: ignore[misc]
    os.write(pipes[0][1], b"x")
    os.write(pipes[1][1], b"x")
    loop.run(lambda now: None, never)
    for pipe in pipes:
        loop.unwatch(pipe[0])
        for fd in pipe:
            os.close(fd)
    assert served[:3] == [1, 0, 1], "the crowd has come, and the one known is first"
    assert set(served) == set(range(103)), "in the end all have been served"
    until_all = max(map(served.index, range(3, 103)))
    assert served[:until_all].count(2) <= 100, "half of the turns, the other half is the crowd's"


def test_without_packets_clients_have_it_all(loop: Loop) -> None:
    turns = [0]
    reader, writer = os.pipe()
    os.write(writer, b"x")

    def ask() -> None:
        turns[0] += 1
        if turns[0] == 500:
            loop.stop()

    loop.watch(reader, ask, patient=True)
    loop.run(lambda now: None, never)
    loop.unwatch(reader)
    os.close(reader)
    os.close(writer)
    assert turns[0] == 500
