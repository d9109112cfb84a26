"""ICMP errors of the underlay: whatever they say, only a quoted packet of ours narrows a way, and never by more than is
believed.

    family | message from the ICMP header on
"""

from __future__ import annotations

import struct

from tests.core.packets import udp
from tests.core.pair import INNER, NOW, wire
from tests.fuzz.hosts import KINDS, Hosts, OnHosts
from tests.fuzz.registry import One
from xfrmi.core.path_mtu import EXPIRES, IPV4_MIN_PMTU, MAX_LEARNED
from xfrmi.wire.ip import IPV6_MIN_MTU, checksum
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6

MAX_LEN = 200


def seeds() -> list[bytes]:
    hosts = Hosts()
    found = []
    for index, kind in enumerate(KINDS):
        if kind.mode != 1:
            continue
        quoted = wire(hosts.left.engine.output(hosts.out[index], [udp(*INNER[kind.outer])], NOW)[0])[0][:80]
        if kind.outer == 4:
            found.append(b"\0" + summed(struct.pack(">BBHI", 3, 4, 0, 900) + quoted))
        else:
            found.append(b"\1" + struct.pack(">BBHI", 2, 0, 0, 1300) + quoted)
    return found


def summed(message: bytes) -> bytes:
    """With the checksum that ICMP wants."""
    return message[:2] + checksum(message[:2] + bytes(2) + message[4:]).to_bytes(2) + message[4:]


def make() -> One:
    return Errors().one


class Errors(OnHosts):
    SHORTEST = 8

    def renew(self) -> None:
        self.hosts = Hosts()

    def take(self, data: bytes) -> None:
        family = AF_INET6 if data[0] & 1 else AF_INET
        self.told(family, data[1:])
        if family == AF_INET:
            self.told(family, summed(data[1:]))

    def told(self, family: int, message: bytes) -> None:
        engine = self.hosts.left.engine
        before = engine.router.generation
        paths, mtu = engine.icmp_error(family, message, NOW)
        if engine.router.generation != before:
            assert paths
        for path in paths:
            assert path.family == family and path.dst in {bytes(state.dst) for state in engine.states()}
            route = engine.router.route(path.dst, path.src, path.ifindex, path.mark)
            assert route is not None and route.mtu <= 1500
            assert route.mtu >= (IPV6_MIN_MTU if family == AF_INET6 else IPV4_MIN_PMTU) and mtu >= 0
        assert len(engine.router.learned) <= MAX_LEARNED
        if paths:
            engine.router.expire(NOW + EXPIRES)
            assert not engine.router.learned
