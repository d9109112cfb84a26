"""What the demo prints: one screen, a line or two per check, colour only where a person is looking."""

from __future__ import annotations

import os
import sys
import time
from typing import TextIO

GREEN, RED, DIM, BOLD, OFF = "\x1b[32m", "\x1b[31m", "\x1b[2m", "\x1b[1m", "\x1b[0m"
NAME_WIDTH = 13


def is_live(stream: TextIO) -> bool:
    """A person is looking at it, and what it shows can be changed."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def is_coloured(stream: TextIO) -> bool:
    return is_live(stream) and "NO_COLOR" not in os.environ


class Screen:
    """Prints checks as they pass and remembers whether all did."""

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        self.stream = stream
        self.live = is_live(stream)
        self.colour = is_coloured(stream)
        self.failures = 0
        self.started = time.monotonic()

    def paint(self, text: str, style: str) -> str:
        return f"{style}{text}{OFF}" if self.colour else text

    def line(self, text: str = "") -> None:
        print(text, file=self.stream, flush=True)

    def title(self, text: str) -> None:
        self.line(self.paint(text, BOLD))

    def dim(self, text: str) -> None:
        self.line(self.paint(text, DIM))

    def begin(self, name: str, doing: str) -> None:
        """Something is going on: shown until the check ends, on a terminal only."""
        if self.live:
            self.stream.write(f"  {self.paint('·', DIM)} {name:<{NAME_WIDTH}}{self.paint(doing, DIM)}")
            self.stream.flush()

    def end(self, name: str, held: bool, *evidence: str) -> None:
        """One check: a tick or a cross, its name, and what was seen."""
        if self.live:
            self.stream.write("\r\x1b[K")
        if not held:
            self.failures += 1
        sign = self.paint("✓", GREEN) if held else self.paint("✗", RED)
        first, *rest = evidence
        self.line(f"  {sign} {self.paint(f'{name:<{NAME_WIDTH}}', BOLD)}{first}")
        for text in rest:
            self.line(f"    {'':<{NAME_WIDTH}}{text}")

    def clear(self) -> None:
        if self.live:
            self.stream.write("\r\x1b[K")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started
