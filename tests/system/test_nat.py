"""A NAT between two hosts that changes addresses: what it does to transport mode (RFC 3948 3.1.2) and to tunnels."""

from __future__ import annotations

import shutil
import socket
import subprocess

import pytest

from tests.iproute import ip
from tests.netns import in_netns
from tests.system.hosts import FULL, OUTER, ROUTER, Hosts, Tunnel, counters, rises, strangers, tell, two_hosts
from xfrmi.lab.namespace import Namespace
from xfrmi.lab.traffic import family_of, filler, ping, tcp_transfer

ENCAP = "encap espinudp 4500 4500 0.0.0.0"
CHAIN = "{ type nat hook postrouting priority 100 ; }"


def masquerade(router: Namespace, family: int) -> None:
    """Whatever leaves for sun comes from the router's own address."""
    if shutil.which("nft") is None:
        pytest.skip("NO nft HERE, TRANSPORT MODE THROUGH A NAT NOT TESTED")
    table = {4: "ip", 6: "ip6"}[family]
    rules = f"add table {table} nat\nadd chain {table} nat out {CHAIN}\nadd rule {table} nat out oif eth1 masquerade\n"
    with router:
        done = subprocess.run(["nft", "-f", "-"], input=rules, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NO NAT IN THIS KERNEL, TRANSPORT MODE THROUGH A NAT NOT TESTED: {done.stderr}")


def set_up(hosts: Hosts, tunnel: Tunnel, family: int) -> None:
    """Moon is behind a NAT: sun knows it by the router's address, and tells its kernel so."""
    masquerade(hosts.router, family)
    tell(hosts.moon, tunnel.lines("moon"))
    tell(hosts.sun, tunnel.lines("sun").replace(OUTER["moon", family], ROUTER["sun", family]))


@in_netns
def transport_mode(family: int) -> None:
    with two_hosts() as hosts:
        tunnel = Tunnel("nat0", 46, outer=family, mode="transport", inner=(family,), state=ENCAP, dev="eth0")
        set_up(hosts, tunnel, family)
        ends = ((hosts.moon, "moon", OUTER["sun", family]), (hosts.sun, "sun", ROUTER["sun", family]))
        for host, name, peer in ends:
            with host:
                ip(f"route add {peer}/{FULL[family]} dev nat0 src {OUTER[name, family]}")
        sun = OUTER["sun", family]
        with rises(hosts.moon), rises(hosts.sun):
            assert len(ping(hosts.moon, sun, 3)) == 3
            transfer = tcp_transfer(hosts.moon, hosts.sun, sun, 2_000_000)
            assert transfer.intact, transfer
            assert answered(hosts, sun) == ROUTER["sun", family], "as whom sun knows moon"
        assert counters(hosts.sun, "nat0").rx_packets > 0
        assert set(strangers(hosts.wire())) == {f"IPv{family} protocol 17"} and hosts.shown() == []


def answered(hosts: Hosts, address: str) -> str:
    """Moon asks sun over UDP and hears an answer; from which address sun was asked."""
    with hosts.sun:
        far = socket.socket(family_of(address), socket.SOCK_DGRAM)
    with hosts.moon:
        near = socket.socket(family_of(address), socket.SOCK_DGRAM)
    with far, near:
        far.bind((address, 0))
        for end in (far, near):
            end.settimeout(2)
        near.connect(far.getsockname()[:2])
        near.send(filler(500))
        question, asker = far.recvfrom(2000)
        far.sendto(question[::-1], asker)
        assert near.recv(2000) == filler(500)[::-1]
        return str(asker[0])


@pytest.mark.parametrize("family", [4, 6])
def test_transport_mode_through_a_nat(family: int) -> None:
    """TCP and UDP: their checksums cover addresses that the NAT has changed, and are made right after decapsulation."""
    transport_mode(family)
