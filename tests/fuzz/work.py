"""How much is done about an input: lines of Python, counted. The numbers are the same however busy the machine is, so
that they can be asserted. What a line does in C counts as one: growth.py measures time.
"""

from __future__ import annotations

import sys
from collections import Counter
from types import CodeType, FrameType
from typing import Any

from tests.fuzz.registry import One

ENOUGH = 60
"""Runs of a line. Fewer tell nothing, and do no harm."""
Line = tuple[CodeType, int]


def lines(one: One, entry: bytes) -> Counter[Line]:
    """How often each line is run, those of tomllib and the like included."""
    count: Counter[Line] = Counter()

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            count[frame.f_code, frame.f_lineno] += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        one(entry)
    finally:
        sys.settrace(before)
    return count


def growth(*counts: Counter[Line]) -> tuple[float, str]:
    """Of three inputs, each twice as long as the one before: the line whose number grows most, and how often as many
    are added by the second doubling as by the first. 2 is linear, 4 is quadratic."""
    worst = 0.0, ""
    first, second, third = counts
    for line, count in third.items():
        before, now = second[line] - first[line], count - second[line]
        if before > 0 and now >= ENOUGH and now / before > worst[0]:
            code, number = line
            worst = now / before, f"{code.co_filename}:{number} ({code.co_qualname}), run {count} times"
    return worst
