"""What the core asks about the network outside: routes towards peers, and which addresses are our own.

The answers come from outside (dev/router.py asks the kernel); the core only sees this protocol, so a test or a notebook
can say `StaticRouter()` and need no network at all. Addresses are packed bytes.
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple, Protocol

from xfrmi.wire.address import any_address, family_of

DEFAULT_TTL = 64

LOOPBACK_IFINDEX = 1
"""`lo` has this number in every network namespace."""

_BROADCAST = b"\xff\xff\xff\xff"


class Route(NamedTuple):
    """A way to a destination: MTU in bytes, outgoing ifindex, the source address the host would choose."""

    mtu: int
    ifindex: int
    src: bytes
    locked: bool = False
    """`mtu lock N`: what routers on the way say does not change the MTU."""
    hop_limit: int = DEFAULT_TTL
    """TTL of packets that begin here (5.3, 5.4): `hoplimit N` of the route, else what the host has for all."""


class Router(Protocol):
    generation: int
    """Changes whenever an earlier answer may have become wrong."""

    def route(self, dst: bytes, src: bytes, ifindex: int, mark: int) -> Route | None:
        """The route for `src` -> `dst`, leaving by `ifindex` unless 0; None when there is none (ENETUNREACH).

        `src` may be empty or the any address: the host chooses.
        """

    def is_local(self, ifindex: int, address: bytes) -> bool:
        """Would a packet to `address` received on `ifindex` be delivered here (policy `in`) or forwarded (`fwd`)?"""


def is_multicast(address: bytes) -> bool:
    """Multicast of either family, or 255.255.255.255: delivered here whatever the addresses of the host are."""
    if len(address) == 4:
        return address[0] & 0xF0 == 0xE0 or address == _BROADCAST
    return address[0] == 0xFF


class StaticRouter:
    """Everything is reachable with one MTU; `local` are our own addresses. For prompts and tests."""

    def __init__(self, mtu: int = 1500, local: Container[bytes] = frozenset(), ifindex: int = 0) -> None:
        self.mtu = mtu
        self.local = local
        self.ifindex = ifindex
        self.generation = 0

    def route(self, dst: bytes, src: bytes, ifindex: int, mark: int) -> Route | None:
        return Route(self.mtu, ifindex or self.ifindex, src or any_address(family_of(dst)))

    def is_local(self, ifindex: int, address: bytes) -> bool:
        return address in self.local or is_multicast(address)
