"""Routes as the kernel sees them: the Router of the core, answered by rtnetlink.

Changes of links, addresses, routes and rules are announced by the kernel and drop every answer kept (`process`, when
`fileno` is readable). A few things are announced by nobody, a sysctl for instance, so answers also expire, and
`generation` moves if the next one differs. What the kernel has learned about path MTUs is no part of them (1.7): that
is for core/path_mtu.py to judge.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from xfrmi.core.router import DEFAULT_TTL, Route, is_multicast
from xfrmi.dev.announcements import Announcements
from xfrmi.dev.host_devices import broadcast_of
from xfrmi.dev.rtnl import Link, Rtnl
from xfrmi.dev.sysctl import read_sysctl
from xfrmi.errors import XfrmError

MAX_AGE = 5.0
"""Seconds an answer is believed."""
MAX_ROUTES = 4096
"""Answers kept at once; past it all are forgotten and asked again."""
MAX_MTU = 65535
"""The loopback device claims 65536, one more than an IP packet can hold."""

# RTMGRP_*: LINK, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, and group 19, IPV6_RULE
_GROUPS = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18

_Key = tuple[bytes, bytes, int, int]


class KernelRouter:
    """Implements xfrmi.core.router.Router for the network namespace it is made in."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.generation = 0
        self._clock = clock
        self._rtnl = Rtnl()
        self._monitor = Announcements(_GROUPS)
        self._routes: dict[_Key, tuple[float, Route | None]] = {}
        self._own: set[bytes] | None = None
        self._scoped: set[tuple[int, bytes]] = set()

    def fileno(self) -> int:
        """Readable when something has changed: call `process`."""
        return self._monitor.fileno()

    def process(self) -> None:
        """Read what the kernel announces and forget every answer it may have made wrong."""
        if self._monitor.drain():
            self._forget()

    def route(self, dst: bytes, src: bytes, ifindex: int, mark: int) -> Route | None:
        """See Router. Whatever makes the kernel refuse (no route, prohibited, foreign source) is None."""
        key = (dst, src, ifindex, mark)
        now = self._clock()
        known = self._routes.get(key)
        if known is not None and now < known[0]:
            return known[1]
        answer = self._ask(dst, src, ifindex, mark)
        if known is not None and known[1] != answer:
            self.generation += 1
        if len(self._routes) >= MAX_ROUTES:
            self._routes.clear()
        self._routes[key] = (now + MAX_AGE, answer)
        return answer

    def is_local(self, ifindex: int, address: bytes) -> bool:
        """See Router. Link-local addresses count on their own device only, all others wherever they arrive."""
        if self._own is None:
            self._read_addresses()
            assert self._own is not None
        if address in self._own or is_multicast(address):
            return True
        if len(address) == 4:
            return address[0] == 127
        return (ifindex, address) in self._scoped

    def close(self) -> None:
        self._rtnl.close()
        self._monitor.close()

    def _forget(self) -> None:
        self._routes.clear()
        self._own = None
        self.generation += 1

    def _ask(self, dst: bytes, src: bytes, ifindex: int, mark: int) -> Route | None:
        # From a given source the kernel only prefers the IPv6 routes of a device; without one it keeps to them.
        bound = ifindex and len(dst) == 16
        try:
            answer = self._rtnl.route(dst, src if any(src) and not bound else b"", ifindex, mark)
        except XfrmError:
            return None
        ipv6 = len(dst) == 16
        link = self._rtnl.link(answer.ifindex) if not answer.mtu or (ipv6 and not answer.hop_limit) else None
        mtu = answer.mtu or (_mtu_of(link, ipv6) if link is not None else MAX_MTU)
        hop_limit = answer.hop_limit
        if not hop_limit and ipv6:
            hop_limit = link.hop_limit6 if link is not None else 0
        elif not hop_limit:
            hop_limit = read_sysctl("net/ipv4/ip_default_ttl", 0)
        source = src if any(src) else answer.prefsrc
        return Route(min(mtu, MAX_MTU), answer.ifindex, source, answer.locked, hop_limit or DEFAULT_TTL)

    def _read_addresses(self) -> None:
        self._own = set()
        self._scoped.clear()
        for ifindex, address, prefixlen in self._rtnl.addresses():
            if address[0] == 0xFE and address[1] & 0xC0 == 0x80 and len(address) == 16:
                self._scoped.add((ifindex, address))
                continue
            self._own.add(address)
            if len(address) == 4 and prefixlen < 31:
                self._own.add(broadcast_of(address, prefixlen))


def _mtu_of(link: Link, ipv6: bool) -> int:
    return min(link.mtu, link.mtu6) if ipv6 and link.mtu6 else link.mtu
