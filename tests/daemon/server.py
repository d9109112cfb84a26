"""A daemon in a thread of the test: real sockets, sessions, handlers and engine; its links are pretended."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from xfrmi.core.engine import Engine
from xfrmi.core.interface import Interface
from xfrmi.daemon.control import ControlSockets
from xfrmi.daemon.events import Events
from xfrmi.daemon.hub import Hub
from xfrmi.daemon.loop import Loop
from xfrmi.daemon.route_handler import RouteHandler
from xfrmi.daemon.state_samples import StateSamples
from xfrmi.daemon.xfrm_handler import XfrmHandler
from xfrmi.dev.rtnl import IFF_MULTICAST
from xfrmi.wire.link_types import IFF_UP, LinkInfo
from xfrmi.wire.xfrm_const import XfrmStat


class PretendedDevice:
    def __init__(self, interface: Interface) -> None:
        self.interface = interface
        self.multicast = False
        self.txqlen = 1000
        self.moved_to: list[int] = []
        """Inodes of the namespaces it was sent to."""


class PretendedDevices:
    """As xfrmi.daemon.devices.Devices, without a kernel: what is asked of a TUN is done to the Interface."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._devices: dict[Interface, PretendedDevice] = {}
        self._next_ifindex = 100

    def __getitem__(self, interface: Interface) -> PretendedDevice:
        return self._devices[interface]

    def __iter__(self) -> Iterator[PretendedDevice]:
        return iter(self._devices.values())

    def alias(self, device: PretendedDevice) -> str:
        return ""

    def find(self, which: str | int, nsid: int | None = None) -> Interface | None:
        return next((i for i in self._devices if which in (i.name, i.ifindex)), None)

    def add(self, info: LinkInfo) -> Interface:
        interface = self._engine.add_interface(info.name or "xfrm0", info.if_id or 0, info.link or 0, info.external)
        interface.ifindex, interface.up = self._next_ifindex, False
        self._next_ifindex += 1
        self._devices[interface] = PretendedDevice(interface)
        self.set(interface, LinkInfo(flags=info.flags, change=info.change, mtu=info.mtu))
        return interface

    def check_change(self, interface: Interface, info: LinkInfo) -> None:
        self._engine.interfaces.check_change(interface, info.if_id or 0, info.link or 0, info.external)

    def change(self, interface: Interface, info: LinkInfo) -> None:
        self._engine.change_interface(interface.name, info.if_id or 0, info.link or 0, info.external)

    def set(self, interface: Interface, info: LinkInfo, netns_fd: int | None = None) -> None:
        device = self._devices[interface]
        if info.name:
            self._engine.interfaces.rename(interface, info.name)
        if info.change & IFF_UP:
            interface.up = bool(info.flags & IFF_UP)
        if info.change & IFF_MULTICAST:
            device.multicast = bool(info.flags & IFF_MULTICAST)
        if info.mtu is not None:
            interface.mtu = info.mtu
        if info.txqlen is not None:
            device.txqlen = info.txqlen
        if netns_fd is not None:
            device.moved_to.append(os.fstat(netns_fd).st_ino)

    def remove(self, interface: Interface) -> None:
        del self._devices[interface]
        self._engine.delete_interface(interface.name)

    def sync(self) -> None:
        return None


class Server:
    def __init__(self) -> None:
        self.loop = Loop()
        self.engine = Engine()
        self.events = Events(self.engine)
        self.hub = Hub(self.events)
        self.devices = PretendedDevices(self.engine)
        self.sockets = ControlSockets(self.loop)
        self.sockets.listen(
            XfrmHandler(self.engine, self.events).handle,
            RouteHandler(self.devices).handle,  # type: ignore[arg-type]
            self.events,
            self.hub,
            {"stat": self._stat, "status": lambda request: {"pid": 1}},
            {"states": lambda request, wake: StateSamples(self.engine.sad, request)},
        )
        self._thread = threading.Thread(target=self.loop.run, args=(lambda now: None, lambda: None))

    def _stat(self, request: Mapping[str, Any]) -> dict[str, int]:
        return {stat.label: self.engine.stats[stat] for stat in XfrmStat}

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Hang up on everybody, as a daemon that ends. A second time does nothing."""
        if not self._thread.is_alive():
            return
        self.loop.stop()
        self._thread.join()
        self.sockets.close()
        self.hub.close()
        self.loop.close()


@contextmanager
def runtime_directory() -> Iterator[str]:
    """$XFRMI_RUNTIME_DIR, with a name short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="xfrmi-") as base, patch.dict("os.environ", XFRMI_RUNTIME_DIR=base):
        yield base


@contextmanager
def serving() -> Iterator[Server]:
    with runtime_directory():
        server = Server()
        server.start()
        try:
            yield server
        finally:
            server.stop()
