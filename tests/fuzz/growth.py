"""Does the time of an input grow faster than its length? Every input of a corpus is made long by repeating a part of
it, and four times as long, and both are timed: what takes much more than four times as long is quadratic, or worse.

This is a measurement, not a test: `make fuzz` makes it, nothing asserts it while others use the machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.fuzz.registry import One, target

LENGTH = 8 << 10
"""Bytes of the shorter one."""
TOO_MUCH = 3.0
"""Times as long for twice the length. 2 is linear, 4 is quadratic."""
WORTH_IT = 0.02
"""Seconds of the longer one. What is done before that is no danger, and cannot be measured."""
MOST = 100
"""Inputs of a corpus that are tried."""
ENOUGH = 15
"""Seconds after which no more are tried."""


class Growth(NamedTuple):
    ratio: float
    """Times as long for twice the length."""
    entry: bytes
    """The longer input."""


def worst(name: str, entries: Iterable[Path]) -> Growth:
    """0 if everything was too quick to tell."""
    one = target(name).make()
    found = Growth(0, b"")
    paths = list(entries)
    deadline = time.monotonic() + ENOUGH
    for path in paths[:: max(1, len(paths) // MOST)]:
        if time.monotonic() > deadline:
            break
        for short, long in _grown(path.read_bytes()):
            if _time(one, long) < WORTH_IT:
                continue
            ratio = math.sqrt(min(_time(one, long) for _ in range(3)) / min(_time(one, short) for _ in range(4)))
            if ratio > found.ratio:
                found = Growth(ratio, long)
    return found


def _grown(entry: bytes) -> Iterator[tuple[bytes, bytes]]:
    """All of it again and again, and parts in the middle or at the end."""
    size = len(entry)
    if size < 4:
        return
    for start, end in ((0, size), (size // 2, size), (size // 4, size // 2), (size - 4, size)):
        part = entry[start:end]
        count = LENGTH // len(part)
        yield tuple(entry[:start] + part * times + entry[end:] for times in (count, 4 * count))  # type: ignore[misc]


def _time(one: One, entry: bytes) -> float:
    begun = time.process_time()
    one(entry)
    return time.process_time() - begun
