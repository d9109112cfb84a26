"""Two hosts with a state of every kind between them. The cipher of most is null: what is fuzzed then is plaintext. And
what targets that have such hosts are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import product
from operator import attrgetter
from typing import Any, NamedTuple

from tests.core.algorithms import NULL, pair
from tests.core.pair import GCM, INNER, NOW, OUTER, Host, policies, tunnel_state
from xfrmi.core import Algorithm, Interface, Selector
from xfrmi.core.engine import Engine
from xfrmi.wire.vnet import GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4
from xfrmi.wire.xfrm_const import (
    AF_INET,
    AF_INET6,
    STATE_AF_UNSPEC,
    STATE_DECAP_DSCP,
    STATE_ESN,
    STATE_ICMP,
    Mode,
    XfrmStat,
)
from xfrmi.wire.xfrm_types import Encap, ReplayEsn

NOTHING = {"aead": None, **pair(NULL, 0)}
"""Neither encrypted nor authenticated."""


class Kind(NamedTuple):
    """One state in each direction, and the interface whose states these are."""

    outer: int
    if_id: int
    mode: Mode
    fields: dict[str, Any]


def _kinds() -> list[Kind]:
    found = []
    for outer, in_udp in product((4, 6), (False, True)):
        encap = {"encap": Encap()} if in_udp else {}
        for mode, inner in ((Mode.TUNNEL, 0), (Mode.TRANSPORT, outer), (Mode.BEET, 4), (Mode.BEET, 6)):
            fields: dict[str, Any] = {**NOTHING, **encap, "mode": mode, "replay_window": 0}
            if mode == Mode.TUNNEL:
                fields["flags"] = STATE_AF_UNSPEC | STATE_DECAP_DSCP
            else:
                fields["flags"] = STATE_ICMP
                ends = OUTER[outer] if mode == Mode.TRANSPORT else INNER[inner]
                fields["selector"] = Selector.parse(*ends)
            found.append(Kind(outer, 42 + len(found), mode, fields))
    esn = ReplayEsn((0,) * 4, 0, 0, 0, 0, 128)
    flags = STATE_AF_UNSPEC | STATE_ESN
    numbered = {"aead": GCM, "flags": flags, "replay_esn": esn, "replay_window": 0}
    found.append(Kind(4, 42 + len(found), Mode.TUNNEL, numbered))
    tag = pair(NULL, 0, "hmac(md5)", 16)
    found.append(Kind(4, 42 + len(found), Mode.TUNNEL, {"aead": None, **tag, "replay_window": 32}))
    padded = {**NOTHING, "tfcpad": 200, "replay_window": 0, "crypt": Algorithm(NULL, b"")}
    found.append(Kind(6, 42 + len(found), Mode.TUNNEL, padded))
    return found


KINDS = _kinds()
FIRST_SPI = 0x1000
FAMILIES = {4: AF_INET, 6: AF_INET6}
RENEW = 2000
"""Inputs after which the hosts are made anew, so that no table has what thousands of them left."""


class Hosts:
    """left and right; interface and states of KINDS[i] have if_id and SPI of index i."""

    def __init__(self, mtu: int = 1500, takes: bool = False) -> None:
        self.left = Host(*(INNER[v][0] for v in INNER), *(OUTER[v][0] for v in OUTER), mtu=mtu)
        self.right = Host(*(INNER[v][1] for v in INNER), *(OUTER[v][1] for v in OUTER), mtu=mtu)
        self.out: list[Interface] = []
        self.into: list[Interface] = []
        for index, kind in enumerate(KINDS):
            self.out.append(self.left.interface(f"out{index}", kind.if_id))
            self.into.append(self.right.interface(f"in{index}", kind.if_id))
            if takes:
                self.into[-1].takes = frozenset((GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4))
            src, dst = OUTER[kind.outer]
            for host, out in ((self.left, True), (self.right, False)):
                info = tunnel_state(src, dst, FIRST_SPI + index, kind.if_id, **kind.fields)
                host.engine.add_state(info, NOW)
                for policy in policies(src, dst, kind.if_id, out=out, mode=kind.mode):
                    if kind.mode != Mode.TRANSPORT or policy.selector.family == FAMILIES[kind.outer]:
                        host.engine.add_policy(policy, NOW)


class OnHosts(ABC):
    """What is called with each input, of a target whose hosts live through RENEW of them."""

    SHORTEST = 0
    """Bytes of what is worth trying."""

    def __init__(self) -> None:
        self.left = 0

    def one(self, data: bytes) -> None:
        if len(data) < self.SHORTEST:
            return
        if not self.left:
            self.left = RENEW
            self.renew()
        self.left -= 1
        self.take(data)

    @abstractmethod
    def renew(self) -> None:
        """Make the hosts."""

    @abstractmethod
    def take(self, data: bytes) -> None: ...


COUNTERS = (
    "rx_packets", "rx_bytes", "rx_errors", "rx_dropped", "tx_packets", "tx_bytes", "tx_errors", "tx_dropped",
    "tx_carrier", "tx_aborted", "collisions",
)  # fmt: skip
STATS = tuple(stat.label for stat in XfrmStat)
_read = attrgetter(*COUNTERS)


class Books:
    """The counters of an engine and of its interfaces, all of them: which have risen since one looked last?"""

    def __init__(self, engine: Engine, interfaces: list[Interface]) -> None:
        self.engine, self.interfaces = engine, interfaces
        self.stats, self.devices = list(engine.stats), list(map(_read, interfaces))

    def rose(self) -> dict[str, int]:
        """Those of engine and interfaces by name, by how much; the same of several interfaces added up."""
        stats, devices = list(self.engine.stats), list(map(_read, self.interfaces))
        found: dict[str, int] = {}
        if stats != self.stats:
            found = {name: new - old for name, old, new in zip(STATS, self.stats, stats, strict=True) if new != old}
        if devices != self.devices:
            for before, after in zip(self.devices, devices, strict=True):
                if before != after:
                    for name, old, new in zip(COUNTERS, before, after, strict=True):
                        if new != old:
                            found[name] = found.get(name, 0) + new - old
        self.stats, self.devices = stats, devices
        return found
