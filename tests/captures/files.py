"""Capture files: found in tests/vectors/kernel and in the directories of $XFRMI_CAPTURES, told apart by `format`.

Nothing here or in the tests that use it knows a vector by its id: a file with other vectors of the same format, from
the same generator, is run just the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

OUR_OWN = Path(__file__).parents[1] / "vectors" / "kernel"
FURTHER = "XFRMI_CAPTURES"
"""Environment variable: directories, separated as in $PATH."""

OUTBOUND = "kernelpeer-outbound-1"
INBOUND = "kernelpeer-inbound-1"
MTU = "kernelpeer-mtu-1"
TEXT = "kernelpeer-text-1"
FORMATS = {OUTBOUND, INBOUND, MTU, TEXT}


class Vector(NamedTuple):
    file: Path
    index: int
    """Position in the file: the order in which they were captured, on one machine."""
    data: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.data["id"])


def directories() -> list[Path]:
    return [OUR_OWN, *(Path(name) for name in os.environ.get(FURTHER, "").split(os.pathsep) if name)]


@cache
def documents() -> dict[Path, dict[str, Any]]:
    """Every JSON file with a `format`, as read."""
    found = {}
    for directory in directories():
        for path in sorted(directory.glob("*.json")):
            document = json.loads(path.read_text())
            if isinstance(document, dict) and "format" in document:
                found[path] = document
    return found


def vectors(wanted: str) -> Iterator[Vector]:
    """All vectors of one format, file by file, in the order captured."""
    for path, document in documents().items():
        if document["format"] == wanted:
            for index, data in enumerate(document["vectors"]):
                yield Vector(path, index, data)
