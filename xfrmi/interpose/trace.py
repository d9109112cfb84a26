"""`--verbose`."""

from __future__ import annotations

from xfrmi.interpose.carrier import Carrier
from xfrmi.interpose.task import Task


class Trace:
    def __init__(self, fd: int) -> None: ...

    def opened(self, task: Task, protocol: int, number: int) -> None: ...
    def sent(self, task: Task, carrier: Carrier, datagram: memoryview) -> None: ...
    def received(self, task: Task, carrier: Carrier, datagram: memoryview) -> None: ...
