"""Numbered datagrams through tunnels, both ways and both families, in many flows; and who counts what arrives."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from itertools import cycle

from bench.soak_keys import Tunnel
from xfrmi.lab.topology import Node
from xfrmi.lab.traffic import family_of

NUMBER = struct.Struct("=Q")
SIZES = 64, 200, 800, 1200
"""Bytes, all of which fit: a datagram is one packet."""
BURST = 20
"""Datagrams that are sent at once."""
ROOM = 4 << 20
"""Bytes of a receive buffer."""
QUIET = 0.5
"""Seconds without a packet, after which none is under way."""


class Traffic:
    """`sent` and `arrived` are right after `stop`."""

    def __init__(self, moon: Node, sun: Node, tunnels: list[Tunnel], flows: int, rate: float) -> None:
        """`flows` for each tunnel, direction and family; `rate`: datagrams a second of all together."""
        self.sent = self.arrived = self.twice = 0
        self._rate = rate
        self._going = True
        self._receivers: list[socket.socket] = []
        self._senders: list[socket.socket] = []
        for tunnel in tunnels:
            for family in (4, 6):
                ends = tunnel.addresses(family)
                for source, target, address in ((moon, sun, ends[1]), (sun, moon, ends[0])):
                    kind = family_of(address)
                    with target:
                        receiver = socket.socket(kind, socket.SOCK_DGRAM)
                    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
                    receiver.bind((address, 0))
                    receiver.setblocking(False)
                    self._receivers.append(receiver)
                    with source:
                        senders = [socket.socket(kind, socket.SOCK_DGRAM) for _ in range(flows)]
                    for sender in senders:
                        sender.connect(receiver.getsockname()[:2])
                        sender.setblocking(False)
                    self._senders += senders
        self._threads = [threading.Thread(target=work) for work in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Traffic:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for sock in (*self._senders, *self._receivers):
            sock.close()

    def stop(self) -> None:
        """Send no more, and wait until nothing arrives any more."""
        self._going = False
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        began = time.monotonic()
        sizes = cycle(bytes(size - NUMBER.size) for size in SIZES)
        for attempts, sender in enumerate(cycle(self._senders), 1):
            if not self._going:
                return
            # What a router inside says of an earlier datagram comes back instead of this one being sent: not counted.
            with contextlib.suppress(OSError):
                sender.send(NUMBER.pack(self.sent) + next(sizes))
                self.sent += 1
            if attempts % BURST == 0:
                time.sleep(max(0.0, began + attempts / self._rate - time.monotonic()))

    def _receive(self) -> None:
        poll = select.epoll()
        by_fd = {receiver.fileno(): receiver for receiver in self._receivers}
        for fd in by_fd:
            poll.register(fd, select.EPOLLIN)
        seen = bytearray()
        heard = time.monotonic()
        while self._going or time.monotonic() - heard < QUIET:
            for fd, _ in poll.poll(0.1):
                with contextlib.suppress(BlockingIOError):
                    while True:
                        (number,) = NUMBER.unpack_from(by_fd[fd].recv(2048))
                        at, bit = divmod(number, 8)
                        if at >= len(seen):
                            seen += bytes(at + 1024 - len(seen))
                        self.twice += seen[at] >> bit & 1
                        seen[at] |= 1 << bit
                        self.arrived += 1
                heard = time.monotonic()
        poll.close()
