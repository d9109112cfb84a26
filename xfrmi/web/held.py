"""A lab as this process holds it: its namespaces open, its daemons spoken to.

A thread visits a node for as long as it takes to open a socket there; `stand.settle` has made that possible.

Whatever may wait (daemons, netlink, sockets of nodes) is done by one worker thread, in turn: clients of daemons are not
for several threads, and the loop that answers browsers waits for nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from xfrmi.client import Client
from xfrmi.client.samples import Sampler
from xfrmi.dev.netns import inside
from xfrmi.dev.router import KernelRouter
from xfrmi.lab.link_setting import setting_now
from xfrmi.lab.registry import LinkRecord
from xfrmi.lab.running import Running
from xfrmi.lab.wiretap import ETH_P_ALL

DAEMON_SECONDS = 5.0
"""A daemon that is silent for so long is told to be."""

Answer = TypeVar("Answer")


@dataclass
class HeldNode:
    name: str
    kind: str
    fd: int
    """Of its network namespace."""
    addresses: dict[str, list[str]]
    """With length of prefix, by device, as the lab was planned."""
    client: Client | None
    """None without a daemon. For the worker alone, like what follows."""
    base: str
    sampler: Sampler | None = None
    kernel_router: KernelRouter | None = None

    @property
    def netns(self) -> str:
        return f"/proc/self/fd/{self.fd}"

    def router(self) -> KernelRouter:
        """Routes of this node as they are now."""
        if self.kernel_router is None:
            with inside(self.fd):
                self.kernel_router = KernelRouter()
        self.kernel_router.process()
        return self.kernel_router

    def hang_up(self) -> None:
        """On its daemon, until it is asked again."""
        if self.sampler is not None:
            self.sampler.close()
            self.sampler = None
        if self.client is not None:
            self.client.close()

    def is_local(self, address: bytes) -> bool:
        return self.router().is_local(0, address)

    def devices(self) -> list[str]:
        """What there is now, `lo` left out."""
        with inside(self.fd):
            return [name for _, name in socket.if_nameindex() if name != "lo"]

    def packet_socket(self, device: str, protocol: int = ETH_P_ALL) -> socket.socket:
        """Hears frames of a device; with protocol 0 it only sends. OSError."""
        with inside(self.fd):
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
            made.bind((device, protocol))
            made.setblocking(False)
        except OSError:
            made.close()
            raise
        return made


@dataclass(frozen=True)
class HeldLink:
    left: tuple[str, str]
    """Node and device. What is seen of a link is seen at this end."""
    right: tuple[str, str]
    faults: str
    """In the beginning."""
    folder: Path
    stem: str
    """Where it says what it does now; empty where that cannot change."""

    def doing(self) -> str:
        """What it does to packets, '' for a plain cable."""
        setting = setting_now(self.folder, self.stem)
        return self.faults if setting is None else setting.describe()


class HeldLab:
    def __init__(self, running: Running) -> None:
        """Where `settle` has been. OSError."""
        record = running.record
        self.name = running.name
        self.keeper = os.pidfd_open(record.pid)
        self.nodes: dict[str, HeldNode] = {}
        for name, node in record.nodes.items():
            fd = os.open(f"/proc/{record.pid}/fd/{node.fd}", os.O_RDONLY | os.O_CLOEXEC)
            base = str(running.folder / name)
            client = Client(f"/proc/self/fd/{fd}", DAEMON_SECONDS, base) if node.xfrm else None
            self.nodes[name] = HeldNode(name, node.kind, fd, node.addresses, client, base)
        self.links = [_link(link, running.folder) for link in record.links]
        self._worker = ThreadPoolExecutor(1, "xfrmi-web-worker")

    async def work(self, task: Callable[..., Answer], *arguments: object) -> Answer:
        """Let the worker do it. Raises what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, task, *arguments)

    def with_daemons(self) -> list[HeldNode]:
        return [node for node in self.nodes.values() if node.client is not None]

    def rest(self) -> None:
        """Hang up on daemons until somebody wants to know something again. For the worker."""
        for node in self.nodes.values():
            node.hang_up()
            if node.kernel_router is not None:
                node.kernel_router.close()
                node.kernel_router = None

    def close(self) -> None:
        self._worker.submit(self.rest)
        self._worker.shutdown()
        for node in self.nodes.values():
            with contextlib.suppress(OSError):
                os.close(node.fd)
        os.close(self.keeper)


def _link(link: LinkRecord, folder: Path) -> HeldLink:
    ends = [end.partition(":") for end in link.name.split()]
    (left, _, left_device), (right, _, right_device) = ends
    return HeldLink((left, left_device), (right, right_device), link.faults, folder, link.stem)
