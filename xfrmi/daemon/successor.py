"""SIGHUP, or the request "succeed": start the same command again, to replace this process (handover.py).

What is on the disk by then is what is started: after an upgrade the new version.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from xfrmi.errors import XfrmError

if TYPE_CHECKING:
    from xfrmi.daemon.loop import Loop

OPTION = "--replace"


class Successor:
    def __init__(self, loop: Loop, log: Callable[[str], None]) -> None:
        self._loop = loop
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> int:
        """Its pid; that of the one that is at it already, if there is one. XfrmError, the errno of starting it."""
        if self._process is None:
            command = [*sys.orig_argv, *([] if OPTION in sys.orig_argv else [OPTION])]
            try:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
            except OSError as error:
                what = f"cannot start {command[0]}: {error.strerror}"
                raise XfrmError(error.errno or errno.EIO, detail=what) from None
            self._process = process
            ended = os.pidfd_open(process.pid)
            self._loop.watch(ended, lambda: self._failed(ended))
        return self._process.pid

    def hung_up(self) -> None:
        """SIGHUP."""
        try:
            self.start()
        except XfrmError as error:
            self._log(f"SIGHUP: {error.detail}; this process goes on")

    def command(self, request: Mapping[str, Any]) -> dict[str, int]:
        """Answered at once, with the process that is to follow: whether it does, its end or the next status tells."""
        return {"pid": self.start()}

    def _failed(self, ended: int) -> None:
        """It ends before us."""
        self._loop.unwatch(ended)
        os.close(ended)
        assert self._process is not None
        self._log(f"the new process ended with status {self._process.wait()}; this one goes on")
        self._process = None
