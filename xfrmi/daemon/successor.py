"""SIGHUP: start the same command again, to replace this process (handover.py); for `systemctl reload`.

What is on the disk by then is what is started: after an upgrade the new version.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xfrmi.daemon.loop import Loop

OPTION = "--replace"


class Successor:
    def __init__(self, loop: Loop, log: Callable[[str], None]) -> None:
        self._loop = loop
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Unless one is at it already."""
        if self._process is not None:
            return
        command = [*sys.orig_argv, *([] if OPTION in sys.orig_argv else [OPTION])]
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        except OSError as error:
            self._log(f"SIGHUP: cannot start {command[0]}: {error.strerror}")
            return
        self._process = process
        ended = os.pidfd_open(process.pid)
        self._loop.watch(ended, lambda: self._failed(ended))

    def _failed(self, ended: int) -> None:
        """It ends before us."""
        self._loop.unwatch(ended)
        os.close(ended)
        assert self._process is not None
        self._log(f"SIGHUP: the new process ended with status {self._process.wait()}; this one goes on")
        self._process = None
