"""What routers on the way have said about the size of outer packets, and for how long it is believed (1.7, RFC 1191).

    ICMP error -> does it quote a packet of one of our states? -> the MTU of that state's way out, for ten minutes

Nothing is sent to anybody then. The next inner packet that is too big for what is left tells its sender (TX-12).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from xfrmi.core.router import Route, Router
from xfrmi.wire.ip import IPV6_MIN_MTU, Buffer
from xfrmi.wire.too_big import TooBig, read_too_big
from xfrmi.wire.xfrm_const import AF_INET, IPPROTO_ESP, IPPROTO_UDP

if TYPE_CHECKING:
    from xfrmi.core.path import Path
    from xfrmi.core.sad import Sad
    from xfrmi.core.state import State

EXPIRES: Final = 600.0
"""Seconds (sysctl net.ipv4.route.mtu_expires, net.ipv6.route.mtu_expires)."""
IPV4_MIN_PMTU: Final = 552
"""Whatever a router says, no IPv4 path is taken for narrower (sysctl net.ipv4.route.min_pmtu)."""
MAX_LEARNED: Final = 1024
"""Destinations remembered at once; past it the one that would expire first is forgotten."""

_UDP_SPI: Final = struct.Struct(">HHxxxxI")
_PORTS: Final = struct.Struct(">HH")


class PathMtus:
    """A Router, made of another: its routes, narrower where that has been learned.

    As the kernel's route exceptions, what is learned belongs to a destination and the device towards it, whatever the
    source and the mark.
    """

    def __init__(self, router: Router) -> None:
        self._router = router
        self.learned: dict[tuple[bytes, int], tuple[int, float]] = {}  # -> (mtu, expires), the next to expire first

    @property
    def generation(self) -> int:
        """See Router: the other one's, which is asked for every packet."""
        return self._router.generation

    @generation.setter
    def generation(self, value: int) -> None:
        self._router.generation = value

    def route(self, dst: bytes, src: bytes, ifindex: int, mark: int) -> Route | None:
        """See Router."""
        route = self._router.route(dst, src, ifindex, mark)
        if self.learned and route is not None and not route.locked:
            learned = self.learned.get((dst, route.ifindex))
            if learned is not None and learned[0] < route.mtu:
                return route._replace(mtu=learned[0])
        return route

    def is_local(self, ifindex: int, address: bytes) -> bool:
        """See Router."""
        return self._router.is_local(ifindex, address)

    def learn(self, path: Path, mtu: int, now: float) -> None:
        """A router on `path` carries `mtu` bytes. Believed where that is less than known, or as much: then for longer.

        Not where the route's MTU is locked, nor below 1280 over IPv6. Over IPv4 552 is the least there is.
        """
        route = self._router.route(path.dst, path.src, path.ifindex, path.mark)
        if route is None or route.locked:
            return
        key = (path.dst, route.ifindex)
        known = min(route.mtu, self.learned.get(key, (route.mtu, 0))[0])
        if path.family == AF_INET:
            mtu = max(mtu, min(known, IPV4_MIN_PMTU))
        elif mtu < IPV6_MIN_MTU:
            return
        if mtu > known or mtu == route.mtu:
            return
        self.learned.pop(key, None)
        if len(self.learned) >= MAX_LEARNED:
            del self.learned[next(iter(self.learned))]
        self.learned[key] = (mtu, now + EXPIRES)
        if mtu < known:
            self.generation += 1

    def expire(self, now: float) -> None:
        """Forget what is too old."""
        old = [key for key, (_, expires) in self.learned.items() if expires <= now]
        for key in old:
            del self.learned[key]
        if old:
            self.generation += 1

    def next_deadline(self) -> float | None:
        for _, expires in self.learned.values():
            return expires
        return None


def icmp_error(path_mtus: PathMtus, sad: Sad, family: int, message: Buffer, now: float) -> tuple[Sequence[Path], int]:
    """Take in an ICMP message of the underlay. Everything that is not about a packet of ours, and too big, is ignored:
    redirects, unreachable hosts, and what is forged by somebody who does not know a valid SPI.

    Returns the paths that are that narrow, and the MTU.
    """
    too_big = read_too_big(family, message)
    if too_big is None:
        return (), 0
    state = _quoted_state(sad, too_big)
    if state is None:
        return (), 0
    paths = state.paths or (state.path,)
    for path in paths:
        path_mtus.learn(path, too_big.mtu, now)
    return paths, too_big.mtu


def _quoted_state(sad: Sad, quoted: TooBig) -> State | None:
    """The state that the quoted packet was sealed by. Where the quote of ESP in UDP ends before the SPI, any that
    sends between these ports, which is all that a kernel asks for: it has nothing but a socket to go by."""
    upper = quoted.upper
    if quoted.protocol == IPPROTO_ESP:
        return sad.lookup_input(quoted.daddr, int.from_bytes(upper[:4]), IPPROTO_ESP, 0)
    if quoted.protocol != IPPROTO_UDP:
        return None
    if len(upper) < _UDP_SPI.size:
        return sad.lookup_encap(quoted.daddr, *_PORTS.unpack_from(upper))
    sport, dport, spi = _UDP_SPI.unpack_from(upper)
    state = sad.lookup_input(quoted.daddr, spi, IPPROTO_ESP, 0)
    if state is None or state.encap is None or (state.encap.sport, state.encap.dport) != (sport, dport):
        return None
    return state
