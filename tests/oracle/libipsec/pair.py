"""xfrmi on moon, strongSwan's libipsec on sun, with keys that two charons have negotiated.

libipsec is told about SAs by IKE only. So both ends begin as charon with libipsec; then moon's charon is killed, which
sun does not notice, and xfrmi goes on with the keys, SPIs and addresses of before. No ESP packet has been sent by then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.iproute import ip
from tests.oracle.libipsec.charon import Charon, Child, need_charon
from tests.oracle.libipsec.proposals import Proposal
from tests.system.hosts import ANY, FULL, OUTER, PEER, Hosts, eventually, tell, two_hosts

INNER = (4, 6)
MTU = 1350
"""Of moon's devices: fits with every algorithm. libipsec's own has 1400, which does not, and is fragmented outside."""
SECONDS = 20.0
"""For all negotiations together: they take a fraction of a second."""


@dataclass
class Connection:
    """One CHILD_SA: all of both inner families between one pair of addresses."""

    number: int
    """Its if_id, its reqid, and part of its addresses."""
    proposal: Proposal
    outer: int

    @property
    def name(self) -> str:
        return f"{self.proposal.name}-over{self.outer}"

    @property
    def device(self) -> str:
        """Of xfrmi. libipsec has one device for all."""
        return f"ipsec{self.number}"

    def address(self, host: str, family: int) -> str:
        last = 1 if host == "moon" else 2
        return f"10.{self.outer}.{self.number}.{last}" if family == 4 else f"fd00:{self.outer}:{self.number}::{last}"

    def host_prefix(self, host: str, family: int) -> str:
        return f"{self.address(host, family)}/{FULL[family]}"

    def child_config(self, host: str) -> str:
        local, remote = (", ".join(self.host_prefix(name, family) for family in INNER) for name in (host, PEER[host]))
        start = "start_action = start" if host == "moon" else ""
        return (
            f"{self.name} {{\n esp_proposals = {self.proposal.name}\n mode = tunnel\n rekey_time = 0\n"
            f" local_ts = {local}\n remote_ts = {remote}\n {start}\n}}\n"
        )

    def lines(self, child: Child) -> str:
        """What moon's xfrmi is told."""
        text = f"link add {self.device} type xfrm if_id {self.number}\nlink set {self.device} mtu {MTU} up\n"
        for sender, direction, role in (("moon", "out", "initiator"), ("sun", "in", "responder")):
            ends = f"src {OUTER[sender, self.outer]} dst {OUTER[PEER[sender], self.outer]}"
            text += (
                f"state add {ends} proto esp spi {child.spis[direction]:#x} reqid {self.number} mode tunnel "
                f"replay-window 128 flag af-unspec {self.proposal.with_keys(child.keys[role])} "
                f"encap espinudp 4500 4500 0.0.0.0 if_id {self.number}\n"
            )
            for family in INNER:
                text += (
                    f"policy add src {ANY[family]} dst {ANY[family]} dir {direction} if_id {self.number} "
                    f"tmpl {ends} proto esp reqid {self.number} mode tunnel\n"
                )
        return text


def config(host: str, connections: Sequence[Connection]) -> str:
    """A swanctl.conf with one IKE_SA for each outer family and all their CHILD_SAs."""
    text = "secrets {\n ike {\n secret = 0x00112233445566778899aabbccddeeff\n }\n}\nconnections {\n"
    for outer in (4, 6):
        children = "".join(connection.child_config(host) for connection in connections if connection.outer == outer)
        text += (
            f"over{outer} {{\n version = 2\n mobike = no\n rekey_time = 0\n proposals = aes128-sha256-x25519\n"
            f"local_addrs = {OUTER[host, outer]}\n remote_addrs = {OUTER[PEER[host], outer]}\n"
            f"local {{\n auth = psk\n id = {host}\n }}\n remote {{\n auth = psk\n id = {PEER[host]}\n }}\n"
            f"children {{\n{children}}}\n}}\n"
        )
    return text + "}\n"


@dataclass
class Pair:
    hosts: Hosts
    sun: Charon

    def last_words(self) -> str:
        return f"xfrmi said:\n{self.hosts.moon.last_words(lines=40)}\nlibipsec said:\n{self.sun.last_words()}"


@contextmanager
def pair(connections: Sequence[Connection]) -> Iterator[Pair]:
    need_charon()
    with two_hosts(daemons=False) as hosts:
        for host in hosts.ends:  # libipsec's routes want a local address in the traffic selector
            host.address("lo", *(c.host_prefix(host.name, family) for c in connections for family in INNER))
        daemon = hosts.moon.launch_daemon()
        sun, moon = (Charon(host, config(host.name, connections)) for host in (hosts.sun, hosts.moon))
        sun.load()
        moon.load()
        eventually(lambda: len(moon.children()) == len(connections), moon.last_words, SECONDS)
        children = moon.children()
        moon.kill()
        hosts.moon.await_daemon(daemon)
        for connection in connections:
            tell(hosts.moon, connection.lines(children[connection.name]))
            with hosts.moon:
                for family in INNER:
                    here, there = (connection.address(name, family) for name in ("moon", "sun"))
                    ip(f"route add {there}/{FULL[family]} dev {connection.device} src {here}")
        yield Pair(hosts, sun)
