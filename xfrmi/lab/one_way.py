"""One direction of a bad link: frames go in, and come out late, twice, in another order, damaged, or not at all.

It reads no clock and owns no device: the caller says what time it is, asks what is due, and comes back at `next_due`.
The fates of a frame, in order: too long for the link; lost; damaged; held back behind the next one; in the queue in
front of the link (`rate`), which overflows; on its way (`delay`); doubled.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass

from xfrmi.lab.faults import Faults

ETH_HEADER_LEN = 14
IP_TYPES = {b"\x08\x00": 4, b"\x86\xdd": 6}
IPV6_HEADER_LEN = 40
QUEUE = 1000
"""Frames on their way or waiting for it; what comes on top is lost, as in any router."""
HELD_SECONDS = 0.02
"""A frame that is to go behind the next one does not wait longer for one."""


@dataclass
class Counts:
    """What became of frames. A frame may count under several."""

    carried: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    corrupted: int = 0
    too_long: int = 0
    overrun: int = 0


class OneWay:
    """`push` what arrives, `pop` what is due."""

    def __init__(self, faults: Faults, seed: int | str) -> None:
        self.counts = Counts()
        self._faults = faults
        self._random = random.Random(seed)
        self._under_way: list[tuple[float, int, bytes]] = []
        self._number = 0
        """Of the frame pushed last: those due at the same moment leave in the order they came."""
        self._held: tuple[float, bytes] | None = None
        self._sent_until = 0.0
        """When the last bit of what is queued will have left."""
        self._last_due = 0.0

    @property
    def next_due(self) -> float | None:
        """When to pop next."""
        times = [self._under_way[0][0]] if self._under_way else []
        if self._held is not None:
            times.append(self._held[0] + HELD_SECONDS)
        return min(times, default=None)

    def change(self, faults: Faults, seed: int | str, now: float) -> None:
        """From now on it does this. What is under way arrives no later than it would have if it had left now."""
        if faults.seed != self._faults.seed:
            self._random = random.Random(seed)
        self._faults = faults
        latest = now + faults.delay + faults.jitter
        self._under_way = [(min(due, latest), number, frame) for due, number, frame in self._under_way]
        heapq.heapify(self._under_way)
        self._last_due = min(self._last_due, latest)
        self._sent_until = 0.0

    def forget(self) -> None:
        """What is under way never arrives."""
        self._under_way.clear()
        self._held = None

    def push(self, frame: bytes, now: float) -> None:
        faults, counts = self._faults, self.counts
        if faults.blackhole and len(frame) - ETH_HEADER_LEN > faults.blackhole:
            counts.too_long += 1
            return
        if self._happens(faults.loss):
            counts.lost += 1
            return
        if self._happens(faults.corrupt):
            frame = self._damaged(frame)
        if self._held is None and self._happens(faults.reorder):
            self._held = now, frame
            return
        self._schedule(frame, now)
        if self._held is not None:
            counts.reordered += 1
            self._release(now)

    def pop(self, now: float) -> list[bytes]:
        """The frames that have arrived at the other end by now, in order."""
        if self._held is not None and self._held[0] + HELD_SECONDS <= now:
            self._release(now)
        due = []
        while self._under_way and self._under_way[0][0] <= now:
            due.append(heapq.heappop(self._under_way)[2])
        self.counts.carried += len(due)
        return due

    def _release(self, now: float) -> None:
        assert self._held is not None
        _, frame = self._held
        self._held = None
        self._schedule(frame, now)

    def _schedule(self, frame: bytes, now: float) -> None:
        faults = self._faults
        if len(self._under_way) >= QUEUE:
            self.counts.overrun += 1
            return
        sent = now
        if faults.rate:
            sent = self._sent_until = max(now, self._sent_until) + len(frame) * 8 / faults.rate
        jitter = self._random.uniform(-faults.jitter, faults.jitter) if faults.jitter else 0.0
        due = self._last_due = max(sent + max(faults.delay + jitter, 0.0), self._last_due)
        self._put(due, frame)
        if self._happens(faults.duplicate):
            self.counts.duplicated += 1
            self._put(due, frame)

    def _put(self, due: float, frame: bytes) -> None:
        self._number += 1
        heapq.heappush(self._under_way, (due, self._number, frame))

    def _happens(self, chance: float) -> bool:
        return chance > 0 and self._random.random() < chance

    def _damaged(self, frame: bytes) -> bytes:
        """With one bit turned, or as it was where there is no IP packet, or nothing in it."""
        match IP_TYPES.get(frame[12:14]):
            case 4 if len(frame) > ETH_HEADER_LEN:
                start = ETH_HEADER_LEN + (frame[ETH_HEADER_LEN] & 15) * 4
            case 6:
                start = ETH_HEADER_LEN + IPV6_HEADER_LEN
            case _:
                return frame
        if start >= len(frame):
            return frame
        self.counts.corrupted += 1
        damaged = bytearray(frame)
        damaged[self._random.randrange(start, len(frame))] ^= 1 << self._random.randrange(8)
        return bytes(damaged)
