"""A terminal with `xfrmi top` in it: what is on its screen, what is typed, what it is left as."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from xfrmi.lab.namespace import xfrmi_command

ALTERNATE, BACK = "\x1b[?1049h", "\x1b[?1049l"
_HOME = "\x1b[H"
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")


class Terminal:
    def __init__(self, words: tuple[str, ...], env: Mapping[str, str], columns: int, lines: int) -> None:
        self._master, self._slave = pty.openpty()
        self.resize(columns, lines)
        self._before = termios.tcgetattr(self._slave)
        self._heard = bytearray()
        clean = {name: value for name, value in env.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            xfrmi_command("top", *words), stdin=self._slave, stdout=self._slave, stderr=self._slave,
            env={**clean, "TERM": "xterm-256color"}, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that ^C is a signal
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._slave)
        self._reader.join()
        os.close(self._master)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    @property
    def heard(self) -> str:
        """All that was ever written."""
        return self._heard.decode("utf-8", "replace")

    @property
    def screen(self) -> str:
        """The last picture that is complete."""
        frames = self.heard.split(_HOME)
        return _CONTROL.sub("", frames[-2]) if len(frames) > 2 else ""

    def shows(self, what: str | Callable[[str], object], seconds: float = 10.0) -> None:
        """Wait for it."""
        deadline = time.monotonic() + seconds
        while not (what in self.screen if isinstance(what, str) else what(self.screen)):
            assert time.monotonic() < deadline, f"not to be seen: {what}\n{self.screen}\n{self.heard[-400:]!r}"
            time.sleep(0.02)

    def ends(self) -> int:
        """Its exit status; the terminal must be as it was."""
        status = self.process.wait(10)
        assert termios.tcgetattr(self._slave) == self._before
        deadline = time.monotonic() + 5
        while self.heard.count(BACK) != 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert self.heard.count(ALTERNATE) == self.heard.count(BACK) == 1
        after = self.heard.split(BACK)[1]
        assert "\x1b[?25h" in self.heard.split(ALTERNATE)[1], "the cursor is seen again"
        assert "Traceback" not in after
        return status

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has it open any more
            while piece := os.read(self._master, 1 << 16):
                self._heard += piece


@contextmanager
def top(*words: str, env: Mapping[str, str] = os.environ, columns: int = 80, lines: int = 24) -> Iterator[Terminal]:
    terminal = Terminal(words, env, columns, lines)
    try:
        yield terminal
    finally:
        terminal.close()
