"""Lines on the control socket: each is answered by one line, an error or a result, in whatever pieces it arrives.

    where to cut | lines
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any, cast

from tests.core.pair import Pair
from tests.fuzz.registry import One
from xfrmi.daemon.loop import Loop
from xfrmi.daemon.session import LineSession, Stream, _Received
from xfrmi.daemon.shared_ports import SharedPorts
from xfrmi.daemon.state_samples import StateSamples
from xfrmi.daemon.tracer import Tracer

MAX_LEN = 400


def seeds() -> list[bytes]:
    lines = [
        {"cmd": "stat"}, {"cmd": "share-port", "family": 2, "port": 4500, "address": ""},
        {"cmd": "trace", "interface": "xfrm0", "dir": "in", "dropped": True, "spi": 4096}, {"cmd": "states"},
        {"cmd": "states", "of": [["c0000202", 4096, 50, 0], ["", 1, 2, 3]]},
        {"cmd": "states", "of": [["", float("inf"), 1, 2]]}, {"cmd": "nothing"}, {"cmd": ["x"]},
    ]  # fmt: skip
    found = [b"\0" + json.dumps(line).encode() + b"\n" for line in lines]
    return [*found, b"\x30" + b"".join(one[1:] for one in found), b"\0[[[[\n", b"\0{}\n\n\xff\n"]


def make() -> One:
    return Lines().one


class NoLoop:
    """Nothing is waited for: the harness calls."""

    def watch(self, fd: int, callback: Callable[[], None], patient: bool = False) -> None: ...

    def unwatch(self, fd: int) -> None: ...


class NoConnection:
    """Nothing is sent: the harness takes the answers."""

    def setblocking(self, flag: bool) -> None: ...

    def fileno(self) -> int:
        return -1

    def close(self) -> None: ...


LOOP, CONNECTION = cast(Loop, NoLoop()), cast(socket.socket, NoConnection())


class Lines:
    def __init__(self) -> None:
        self.host = Pair()
        self.engine = self.host.left.engine
        self.tracer = Tracer(self.engine, lambda tracer: None, lambda: None)
        ports = SharedPorts(None, LOOP, lambda line: None)
        self.commands: dict[str, Any] = {"stat": lambda request: {}, "share-port": ports.command}
        self.streams: dict[str, Callable[[Any, Callable[[], None]], Stream]] = {
            "trace": self.tracer.subscribe,
            "states": lambda request, wake: StateSamples(self.engine.sad, request),
        }

    def one(self, data: bytes) -> None:
        text = data[1:]
        whole = self.answers((text,))
        at = data[0] if data else 0
        assert self.answers((text[:at], text[at:])) == whole or not text[at:] or not text[:at]
        assert len(whole) == text.count(b"\n")

    def answers(self, pieces: tuple[bytes, ...]) -> list[object]:
        session = LineSession(LOOP, CONNECTION, lambda session: None, self.commands, self.streams)
        found: list[object] = []
        for piece in pieces:
            for line in session._answer(_Received(piece, False, ())):
                assert line.endswith(b"\n") and line.count(b"\n") == 1
                answer = json.loads(line)
                assert ("result" in answer) != ("error" in answer)
                found.append(answer)
                for _ in range(9):
                    if not (unasked := session._unasked()):
                        break
                    for told in unasked.splitlines():
                        json.loads(told)
        session.close()
        return found
