"""Packets larger than the way can carry: who is told, what is learned, what is fragmented where (TX-11, TX-12)."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.netns import in_netns
from tests.system.hosts import Hosts, Tunnel, counters, device, eventually, rises, tell, two_hosts
from xfrmi.lab.topology import Node
from xfrmi.lab.traffic import family_of, filler, ping, tcp_transfer
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


INNER_MTU = {4: 1446, 6: 1426}
"""GCM-16 in tunnel mode over IPv4 and IPv6 with 1500 (5.8)."""


@in_netns
def test_senders_learn_the_mtu_of_the_tunnel() -> None:
    """T-11, TX-12: ICMP "fragmentation needed" and "packet too big" come back, and the sending kernel believes them."""
    with two_hosts() as hosts:
        tunnels = [Tunnel("over4", 44, outer=4), Tunnel("over6", 46, outer=6)]
        hosts.set_up(*tunnels)
        for tunnel in tunnels:
            for family in (4, 6):
                before = counters(hosts.moon, tunnel.name)
                with udp(hosts.moon, hosts.sun, tunnel.address("sun", family)) as path:
                    assert path.mtu == 1500
                    learns(path, INNER_MTU[tunnel.outer])
                after = counters(hosts.moon, tunnel.name)
                assert after.tx_errors - before.tx_errors == 1
                assert after.tx_dropped - before.tx_dropped == 1
        longest = max(len(frame) for frame in hosts.esp())
        assert longest <= ETH_HEADER_LEN + 1500
        assert hosts.shown() == []


def fragments(hosts: Hosts, version: int) -> list[bytes]:
    """IP packets on the wire that are parts of another."""
    packets = [frame[ETH_HEADER_LEN:] for frame in hosts.wire()]
    if version == 4:
        return [p for p in packets if p[0] >> 4 == 4 and int.from_bytes(p[6:8], "big") & 0x3FFF]
    return [p for p in packets if p[0] >> 4 == 6 and p[6] == socket.IPPROTO_FRAGMENT]


@in_netns
def test_without_df_the_outer_packet_is_fragmented() -> None:
    """TX-12b: a packet that may be fragmented goes on; ESP first, then fragments, put together before ESP (RAW-04)."""
    with two_hosts() as hosts:
        tunnels = [Tunnel("over4", 44, outer=4), Tunnel("over6", 46, outer=6)]
        hosts.set_up(*tunnels)
        for tunnel in tunnels:
            hosts.clear()
            with (
                rises(hosts.moon),
                rises(hosts.sun),
                udp(hosts.moon, hosts.sun, tunnel.address("sun", 4), PMTUDISC_DONT) as path,
            ):
                assert path.arrives(1500)
                assert len(fragments(hosts, tunnel.outer)) == 2
                assert path.arrives(4000), "the device's own MTU makes three packets of it, and two are too long"
                assert len(fragments(hosts, tunnel.outer)) == 6
        assert hosts.shown() == []


@in_netns
def test_ipv6_is_never_told_less_than_1280() -> None:
    """T-12, TX-12a: what has 1280 bytes is sent, whatever the tunnel can carry.

    Over IPv6 it arrives, in fragments. Over IPv4 the outer packet has DF set, so the sending side refuses it, as a
    captured kernel does (tx_aborted).
    """
    with two_hosts() as hosts:
        tunnels = over4, over6 = Tunnel("over4", 44, outer=4), Tunnel("over6", 46, outer=6)
        hosts.set_up(*tunnels)
        for host in hosts.ends:
            host.up("eth0", mtu=1300)
        with udp(hosts.moon, hosts.sun, over6.address("sun", 4)) as path:
            learns(path, 1226)
        with udp(hosts.moon, hosts.sun, over6.address("sun", 6)) as path:
            learns(path, 1280)
            assert len(fragments(hosts, 6)) == 2
        with udp(hosts.moon, hosts.sun, over4.address("sun", 6)) as path:
            before = counters(hosts.moon, "over4")
            path.send(1281)
            eventually(lambda: path.mtu == 1280, lambda: f"mtu is {path.mtu}")
            path.near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            path.send(1280)
            eventually(
                lambda: counters(hosts.moon, "over4").tx_aborted_errors == before.tx_aborted_errors + 1,
                "1280 bytes were not refused",
            )


@in_netns
def path_mtu_shrinks(outer: int) -> None:
    with two_hosts() as hosts:
        tunnel = Tunnel("ipsec0", 6, outer=outer)
        hosts.set_up(tunnel)
        assert len(ping(hosts.moon, tunnel.address("sun", 4), 1)) == 1
        hosts.router.up("eth1", mtu=1400)
        hosts.sun.up("eth0", mtu=1400)
        with udp(hosts.moon, hosts.sun, tunnel.address("sun", 4)) as path:
            # The first ones are lost on the way, the router says so, the host's route learns it, and then the sender.
            def learned() -> bool:
                with suppress(OSError):
                    path.send(path.mtu)
                return path.mtu == INNER_MTU[outer] - 100

            eventually(learned, lambda: f"mtu is {path.mtu}")
            assert path.arrives(path.mtu)
        for family in (4, 6):
            assert tcp_transfer(hosts.moon, hosts.sun, tunnel.address("sun", family), 1_000_000).intact
        assert hosts.shown() == []


@pytest.mark.parametrize("outer", [4, 6])
def test_a_router_on_the_way_carries_less(outer: int) -> None:
    """1.7: an ICMP error about an ESP packet lowers the path MTU outside; the next packet inside makes it known."""
    path_mtu_shrinks(outer)


@in_netns
def test_the_mtu_of_the_device_is_a_limit_too() -> None:
    """1.2, TX-11: `link set mtu` is purely administrative; with less than the tunnel's, packets are cut before ESP."""
    with two_hosts() as hosts:
        tunnel = Tunnel("ipsec0", 8)
        hosts.set_up(tunnel)
        tell(hosts.moon, "link set ipsec0 mtu 1400")
        link = device(hosts.moon, "ipsec0")
        assert link is not None
        assert link.mtu == 1400
        hosts.clear()
        with udp(hosts.moon, hosts.sun, tunnel.address("sun", 4), PMTUDISC_DONT) as path, rises(hosts.moon):
            assert path.mtu == 1400
            assert path.arrives(4000)
        assert fragments(hosts, 4) == []
        assert len(hosts.esp()) == 3
