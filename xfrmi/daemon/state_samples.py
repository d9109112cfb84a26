"""What states have done, for who looks on (`xfrmi top`): counters and positions, never keys.

A dump holds keys and takes twenty times as long, so none is made. Two requests instead, each answered by lines in
pieces, so that packets get their turn in between, and then {"end": true}:

    {"cmd": "states"}                 of all states what orders them: [dst, spi, proto, mark, if_id, bytes, packets]
    {"cmd": "states", "of": [...]}    of those named (the first four of these) and of the larval ones all that is shown
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from xfrmi.core.state import KM_ACQ, KM_VALID
from xfrmi.errors import XfrmError
from xfrmi.wire.xfrm_const import XFRM_INF

if TYPE_CHECKING:
    from xfrmi.core.sad import Sad
    from xfrmi.core.state import State

STATES_A_PIECE = 64
"""The session sends eight pieces a turn: a millisecond's work."""
MAX_LARVAL = 64
"""So many of them are told in full, the newest."""


class StateSamples:
    """The lines that answer one request. It looks at each state when its turn comes."""

    endless = False

    def __init__(self, sad: Sad, request: Mapping[str, Any]) -> None:
        """XfrmError EINVAL."""
        named = request.get("of")
        self._pieces = _uses(sad) if named is None else _details(sad, _keys(named))

    def take(self) -> bytes:
        return next(self._pieces, b"")

    def close(self) -> None:
        self._pieces = iter(())


def _uses(sad: Sad) -> Iterator[bytes]:
    states = sad.dump()
    for start in range(0, len(states), STATES_A_PIECE):
        uses = [
            (state.dst.hex(), state.spi, state.proto, state.mark[0], state.if_id, state.bytes, state.packets)
            for state in states[start : start + STATES_A_PIECE]
            if state.km != KM_ACQ
        ]
        yield _line({"uses": uses})
    yield _line({"end": True})


def _details(sad: Sad, keys: Sequence[tuple[bytes, int, int, int]]) -> Iterator[bytes]:
    larval = [state for state in sad.dump() if state.km == KM_ACQ]
    yield _line({"larval": len(larval), "states": [_row(state) for state in larval[:MAX_LARVAL]]})
    for start in range(0, len(keys), STATES_A_PIECE):
        found = (sad.lookup_input(*key) for key in keys[start : start + STATES_A_PIECE])
        yield _line({"states": [_row(state) for state in found if state is not None and state.km == KM_VALID]})
    yield _line({"end": True})


def _keys(named: object) -> list[tuple[bytes, int, int, int]]:
    try:
        return [(bytes.fromhex(dst), int(spi), int(proto), int(mark)) for dst, spi, proto, mark in named]  # type: ignore[attr-defined]
    except (TypeError, ValueError, OverflowError):  # JSON as Python reads it knows Infinity
        raise XfrmError(errno.EINVAL, detail='"of" is a list of [dst in hex, spi, proto, mark]') from None


def _row(state: State) -> dict[str, object]:
    info, window = state.info, state.window
    algorithms = (info.aead, info.crypt, info.auth_trunc or info.auth)
    return {
        "src": state.src.hex(), "dst": state.dst.hex(), "spi": state.spi, "proto": state.proto,
        "mark": state.mark[0], "mode": state.mode, "if_id": state.if_id, "reqid": state.reqid, "dir": state.dir,
        "larval": state.km == KM_ACQ, "dying": state.dying, "esn": state.esn, "encap": state.encap is not None,
        "algorithms": [one.name for one in algorithms if one is not None],
        "limits": [None if limit == XFRM_INF else limit for limit in info.limits],
        "bytes": state.bytes, "packets": state.packets, "add_time": state.add_time, "use_time": state.use_time,
        "late": window.late, "replayed": window.replayed, "unauthentic": state.stats_integrity_failed,
        "sent": state.oseq, "top": window.top, "window": window.size,
        "seen": format(window.seen & (1 << window.size) - 1, "x"),
    }  # fmt: skip


def _line(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
