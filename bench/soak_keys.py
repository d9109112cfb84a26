"""The key manager of a soak: every tunnel gets new states each second, in both directions, and no packet is lost to it.

Make before break: the receiver learns a new state first, then the sender, who uses the newest; the sender's old one
goes at once, the receiver's a while later, when what was under way has arrived. Some states have limits that end them
before that. Then nothing can be sent until the next second, which is counted like anything else, and a larval state is
made.
"""

from __future__ import annotations

import secrets
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from bench.cable import OUTER
from tests.system.hosts import at
from xfrmi.errors import XfrmError
from xfrmi.lab.topology import Node
from xfrmi.wire.link_types import IFF_UP, LinkInfo
from xfrmi.wire.xfrm_const import STATE_AF_UNSPEC, Dir, Mode
from xfrmi.wire.xfrm_types import Algorithm, Encap, Limits, PolicyInfo, Selector, StateId, StateInfo, Template

PREFIXES = "0.0.0.0/0", "::/0"
SOFT, HARD = 40, 80
"""Packets of a state with limits: at some hundred a second it does not live for a second."""
GRACE = 1
"""Rounds for which a receiver keeps an old state."""


class Tunnel(NamedTuple):
    """Between moon and sun."""

    if_id: int
    outer: int
    port: int
    """Of ESP in UDP, 0 for none."""
    limited: bool
    """Its states end early."""

    @property
    def name(self) -> str:
        return f"ipsec{self.if_id}"

    def addresses(self, family: int) -> tuple[str, str]:
        """Moon's and sun's, inside."""
        net = f"10.0.{self.if_id}." if family == 4 else f"fd00:{self.if_id}::"
        return f"{net}1", f"{net}2"


def tunnels(count: int) -> list[Tunnel]:
    """IPv4 and IPv6, raw and in UDP in turn; every fourth has limits."""
    return [
        Tunnel(at + 1, (4, 6)[at % 2], 4600 + at if at // 2 % 2 else 0, at % 4 == 3) for at in range(count)
    ]  # fmt: skip


@dataclass
class Keys:
    moon: Node
    sun: Node
    tunnels: list[Tunnel]
    rekeyed: int = 0
    """States that replaced another."""
    _spi: int = 0x10000
    _old: dict[tuple[int, int], StateInfo] = field(default_factory=dict)
    _going: deque[tuple[int, Node, StateInfo]] = field(default_factory=deque)
    """(round in which it may go, receiver, state)."""
    _round: int = 0

    def set_up(self) -> None:
        for number, node in enumerate((self.moon, self.sun), 1):
            with at(node) as client:
                for tunnel in self.tunnels:
                    client.add_link(LinkInfo(tunnel.name, if_id=tunnel.if_id, flags=IFF_UP, change=IFF_UP))
                    here, there = OUTER[tunnel.outer][:: 1 if number == 1 else -1]
                    for policy in policies(tunnel, here, there):
                        client.add_policy(policy)
            for tunnel in self.tunnels:
                v4, v6 = (tunnel.addresses(family)[number - 1] for family in (4, 6))
                node.address(tunnel.name, f"{v4}/30", f"{v6}/64")
        self.rekey()

    def rekey(self) -> None:
        """One round: all tunnels, both directions; and a policy comes and goes."""
        self._round += 1
        fresh = {
            (tunnel.if_id, way): self._state(tunnel, way) for tunnel in self.tunnels for way in (0, 1)
        }  # fmt: skip
        for way, receiver in enumerate((self.sun, self.moon)):
            with at(receiver) as client:
                for tunnel in self.tunnels:
                    client.add_state(fresh[tunnel.if_id, way])
        for way, sender in enumerate((self.moon, self.sun)):
            with at(sender) as client:
                for tunnel in self.tunnels:
                    client.add_state(fresh[tunnel.if_id, way])
                    if (old := self._old.get((tunnel.if_id, way))) is not None:
                        with suppress(XfrmError):  # it has reached a limit
                            client.delete_state(state_id(old))
                passing = PolicyInfo(Selector.parse("192.0.2.128/25"), Dir.OUT, 1, priority=9)
                client.add_policy(passing)
                client.delete_policy(passing)
        for key, info in fresh.items():
            if (old := self._old.get(key)) is not None:
                self._going.append((self._round + GRACE, (self.sun, self.moon)[key[1]], old))
                self.rekeyed += 1
            self._old[key] = info
        self._forget()

    def _forget(self) -> None:
        """Receivers' old states whose time has come."""
        while self._going and self._going[0][0] <= self._round:
            _, receiver, old = self._going.popleft()
            with at(receiver) as client, suppress(XfrmError):
                client.delete_state(state_id(old))

    def settle(self) -> None:
        """As if rounds had passed: one state is left for each tunnel and direction."""
        self._round += GRACE
        self._forget()

    def _state(self, tunnel: Tunnel, way: int) -> StateInfo:
        self._spi += 1
        src, dst = OUTER[tunnel.outer][:: 1 if way == 0 else -1]
        limits = Limits(soft_packets=SOFT, hard_packets=HARD) if tunnel.limited and way == 0 else Limits()
        return StateInfo(
            src=src, dst=dst, spi=self._spi, mode=Mode.TUNNEL, reqid=tunnel.if_id, if_id=tunnel.if_id,
            flags=STATE_AF_UNSPEC, replay_window=32, limits=limits,
            aead=Algorithm("rfc4106(gcm(aes))", secrets.token_bytes(20), 128),
            encap=Encap(sport=tunnel.port, dport=tunnel.port) if tunnel.port else None,
        )  # fmt: skip


def policies(tunnel: Tunnel, here: str, there: str) -> list[PolicyInfo]:
    ends = {Dir.OUT: (here, there), Dir.IN: (there, here), Dir.FWD: (there, here)}
    return [
        PolicyInfo(
            Selector.parse(prefix), direction, tunnel.if_id,
            (Template(src, dst, mode=Mode.TUNNEL, reqid=tunnel.if_id),),
        )
        for prefix in PREFIXES
        for direction, (src, dst) in ends.items()
    ]  # fmt: skip


def state_id(info: StateInfo) -> StateId:
    return StateId(info.dst, info.spi, info.proto, info.family)
