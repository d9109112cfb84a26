"""xfrm links through NETLINK_ROUTE."""

from __future__ import annotations

import socket

from xfrmi.interpose.carrier import Carrier, Show
from xfrmi.interpose.task import Task
from xfrmi.interpose.worlds import Worlds


class Links:
    def __init__(self, worlds: Worlds) -> None:
        self._worlds = worlds

    def send(
        self, carrier: Carrier, sock: socket.socket, task: Task, pidfd: int, request: memoryview, buffer: bytearray
    ) -> bool:
        return False

    def show(self, carrier: Carrier, peek: bool) -> Show | None:
        return None
