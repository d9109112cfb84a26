"""`xfrmi daemon` with a clock on each stage of the data path: what stages.py starts.

    python -m bench.staged FILE [option ...]

Public entry points of the devices and of the engine are wrapped, nothing inside them: a burst is one call, so a clock
costs it little, and what it costs is measured at the start and taken off. It is the CPU clock of the thread, which
stands still while somebody else has the core. On SIGUSR1 the sums so far go to FILE.

Beside every few bursts the bare cipher call is made on packets of its own, as many as a burst has: what encryption
alone costs in this place, with these caches and this neighbour on the other core, rather than in a tight loop.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import deque
from collections.abc import Callable
from itertools import count
from pathlib import Path
from statistics import median
from time import thread_time
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bench.stage_names import BARE, PACKETS, SAMPLING, STAGES
from xfrmi.cli.programs import daemon
from xfrmi.core.engine import Engine
from xfrmi.dev.raw import RawEsp
from xfrmi.dev.tun import Tun
from xfrmi.dev.udp import UdpEncap

ENTRIES: dict[str, list[tuple[type, str]]] = {
    "read TUN": [(Tun, "recv_burst")],
    "output": [(Engine, "output")],
    "send": [(UdpEncap, "send_burst"), (RawEsp, "send_burst")],
    "receive": [(UdpEncap, "recv_burst"), (RawEsp, "recv_burst")],
    "input": [(Engine, "input")],
    "write TUN": [(Tun, "send_burst")],
}
assert tuple(ENTRIES) == STAGES
SAMPLE = 16
"""So many calls of the engine for one burst of bare calls."""
SIZE = 1400
ICV = 16


class Clock:
    """Seconds of CPU and calls of each stage. A stage inside another one is taken off the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys([*STAGES, *BARE, SAMPLING], 0.0)
        self.calls = dict.fromkeys(self.seconds, 0)
        self.overhead = 0.0
        """Seconds that one clocked call costs whoever makes it."""
        self._inner = [0.0]
        self.overhead = self._calibrated()

    def clocked(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        seconds, calls, inner = self.seconds, self.calls, self._inner

        def timed(*arguments: Any, **named: Any) -> Any:
            inner.append(0.0)
            start = thread_time()
            try:
                return call(*arguments, **named)
            finally:
                spent = thread_time() - start
                seconds[stage] += spent - inner.pop()
                inner[-1] += spent
                calls[stage] += 1

        return timed

    def _calibrated(self) -> float:
        """The whole of it: half falls into the stage, half into what is around."""
        idle = self.clocked("read TUN", lambda: None)
        costs = []
        for _ in range(200):
            start = thread_time()
            for _ in range(20):
                idle()
            costs.append((thread_time() - start) / 20)
        self.seconds["read TUN"], self.calls["read TUN"], self._inner[0] = 0.0, 0, 0.0
        return median(costs)


class BareCalls:
    """A burst for the cipher alone, in rows as burst.py has them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._cipher = AESGCM(os.urandom(16))  # a key for nothing, and nothing of this leaves
        self._texts = [memoryview(bytearray(SIZE)) for _ in range(PACKETS)]
        self._sealed = [memoryview(bytearray(SIZE + ICV)) for _ in range(PACKETS)]
        self._aads = [bytes(8)] * PACKETS
        self._numbers = count()
        self._turns = count(1)

    def beside(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The engine's call, and now and then a burst after it."""

        def sampled(*arguments: Any, **named: Any) -> Any:
            result = call(*arguments, **named)
            if next(self._turns) % SAMPLE == 0:
                self.burst()
            return result

        return sampled

    def burst(self) -> None:
        """Twice, and the second time counts: what a daemon seals or opens has just been written, too."""
        start = thread_time()
        self._once()
        for name, spent in zip(BARE, self._once(), strict=True):
            self._clock.seconds[name] += spent
            self._clock.calls[name] += PACKETS
        self._clock.seconds[SAMPLING] += thread_time() - start
        self._clock.calls[SAMPLING] += 1

    def _once(self) -> tuple[float, float]:
        nonces = [next(self._numbers).to_bytes(12, "big") for _ in range(PACKETS)]
        start = thread_time()
        deque(map(self._cipher.encrypt_into, nonces, self._texts, self._aads, self._sealed), maxlen=0)
        middle = thread_time()
        deque(map(self._cipher.decrypt_into, nonces, self._sealed, self._aads, self._texts), maxlen=0)
        return middle - start, thread_time() - middle


def install(clock: Clock) -> None:
    bare = BareCalls(clock)
    for stage, entries in ENTRIES.items():
        for owner, name in entries:
            timed = clock.clocked(stage, getattr(owner, name))
            setattr(owner, name, bare.beside(timed) if owner is Engine else timed)


def report(clock: Clock, path: Path) -> None:
    """Whole or not at all."""
    unfinished = path.with_suffix(".new")
    unfinished.write_text(json.dumps({"seconds": clock.seconds, "calls": clock.calls, "overhead": clock.overhead}))
    unfinished.rename(path)


def main(path: Path, options: list[str]) -> int:
    clock = Clock()
    install(clock)
    signal.signal(signal.SIGUSR1, lambda *_: report(clock, path))
    return daemon(options)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
