"""What a daemon tells its workers all at once, with more descriptors than a message may have."""

from __future__ import annotations

import os
import socket

from xfrmi.daemon import worker_channel as channel
from xfrmi.daemon.loop import Loop
from xfrmi.daemon.worker_processes import GATHERED, Processes

QUEUES = 17
"""Of a device: sixteen workers' and the one that is written to."""


def listens(number: int, down: socket.socket, up: socket.socket) -> None:
    """A worker; it tells how many descriptors it was given by ending when they are not as many as was said."""
    while True:
        message, fds = channel.receive(down)
        for fd in fds:
            os.close(fd)
        if isinstance(message, channel.Gathered) and sum(count for _, count in message.messages) != len(fds):
            os._exit(1)
        if isinstance(message, channel.Ask):
            channel.send(up, channel.Answered(message.serial))


def test_gathered_messages_have_no_more_descriptors_than_one_may() -> None:
    loop, said = Loop(), []
    processes = Processes(1, loop, listens, lambda message: None, said.append)
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        processes.begin(0)
        pid = processes.pids[0]
        processes.gather()
        for key in range(GATHERED + 8):
            processes.send(0, channel.DeviceOut(key), [null] * QUEUES)
        processes.settle()
        assert processes.pids == [pid], said
    finally:
        processes.end()
        os.close(null)
        loop.close()


def holds(number: int, down: socket.socket, up: socket.socket) -> None:
    """Worker 1 ends when it is told to hold; worker 0, which would wait for its last word, holds when told to go on."""
    others: tuple[int, ...] = ()
    while True:
        message, _ = channel.receive(down)
        if isinstance(message, channel.Hold):
            others = message.others
            if number == 1:
                os._exit(0)
            if number:
                channel.send(up, channel.Held(()))
        elif isinstance(message, channel.GoOn) and not number:
            channel.send(up, channel.Held(tuple(((bytes([other]), 0), (0, 0.0)) for other in others)))


def test_who_dies_when_all_are_to_hold_keeps_nobody_waiting() -> None:
    loop, heard = Loop(), []
    processes = Processes(3, loop, holds, heard.append, lambda line: None)
    try:
        for number in range(3):
            processes.begin(number)
        assert not processes.hold()
        assert [bool(pid) for pid in processes.pids] == [True, False, True]
        waited_for = [held.learned for held in heard if isinstance(held, channel.Held) and held.learned]
        assert waited_for == [(((b"\1", 0), (0, 0.0)), ((b"\2", 0), (0, 0.0)))]
    finally:
        processes.end()
        loop.close()
