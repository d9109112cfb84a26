"""Frames on the links of a lab: heard at one end of each, and sent from either."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from xfrmi.web.held import HeldLab

FRAME = 65535
AT_ONCE = 64
"""Frames read before others have their turn."""


class Taps:
    """Open while somebody looks at packets."""

    def __init__(self, lab: HeldLab, heard: Callable[[int, bool, bytes], None]) -> None:
        """`heard` gets the number of the link, whether the frame went from its left end to its right, and the frame."""
        self._lab = lab
        self._heard = heard
        self._open: list[socket.socket] = []

    async def begin(self) -> None:
        """OSError where a device has gone."""
        loop = asyncio.get_running_loop()
        for number, link in enumerate(self._lab.links):
            node, device = link.left
            tap = await self._lab.work(self._lab.nodes[node].packet_socket, device)
            self._open.append(tap)
            loop.add_reader(tap, self._read, number, tap)

    def end(self) -> None:
        loop = asyncio.get_running_loop()
        for tap in self._open:
            loop.remove_reader(tap)
            tap.close()
        self._open.clear()

    def _read(self, number: int, tap: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                frame, (_, _, sort, *_) = tap.recvfrom(FRAME)
            except OSError:  # there is no more, or the device has gone down, or away
                return
            self._heard(number, sort == socket.PACKET_OUTGOING, frame)

    async def send(self, link: int, forward: bool, frame: bytes) -> None:
        """Put a frame on a link, towards its right end or its left one. OSError."""
        held = self._lab.links[link]
        node, device = held.left if forward else held.right
        mouth = await self._lab.work(self._lab.nodes[node].packet_socket, device, 0)
        with mouth:
            mouth.send(frame)
