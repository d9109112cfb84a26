"""What a daemon says: one line each to stderr. Journals add the time; sparse enough to read without.

Whoever may ask a daemon for things can have it say something for each of them (interfaces that come and go,
replacements that fail), and a full disk does for each state. So lines are limited all together: BURST at once, and
PER_SECOND from then on; those left out are counted, and told before the next line that is not. A packet never has a
line of its own, and neither has a request that is refused, nor somebody who is turned away at the door.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Final

BURST: Final = 500
"""As many as a machine with hundreds of interfaces has to say when it starts."""
PER_SECOND: Final = 2.0


class Log:
    """Call it with a line."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._room = float(BURST)
        self._since = clock()
        self._left_out = 0

    def __call__(self, line: str) -> None:
        now = self._clock()
        self._room = min(self._room + (now - self._since) * PER_SECOND, BURST)
        self._since = now
        if self._room < 1:
            self._left_out += 1
            return
        self._room -= 1
        if self._left_out:
            print(f"{self._left_out} lines left out: there were too many", file=sys.stderr)
            self._left_out = 0
        print(line, file=sys.stderr, flush=True)
