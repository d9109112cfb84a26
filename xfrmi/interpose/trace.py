"""`xfrmi exec --verbose`: what is intercepted, as it happens, one line a message.

    4711 ip     socket(NETLINK_XFRM) = 960
    4711 ip  >  NEWSA seq 1 ACK|EXCL|CREATE  src 192.0.2.1 dst 192.0.2.2 spi 0x1001 mode tunnel if_id 0x2a ...
    4711 ip  <  ERROR seq 1  ok
"""

from __future__ import annotations

import os

from xfrmi.interpose.carrier import Carrier
from xfrmi.interpose.describe import describe, protocol_name
from xfrmi.interpose.task import Task


class Trace:
    def __init__(self, fd: int) -> None:
        """Lines go to this descriptor, whole ones at a time; where they cannot, they are lost."""
        self._fd = fd

    def opened(self, task: Task, protocol: int, number: int) -> None:
        self._say(task, " ", f"socket({protocol_name(protocol)}) = {number}")

    def sent(self, task: Task, carrier: Carrier, datagram: memoryview) -> None:
        for line in describe(carrier.protocol, datagram, is_request=True):
            self._say(task, ">", line)

    def received(self, task: Task, carrier: Carrier, datagram: memoryview) -> None:
        for line in describe(carrier.protocol, datagram, is_request=False):
            self._say(task, "<", line)

    def note(self, task: Task, text: str) -> None:
        self._say(task, " ", text)

    def _say(self, task: Task, direction: str, text: str) -> None:
        try:
            os.write(self._fd, f"{task.tid} {task.name()} {direction} {text}\n".encode("utf-8", "replace"))
        except OSError:
            return
