"""How much of what could be tried is tried: everything in `make interop`, a spread of it in `make test`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeVar

EVERYTHING = bool(os.environ.get("XFRMI_INTEROP"))

T = TypeVar("T")


def every(step: int, cases: Iterable[T]) -> list[T]:
    """All, or the first of each `step`. Where that has no factor in common with the lengths of a product, each value
    of each of its dimensions has its turn."""
    return list(cases)[:: 1 if EVERYTHING else step]
