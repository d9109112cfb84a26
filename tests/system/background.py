"""Datagrams that go out while a test does something else."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def sending(senders: list[socket.socket], datagram: bytes, pause: float) -> Iterator[None]:
    """Each of the connected sockets sends `datagram` again and again, `pause` seconds apart, as long as the block
    lasts, whatever errors come back for earlier ones. They are closed after it."""
    stop = threading.Event()

    def send() -> None:
        while not stop.is_set():
            for sender in senders:
                with contextlib.suppress(OSError):
                    sender.send(datagram)
            time.sleep(pause)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        for sender in senders:
            sender.close()
