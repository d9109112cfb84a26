"""A UDP flow whose sender discovers the path MTU, or does not: what it is told, what arrives, what is seen outside."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.system.hosts import Hosts, eventually
from xfrmi.lab.topology import Node
from xfrmi.lab.traffic import family_of, filler
from xfrmi.lab.wiretap import ETH_HEADER_LEN

IP_MTU_DISCOVER, IP_MTU, IPV6_MTU_DISCOVER, IPV6_MTU = 10, 14, 23, 24
PMTUDISC_DONT, PMTUDISC_DO = 0, 2
HEADERS = {4: 28, 6: 48}
"""IP and UDP."""


class Udp:
    """A connected UDP socket between the hosts and its far end."""

    def __init__(self, source: Node, sink: Node, address: str, discover: int = PMTUDISC_DO) -> None:
        family = family_of(address)
        self.v6 = family == socket.AF_INET6
        with sink:
            self.far = socket.socket(family, socket.SOCK_DGRAM)
            self.far.bind((address, 0))
            self.far.settimeout(2)
        with source:
            self.near = socket.socket(family, socket.SOCK_DGRAM)
            self.near.setsockopt(*self._option(IP_MTU_DISCOVER, IPV6_MTU_DISCOVER), discover)
            self.near.connect(self.far.getsockname()[:2])

    @property
    def headers(self) -> int:
        return HEADERS[6 if self.v6 else 4]

    @property
    def mtu(self) -> int:
        """What the sending host believes the path to carry."""
        return self.near.getsockopt(*self._option(IP_MTU, IPV6_MTU))

    def _option(self, v4: int, v6: int) -> tuple[int, int]:
        return (socket.IPPROTO_IPV6, v6) if self.v6 else (socket.IPPROTO_IP, v4)

    def send(self, packet_len: int) -> None:
        """A packet of this length in all."""
        self.near.send(filler(packet_len - self.headers))

    def arrives(self, packet_len: int) -> bool:
        """TimeoutError if it does not. Shorter and longer ones sent before it are read over."""
        self.near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # an ICMP error of before is no error of now
        self.send(packet_len)
        while self.far.recv(65535) != filler(packet_len - self.headers):
            pass
        return True

    def close(self) -> None:
        self.near.close()
        self.far.close()


@contextmanager
def udp(source: Node, sink: Node, address: str, discover: int = PMTUDISC_DO) -> Iterator[Udp]:
    opened = Udp(source, sink, address, discover)
    yield opened
    opened.close()


def learns(path: Udp, mtu: int) -> None:
    """The first packet one byte too long is lost, and its sender told `mtu`; the next is refused at once."""
    path.send(mtu + 1)
    eventually(lambda: path.mtu == mtu, lambda: f"mtu is {path.mtu}, not {mtu}")
    with pytest.raises(OSError) as refused:
        path.send(mtu + 1)
    assert refused.value.errno == errno.EMSGSIZE
    assert path.arrives(mtu)


def fragments(hosts: Hosts, version: int) -> list[bytes]:
    """IP packets on the wire that are parts of another."""
    packets = [frame[ETH_HEADER_LEN:] for frame in hosts.wire()]
    if version == 4:
        return [p for p in packets if p[0] >> 4 == 4 and int.from_bytes(p[6:8], "big") & 0x3FFF]
    return [p for p in packets if p[0] >> 4 == 6 and p[6] == socket.IPPROTO_FRAGMENT]
