"""Packets as a daemon carries them, told by it as they pass: what `xfrmi trace`, `capture` and `explain -i` hear.

The daemon waits for nobody: who does not read in time loses records, and is told how many.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from xfrmi.client.json_channel import JsonChannel
from xfrmi.errors import XfrmError


class Record(NamedTuple):
    """A packet that a daemon has carried, or dropped."""

    time: float
    """Unix seconds."""
    interface: str
    """Empty where it did not get as far as having one, `xfrmi-policy` where a policy without if_id decided."""
    direction: str
    """`out` or `in`."""
    inner: bytes = b""
    """As it came out of the TUN, or went into it; empty where there is none."""
    outer: bytes = b""
    """As it went out, or came; empty where there is none, as in what came in the clear."""
    counter: str = ""
    """The counter of /proc/net/xfrm_stat that rose for it; empty where none did."""
    reason: str = ""
    """Why it was dropped; empty where it was not."""


class Lost(NamedTuple):
    """So many records are missing here."""

    records: int


def read_record(line: Mapping[str, Any]) -> Record | Lost:
    """Out of a line that a daemon sends while it is tracing."""
    if "lost" in line:
        return Lost(line["lost"])
    return Record(
        line["time"], line["interface"], line["dir"], b64decode(line["inner"]), b64decode(line["outer"]),
        line["counter"], line["reason"],
    )  # fmt: skip


class Packets(Iterator[Record | Lost]):
    """For ever, on a connection of its own."""

    def __init__(self, netns: str, request: dict[str, Any], base: str | None = None) -> None:
        """`request`: see xfrmi.daemon.tracer. The daemon is tracing when this returns. Raises XfrmError."""
        self._channel = JsonChannel(netns, base=base)
        try:
            self._channel.ask("trace", **request)
        except XfrmError:
            self.close()
            raise

    def __next__(self) -> Record | Lost:
        return read_record(self._channel.line())

    def close(self) -> None:
        """The daemon stops tracing, if nobody else listens."""
        self._channel.close()
