"""What a sender is told of a path that carries less, and such a path."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.iproute import ip
from tests.oracle.kernelpeer.pair import End
from tests.oracle.kernelpeer.talk import SECONDS
from tests.system.hosts import FULL, OUTER, PORT, eventually
from xfrmi.lab.topology import Node
from xfrmi.lab.traffic import family_of, filler

IP_MTU_DISCOVER, IP_MTU, IPV6_MTU_DISCOVER, IPV6_MTU = 10, 14, 23, 24
PMTUDISC_DONT, PMTUDISC_DO = 0, 2
HEADERS = {4: 28, 6: 48}
"""IP and UDP."""


class Probe:
    """A connected UDP socket at one end, which forbids or allows fragments, and its peer at the other."""

    def __init__(self, source: End, sink: End, address: str, discover: int = PMTUDISC_DO) -> None:
        family = family_of(address)
        self.far = sink.socket(family, socket.SOCK_DGRAM)
        self.far.bind((address, 0))
        self.far.settimeout(SECONDS)
        self.near = source.socket(family, socket.SOCK_DGRAM)
        v6 = family == socket.AF_INET6
        level, self._mtu, option = (
            (socket.IPPROTO_IPV6, IPV6_MTU, IPV6_MTU_DISCOVER) if v6 else (socket.IPPROTO_IP, IP_MTU, IP_MTU_DISCOVER)
        )
        self._level = level
        self._headers = HEADERS[6 if v6 else 4]
        self.near.setsockopt(level, option, discover)
        self.near.connect((address, self.far.getsockname()[1]))

    @property
    def mtu(self) -> int:
        """What the sending host believes the path to carry."""
        return self.near.getsockopt(self._level, self._mtu)  # type: ignore[no-any-return]

    def send(self, packet_len: int) -> None:
        self.near.send(filler(packet_len - self._headers))

    def learn(self) -> int:
        """Send as much as is believed to fit until no error comes back any more: what has been learned."""

        def settled() -> bool:
            before = self.mtu
            with suppress(OSError):  # what came back about the last one
                self.send(before)
            self.far.settimeout(0.2)
            with suppress(TimeoutError):
                return len(self.far.recv(1 << 16)) == before - self._headers
            return False

        eventually(settled, lambda: f"no end of it at {self.mtu}")
        return self.mtu

    def arrives(self, packet_len: int) -> bool:
        self.send(packet_len)
        return bool(self.far.recv(1 << 16) == filler(packet_len - self._headers))

    def close(self) -> None:
        self.near.close()
        self.far.close()


@contextmanager
def narrow(router: Node, mtu: int) -> Iterator[None]:
    """The router sends no more than `mtu` bytes to either host; their own devices do not show it."""
    with router:
        for (name, family), address in OUTER.items():
            ip(f"route add {address}/{FULL[family]} dev {PORT[name]} mtu lock {mtu}")
    try:
        yield
    finally:
        with router:
            for (name, family), address in OUTER.items():
                ip(f"route del {address}/{FULL[family]} dev {PORT[name]}")
