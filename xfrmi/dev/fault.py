"""A bad network: wrap a device of the underlay in it, and what arrives is lost, cut short, doubled, late or damaged.

Chances are per datagram and independent; the seed makes a run repeatable. Only reception is impaired: to impair both
directions wrap both ends.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from xfrmi.core.outgoing import Outgoing
from xfrmi.dev.device import Arrival, Datagram, Device, taken_apart


class Fault:
    """A Device[Arrival, Outgoing]. The counters say what was done to how many datagrams."""

    def __init__(
        self,
        device: Device[Arrival, Outgoing],
        *,
        seed: int,
        loss: float = 0.0,
        duplicate: float = 0.0,
        reorder: float = 0.0,
        corrupt: float = 0.0,
        short: float = 0.0,
    ) -> None:
        self._device = device
        self._random = random.Random(seed)
        self._chances = loss, duplicate, reorder, corrupt, short
        self._held: Datagram | None = None
        self.lost = self.duplicated = self.reordered = self.corrupted = self.shortened = 0

    def fileno(self) -> int:
        return self._device.fileno()

    def recv_burst(self) -> list[Arrival]:
        """Order of fates: lost, cut short (somewhere in the ESP packet), damaged (one bit of it), held back behind the
        next one, doubled."""
        loss, duplicate, reorder, corrupt, short = self._chances
        burst: list[Arrival] = []
        for datagram in taken_apart(self._device.recv_burst()):
            if self._happens(loss):
                self.lost += 1
                continue
            if len(datagram[1]) and self._happens(short):
                self.shortened += 1
                datagram = datagram[0], datagram[1][: self._random.randrange(len(datagram[1]))]
            if len(datagram[1]) and self._happens(corrupt):
                self.corrupted += 1
                datagram = self._damaged(datagram)
            if self._held is None and self._happens(reorder):
                self.reordered += 1
                # It leaves with a later datagram, perhaps of a later burst: then the device's memory is not its own.
                self._held = bytes(datagram[0]), bytes(datagram[1])
                continue
            burst.append(datagram)
            if self._held is not None:
                burst.append(self._held)
                self._held = None
            if self._happens(duplicate):
                self.duplicated += 1
                burst.append(datagram)
        return burst

    def send_burst(self, burst: Sequence[Outgoing]) -> int:
        return self._device.send_burst(burst)

    def close(self) -> None:
        self._device.close()

    def _happens(self, chance: float) -> bool:
        return chance > 0 and self._random.random() < chance

    def _damaged(self, datagram: Datagram) -> Datagram:
        header, esp = datagram
        damaged = bytearray(esp)
        damaged[self._random.randrange(len(damaged))] ^= 1 << self._random.randrange(8)
        return header, damaged
