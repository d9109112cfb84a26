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
