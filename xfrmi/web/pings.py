"""Echo requests from a node, one after the other until told otherwise: something to look at.

They carry a sentence, so that plaintext is to be recognised and ciphertext is not.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from xfrmi.dev.netns import inside
from xfrmi.lab.plan import LabError
from xfrmi.lab.traffic import echo_reply, echo_request, echo_socket
from xfrmi.web.held import HeldLab, HeldNode

SHORTEST, LONGEST = 0.01, 60.0
"""Seconds from one to the next."""
MOST = 16
"""At a time."""
TEXT_LEN = 56
KEPT = 256
"""Numbers that may still be answered."""


@dataclass
class Ping:
    number: int
    node: str
    address: str
    interval: float
    sent: int = 0
    answered: int = 0
    last_ms: float | None = None
    problem: str = ""
    """Why the last one could not be sent: the kernel's phrase."""
    under_way: dict[int, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.number, "node": self.node, "address": self.address, "interval": self.interval,
            "sent": self.sent, "answered": self.answered, "last_ms": self.last_ms, "problem": self.problem,
        }  # fmt: skip


class Pings:
    def __init__(self, lab: HeldLab, changed: Callable[[], None]) -> None:
        self._lab = lab
        self._changed = changed
        self._next = 1
        self._running: dict[int, tuple[Ping, asyncio.Task[None], socket.socket]] = {}

    def as_list(self) -> list[dict[str, Any]]:
        return [ping.as_dict() for ping, _, _ in self._running.values()]

    async def begin(self, node: str, address: str, interval: float) -> Ping:
        """LabError for what cannot be pinged; OSError."""
        if node not in self._lab.nodes:
            raise LabError(f'there is no node "{node}"')
        try:
            target = str(ipaddress.ip_address(address))
        except ValueError:
            raise LabError(f"{address!r} is no address") from None
        if not SHORTEST <= interval <= LONGEST:
            raise LabError(f"from one echo to the next are {SHORTEST} to {LONGEST:g} seconds, not {interval:g}")
        if len(self._running) >= MOST:
            raise LabError(f"there are {MOST} already; stop one")
        made = await self._lab.work(_open, self._lab.nodes[node], target)
        ping = Ping(self._next, node, target, interval)
        self._next += 1
        asyncio.get_running_loop().add_reader(made, self._answered, ping, made)
        self._running[ping.number] = ping, asyncio.create_task(self._send(ping, made)), made
        self._changed()
        return ping

    def end(self, number: int) -> bool:
        """Whether there was one."""
        found = self._running.pop(number, None)
        if found is None:
            return False
        _, task, made = found
        task.cancel()
        asyncio.get_running_loop().remove_reader(made)
        made.close()
        self._changed()
        return True

    def end_all(self) -> None:
        for number in list(self._running):
            self.end(number)

    async def _send(self, ping: Ping, made: socket.socket) -> None:
        ident = _ident(ping)
        while True:
            number = ping.sent & 0xFFFF
            try:
                made.sendto(echo_request(":" in ping.address, ident, number, TEXT_LEN), (ping.address, 0))
                ping.problem = ""
            except OSError as error:
                ping.problem = error.strerror or str(error)
            ping.sent += 1
            ping.under_way[number] = time.monotonic()
            if len(ping.under_way) > KEPT:
                del ping.under_way[next(iter(ping.under_way))]
            self._changed()
            await asyncio.sleep(ping.interval)

    def _answered(self, ping: Ping, made: socket.socket) -> None:
        try:
            data = made.recv(65535)
        except OSError as error:  # what came back for one sent: "no route to host" and the like
            ping.problem = error.strerror or str(error)
            return
        reply = echo_reply(":" in ping.address, data)
        if reply is None or reply[0] != _ident(ping):
            return
        began = ping.under_way.pop(reply[1], None)
        if began is not None:
            ping.answered += 1
            ping.last_ms = round((time.monotonic() - began) * 1000, 2)
            self._changed()


def _ident(ping: Ping) -> int:
    """What tells its answers from those of others."""
    return (os.getpid() << 4) + ping.number & 0xFFFF


def _open(node: HeldNode, address: str) -> socket.socket:
    with inside(node.fd):
        made = echo_socket(address)
    made.setblocking(False)
    return made
