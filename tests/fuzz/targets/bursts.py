"""Several ESP packets, one after the other and all at once: no matter which, the same is counted and delivered.

The format is that of esp.py, with a number:

    state | 0, number of packets - 1 | outer TOS, ID, fragment bits, TTL | plaintext with ESP trailer
"""

from __future__ import annotations

from tests.core.pair import NOW
from tests.fuzz.hosts import Books, Hosts
from tests.fuzz.registry import One
from tests.fuzz.targets import esp
from tests.fuzz.targets.esp import Datagrams

MAX_LEN = esp.MAX_LEN


def seeds() -> list[bytes]:
    return [entry[:1] + bytes((count,)) + entry[2:] for entry in esp.seeds() if not entry[1] & 1 for count in (4, 30)]


def make() -> One:
    return Bursts().one


class Bursts(Datagrams):
    MOST = 16

    def renew(self) -> None:
        lone, together = Hosts(), Hosts(takes=True)
        self.lone, self.together = lone.right.engine, together.right.engine
        self.books = Books(self.lone, lone.into), Books(self.together, together.into)

    def take(self, data: bytes) -> None:
        """That one thing happens to one packet is what esp.py looks at."""
        burst = self.burst(data)
        for datagram in burst:
            self.lone.input([datagram], NOW)
        alone = self.books[0].rose()
        came = self.together.input(burst, NOW)
        moved = self.books[1].rose()
        assert moved == alone, (moved, alone)
        assert moved.get("rx_packets", 0) >= sum(len(packets) for _, packets in came)
