"""The terminal, and the loop: sample, draw, wait for a key or the next sample.

Whatever ends it (q, Ctrl-C, SIGTERM, an exception), the terminal is as it was before. A daemon that ends is waited for.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
import tty
from contextlib import ExitStack
from types import FrameType, TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from xfrmi.client import Client
from xfrmi.client.samples import Sample, Sampler
from xfrmi.errors import XfrmError
from xfrmi.top.keys import keys_in
from xfrmi.top.picture import asked, picture
from xfrmi.top.view import View, pressed

GENTLE = 20
"""The pause between samples is at least so many times what taking one took."""
SILENT_AFTER = 3.0
"""Seconds."""
_VSUSP_OFF = b"\0"


class Keyboard:
    """Standard input, key by key, unechoed; and signals, so that a new size is drawn at once."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            before = termios.tcgetattr(self._fd)
            undo.callback(termios.tcsetattr, self._fd, termios.TCSAFLUSH, before)
            tty.setcbreak(self._fd)
            mode = termios.tcgetattr(self._fd)
            mode[6][termios.VSUSP] = _VSUSP_OFF  # Ctrl-Z would leave the shell with this screen
            termios.tcsetattr(self._fd, termios.TCSADRAIN, mode)
            self._woken, woken = os.pipe()
            for end in (self._woken, woken):
                os.set_blocking(end, False)
                undo.callback(os.close, end)
            undo.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(woken))
            undo.callback(signal.signal, signal.SIGWINCH, signal.signal(signal.SIGWINCH, _nothing))
            undo.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, _end))
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def wait(self, seconds: float) -> list[str]:
        """Until a key is pressed, the size changes, or so long. `q` when the terminal has gone."""
        ready, _, _ = select.select([self._fd, self._woken], [], [], max(0.0, seconds))
        if self._woken in ready:
            os.read(self._woken, 4096)
        if self._fd not in ready:
            return []
        text = os.read(self._fd, 4096)
        return keys_in(text.decode("utf-8", "replace")) if text else ["q"]


class Watch:
    """One daemon after the other, and what is known of the current one."""

    def __init__(self) -> None:
        self._resources = ExitStack()
        self._sampler: Sampler | None = None
        self.before: Sample | None = None
        self.now: Sample | None = None
        self.trouble = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def sample(self, view: View, height: int | None) -> View:
        """Take the next one. XfrmError when there is no daemon."""
        if self._sampler is None:
            client = self._resources.enter_context(Client(timeout=SILENT_AFTER))
            self._sampler = self._resources.enter_context(client.sampler())
        new = self._sampler.sample()
        view, keys = asked(self.now, new, view, height)
        self.before, self.now, self.trouble = self.now, self._sampler.with_details(new, keys), ""
        return view

    def look(self, view: View, height: int | None) -> View:
        """Ask for what the view shows and is not there yet."""
        if self.now is None or self._sampler is None:
            return view
        view, keys = asked(self.before, self.now, view, height)
        if any(key not in self.now.states for key in keys):
            self.now = self._sampler.with_details(self.now, keys)
        return view

    def give_up(self, error: XfrmError) -> None:
        """That daemon has gone, or is silent."""
        self._resources.close()
        self._sampler = self.before = None
        self.trouble = f"waiting for the next daemon: {error.detail or error}"


def watch(view: View, interval: float, console: Console) -> None:
    """Until the reader quits. XfrmError if there is no daemon at the beginning."""
    with Watch() as watched:
        view = watched.sample(view, console.height)
        with Keyboard() as keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
            _loop(watched, keyboard, live, view, interval)


def _loop(watched: Watch, keyboard: Keyboard, live: Live, view: View, interval: float) -> None:
    console = live.console
    due = time.monotonic() + min(interval, 1.0)  # there are no rates before the second one
    while not view.done:
        live.update(Group(*_drawn(watched, view, console)), refresh=True)
        for key in keyboard.wait(due - time.monotonic()):
            view = pressed(view, key, page=max(1, console.height // 5))
        began = time.monotonic()
        try:
            view = watched.sample(view, console.height) if began >= due else watched.look(view, console.height)
            taken = time.monotonic() - began
        except XfrmError as error:
            watched.give_up(error)
            taken = 0.0
        if began >= due:
            due = time.monotonic() + max(interval, taken * GENTLE)


def _drawn(watched: Watch, view: View, console: Console) -> list[Text]:
    assert watched.now is not None
    return picture(watched.before, watched.now, time.time(), view, console.width, console.height, watched.trouble)


def _nothing(signum: int, frame: FrameType | None) -> Any:
    pass


def _end(signum: int, frame: FrameType | None) -> Any:
    raise SystemExit(128 + signum)
