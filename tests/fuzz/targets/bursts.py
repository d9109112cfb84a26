"""Several ESP packets, one after the other and all at once: no matter which, the same is counted and delivered.

The format is that of esp.py, with a number:

    state | 0, number of packets - 1 | outer TOS, ID, fragment bits, TTL | plaintext with ESP trailer
"""

from __future__ import annotations

from tests.core.pair import NOW
from tests.fuzz.hosts import Books, Hosts
from tests.fuzz.registry import One
from tests.fuzz.targets import esp
from tests.fuzz.targets.esp import Datagrams, accounted

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
        burst = self.burst(data)
        sum_of: dict[str, int] = {}
        for datagram in burst:
            came = self.lone.input([datagram], NOW)
            rose = self.books[0].rose()
            for name, count in rose.items():
                sum_of[name] = sum_of.get(name, 0) + count
            accounted(rose, sum(len(packets) for _, packets in came))
        came = self.together.input(burst, NOW)
        moved = self.books[1].rose()
        assert moved == sum_of, (moved, sum_of)
        assert moved.get("rx_packets", 0) >= sum(len(packets) for _, packets in came)
