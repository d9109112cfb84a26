"""Serve a lab on the loopback address until Ctrl-C, or until the lab is down.

starlette and uvicorn, with h11 below them: pure Python, small, and HTTP is not a thing to write once more.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable

import uvicorn

from xfrmi.lab.running import Running
from xfrmi.web.api import Api
from xfrmi.web.door import Door, Keys
from xfrmi.web.held import HeldLab
from xfrmi.web.hub import Hub
from xfrmi.web.stand import ADDRESS

CONNECTIONS = 100
LAST_SECONDS = 2
"""For answers under way, when it ends."""


class _Server(uvicorn.Server):
    """Hangs up on pages when it is to end: their streams would never end by themselves."""

    def __init__(self, config: uvicorn.Config, hub: Hub) -> None:
        super().__init__(config)
        self._hub = hub

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._hub.close()
        await super().shutdown(sockets)


def serve(running: Running, listening: socket.socket, say: Callable[[str], None]) -> None:
    """Returns when it is over; `listening` is closed then. To be called where `stand.settle` has been. OSError."""
    lab = HeldLab(running)
    try:
        asyncio.run(_serve(lab, listening, say))
    finally:
        lab.close()
        listening.close()


async def _serve(lab: HeldLab, listening: socket.socket, say: Callable[[str], None]) -> None:
    keys, hub = Keys(), Hub(lab)
    port = listening.getsockname()[1]
    config = uvicorn.Config(
        Door(Api(hub, keys).application(), keys, port),
        log_config=None, access_log=False, server_header=False, proxy_headers=False, lifespan="off",
        ws="none", http="h11", loop="asyncio",
        limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=LAST_SECONDS,
    )  # fmt: skip
    server = _Server(config, hub)
    loop = asyncio.get_running_loop()

    def lab_ended() -> None:
        loop.remove_reader(lab.keeper)
        say(f'lab "{lab.name}" is down')
        server.should_exit = True

    def link() -> str:
        return f"http://{ADDRESS}:{port}/#{keys.token}"

    def another() -> None:
        if not sys.stdin.readline():
            loop.remove_reader(sys.stdin)
            return
        keys.renew()
        say(link())

    loop.add_reader(lab.keeper, lab_ended)
    say(f'lab "{lab.name}" as a page, for whoever opens this link first (it works once):')
    say(link())
    if sys.stdin is not None and sys.stdin.isatty():
        say("Enter prints another link, Ctrl-C ends this.")
        loop.add_reader(sys.stdin, another)
    await server.serve(sockets=[listening])
