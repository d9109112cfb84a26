"""`xfrmi monitor` running on a host of the lab, and what it has printed."""

from __future__ import annotations

import itertools
import subprocess
from types import TracebackType

from tests.system.hosts import eventually, tell
from xfrmi.lab.namespace import xfrmi_command
from xfrmi.lab.topology import Node

_number = itertools.count()
_PROBE = "src 127.0.0.1 dst 127.0.0.1 proto esp spi 0xfffffffe"


class Monitor:
    """Subscribed when the block is entered, if `objects` are all (none given) or have states among them."""

    def __init__(self, host: Node, *objects: str) -> None:
        self._host = host
        self._objects = objects
        self._log = f"monitor{next(_number)}"
        self.program: subprocess.Popen[str]

    def text(self) -> str:
        return (self._host.folder / self._log).read_text()

    def expect(self, *parts: str) -> str:
        """Wait until each of `parts` has been printed, in any order; the whole text so far."""
        eventually(
            lambda: all(part in self.text() for part in parts),
            lambda: f"monitor has not printed all of {parts} but:\n{self.text()}",
        )
        return self.text()

    def __enter__(self) -> Monitor:
        self.program = self._host.start(xfrmi_command("monitor", *self._objects), self._log)
        if not self._objects or "SA" in self._objects:
            eventually(self._hears, "monitor hears nothing")
        return self

    def _hears(self) -> bool:
        tell(self._host, f"state add {_PROBE} aead rfc4106(gcm(aes)) 0x{bytes(20).hex()} 128\nstate delete {_PROBE}\n")
        return "0xfffffffe" in self.text()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._host.stop(self.program)
