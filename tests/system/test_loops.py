"""Packets that would come back into the device they came from (TX-10); tunnels inside tunnels, which only look so."""

from __future__ import annotations

import socket
from dataclasses import asdict, dataclass

from tests.iproute import ip
from tests.netns import in_netns
from tests.system.hosts import OUTER, Hosts, Tunnel, counters, eventually, give_addresses, rises, tell, two_hosts
from tests.system.stage import on_stage
from tests.system.udp_path import PMTUDISC_DONT, udp
from xfrmi.lab.topology import Node
from xfrmi.lab.traffic import ping, tcp_transfer

WARNING = "Local routing loop detected!"
CARRIER = Tunnel("carrier", 20, outer=4)
LOOP = {"tx_errors": 1, "tx_dropped": 1, "collisions": 1}


def counted(host: Node, name: str) -> dict[str, int]:
    return {key: value for key, value in asdict(counters(host, name)).items() if value}


def has_looped_once(host: Node, name: str) -> None:
    eventually(lambda: counted(host, name) == LOOP, lambda: str(counted(host, name)))


def warnings(hosts: Hosts) -> int:
    return hosts.moon.last_words(lines=1000).count(WARNING)


@in_netns
def test_TX_10_the_peer_is_behind_the_device_itself() -> None:
    """Nothing is sent, the sender is told nothing, one line says why; with the route gone all is well at once."""
    with two_hosts() as hosts:
        tunnels = Tunnel("over4", 44, outer=4), Tunnel("over6", 46, outer=6)
        hosts.set_up(*tunnels)
        for number, tunnel in enumerate(tunnels):
            to_peer = f"{OUTER['sun', tunnel.outer]}/{32 if tunnel.outer == 4 else 128}"
            with udp(hosts.moon, hosts.sun, tunnel.address("sun", 4)) as path, rises(hosts.moon):
                hosts.moon.route(to_peer, device=tunnel.name)
                path.send(200)
                has_looped_once(hosts.moon, tunnel.name)
                assert path.near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
                assert warnings(hosts) == 1, f"one line for a while, not one for each packet ({number})"
                without_route(hosts.moon, to_peer)
                assert path.arrives(200)
            now = counters(hosts.moon, tunnel.name)
            assert (now.tx_errors, now.collisions) == (1, 1)
        assert hosts.shown() == []


def without_route(host: Node, destination: str) -> None:
    with host:
        ip(f"-{6 if ':' in destination else 4} route del {destination}")


@in_netns
def test_TX_10_two_devices_lead_into_each_other() -> None:
    """Each outer packet would be the other's inner one, larger each time and, without DF, more of them. A kernel ends
    that after eight; here it never begins."""
    with two_hosts() as hosts:
        first, second = Tunnel("one", 10), Tunnel("two", 11)
        hosts.set_up(first)
        tell(hosts.moon, second.lines("moon").replace(OUTER["sun", 4], "198.51.100.9"))
        give_addresses(hosts.moon, second)
        hosts.moon.route("198.51.100.1/32", device="two")
        hosts.moon.route("198.51.100.9/32", device="one")
        with udp(hosts.moon, hosts.sun, first.address("sun", 4), PMTUDISC_DONT) as path, rises(hosts.moon):
            path.send(1500)
            has_looped_once(hosts.moon, "one")
            assert counted(hosts.moon, "two") == {}
            assert warnings(hosts) == 1
            without_route(hosts.moon, "198.51.100.1/32")
            assert path.arrives(1500)
        assert hosts.shown() == []


@on_stage
def test_a_peer_behind_another_xfrm_device_is_no_loop(hosts: Hosts) -> None:
    """A tunnel through a tunnel: the outer packets of one device are the inner ones of another. Both families of both,
    by protocol 50 and in UDP; the MTU is what both leave."""
    hosts.set_up(CARRIER)
    for number, (family, state) in enumerate([(4, ""), (6, ""), (4, "encap espinudp 4500 4500 0.0.0.0")]):
        inside = Through(f"inside{number}", 30 + number, outer=family, state=state)
        hosts.set_up(inside)
        for inner in (4, 6):
            assert len(ping(hosts.moon, inside.address("sun", inner), 2)) == 2
            transfer = tcp_transfer(hosts.moon, hosts.sun, inside.address("sun", inner), 300_000)
            assert transfer.intact, transfer.error
        sent = counters(hosts.moon, inside.name)
        assert sent.tx_packets > 10 and sent.collisions == 0
    assert counters(hosts.moon, "carrier").tx_packets > 30
    assert hosts.shown() == []


@dataclass(frozen=True)
class Through(Tunnel):
    """A tunnel between the inner addresses of another."""

    carrier: Tunnel = CARRIER

    def lines(self, host: str) -> str:
        said = super().lines(host)
        for end in ("moon", "sun"):
            said = said.replace(f" {OUTER[end, self.outer]} ", f" {self.carrier.address(end, self.outer)} ")
        return said
