"""What a real kernel and iproute2 6.1.0 said: the files under tests/vectors that concern text."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from xfrmi.formats.grammar import parse, split_line
from xfrmi.formats.requests import Request
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6, AF_UNSPEC

VECTORS = Path(__file__).parents[1] / "vectors"
FAMILY_OPTIONS = {"-4": AF_INET, "-6": AF_INET6}


def load(name: str) -> Any:
    return json.loads((VECTORS / name).read_text())


class Step(NamedTuple):
    vector: str
    command: str
    rc: int
    output: str


def steps(prefix: str = "") -> list[Step]:
    """Commands of tests/vectors/kernel/text.json in order, of the vectors whose id begins so."""
    return [
        Step(vector["id"], **{key: step[key] for key in ("command", "rc", "output")})
        for vector in load("kernel/text.json")["vectors"]
        if vector["id"].startswith(prefix)
        for step in vector["steps"]
    ]


def parse_command(command: str, devices: dict[str, int] | None = None) -> Request:
    """A whole command line of ip, -4 and -6 included, as the grammar reads it."""
    words = split_line(command)
    family = FAMILY_OPTIONS.get(words[1], AF_UNSPEC)
    if family:
        del words[1]
    known = {"lo": 1} if devices is None else devices
    return parse(words, family=family, ifindex_of=lambda name: known.get(name, 0))


def utc_time(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))


def utc_timestamp(text: str) -> int:
    return int(datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp())
