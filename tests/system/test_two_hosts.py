"""Every mode in every pair of families between two real hosts: all of it arrives, and the wire shows ESP only."""

from __future__ import annotations

import contextlib
import socket

from tests.iproute import ip
from tests.netns import in_netns
from tests.system.hosts import OUTER, PEER, ROUTER, Hosts, Tunnel, counters, eventually, rises, strangers, two_hosts
from tests.system.stage import on_stage
from xfrmi.lab.traffic import family_of, filler, ping, tcp_transfer

SIZE = 2_000_000
UDP_SEGMENT = 103


def carries(hosts: Hosts, tunnel: Tunnel) -> None:
    """Echoes both ways, in one packet and in fragments, datagrams, and a TCP stream, in each of its families."""
    for family in tunnel.inner:
        for source, sink in (hosts.ends, hosts.ends[::-1]):
            address = tunnel.address(sink.name, family)
            assert len(ping(source, address, 3)) == 3, f"{tunnel.name}: IPv{family} {source.name} -> {sink.name}"
        if tunnel.mode == "tunnel":  # the others carry no fragments; the first ones teach both ends the MTU
            target = tunnel.address("sun", family)
            eventually(lambda target=target: ping(hosts.moon, target, 1, timeout=0.3, size=8000), "no fragments")
        assert datagrams_arrive(hosts, tunnel.address("sun", family)) == 40, "cut from one by the device (USO)"
        transfer = tcp_transfer(hosts.moon, hosts.sun, tunnel.address("sun", family), SIZE)
        assert transfer.intact, f"{tunnel.name}: IPv{family} {transfer}"
    for host in hosts.ends:
        stats = counters(host, tunnel.name)
        assert stats.tx_packets > 0
        assert stats.rx_packets > 0
        assert (stats.rx_errors, stats.rx_dropped, stats.tx_aborted_errors, stats.collisions) == (0, 0, 0, 0)


def datagrams_arrive(hosts: Hosts, address: str) -> int:
    """Hand the kernel 40 datagrams in one; how many reach sun whole and in order."""
    with hosts.sun:
        far = socket.socket(family_of(address), socket.SOCK_DGRAM)
    with hosts.moon:
        near = socket.socket(family_of(address), socket.SOCK_DGRAM)
    with far, near:
        far.bind((address, 0))
        far.settimeout(2)
        near.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
        pieces = [bytes([number]) + filler(999) for number in range(40)]
        near.sendto(b"".join(pieces), far.getsockname()[:2])
        arrived = 0
        with contextlib.suppress(TimeoutError):
            while arrived < len(pieces) and far.recv(65535) == pieces[arrived]:
                arrived += 1
        return arrived


def all_carry(hosts: Hosts, *tunnels: Tunnel) -> None:
    """One after the other; nothing is lost, and nothing is shown on the way."""
    with rises(hosts.moon), rises(hosts.sun):
        for tunnel in tunnels:
            carries(hosts, tunnel)
    assert hosts.esp()
    assert strangers(hosts.wire()) == {}
    assert hosts.shown() == []


@on_stage
def test_tunnel_mode(hosts: Hosts) -> None:
    """RX-08, 5.3, 5.4, 5.6: IPv4 and IPv6 inside through one interface, over IPv4 and over IPv6."""
    tunnels = Tunnel("over4", 44, outer=4), Tunnel("over6", 46, outer=6)
    hosts.set_up(*tunnels)
    all_carry(hosts, *tunnels)


@on_stage
def test_beet_mode(hosts: Hosts) -> None:
    """5.7: the inner addresses are in the states, in every pair of families."""
    tunnels = [
        Tunnel(f"beet{inner}in{outer}", inner * 10 + outer, outer=outer, mode="beet", inner=(inner,))
        for inner in (4, 6)
        for outer in (4, 6)
    ]
    hosts.set_up(*tunnels)
    all_carry(hosts, *tunnels)


MARK = 7


@in_netns
def test_transport_mode_with_dev() -> None:
    """RX-08, 5.2: a packet keeps its addresses, so routing tables lead it into the device again: `dev` leads out."""
    with two_hosts() as hosts:
        tunnels = [Tunnel(f"transport{v}", 10 + v, outer=v, mode="transport", inner=(v,), dev="eth0") for v in (4, 6)]
        hosts.set_up(*tunnels)
        for host in hosts.ends:
            peer = PEER[host.name]
            with host:
                for family, tunnel in zip((4, 6), tunnels, strict=True):
                    source = OUTER[host.name, family]
                    ip(f"route add {OUTER[peer, family]}/{32 if family == 4 else 128} dev {tunnel.name} src {source}")
        all_carry(hosts, *tunnels)


@in_netns
def test_transport_mode_with_a_mark() -> None:
    """Without `dev` it is a mark that leads out: the states put it on what they have sealed (set-mark, 3.8), and a
    rule sends marked packets by a table that knows eth0 only.

    What arrives at eth0 from the peer does not come by the way back to him, so eth0 must not check that (rp_filter;
    two_hosts turns it off).
    """
    with two_hosts() as hosts:
        marked = f"output-mark {MARK}"
        tunnels = [Tunnel(f"transport{v}", 10 + v, outer=v, mode="transport", inner=(v,), state=marked) for v in (4, 6)]
        hosts.set_up(*tunnels)
        for host in hosts.ends:
            peer = PEER[host.name]
            with host:
                for family, tunnel in zip((4, 6), tunnels, strict=True):
                    ip(f"-{family} rule add fwmark {MARK} table 100")
                    ip(f"-{family} route add default via {ROUTER[host.name, family]} table 100")
                    source = OUTER[host.name, family]
                    ip(f"route add {OUTER[peer, family]}/{32 if family == 4 else 128} dev {tunnel.name} src {source}")
        all_carry(hosts, *tunnels)


@in_netns
def test_transport_mode_without_a_way_out_is_a_loop() -> None:
    """TX-10: the outer packet would come back into the device it came from: collisions, and nothing on the wire."""
    with two_hosts() as hosts:
        tunnel = Tunnel("xfrm0", 1, mode="transport", inner=(4,))
        hosts.set_up(tunnel)
        with hosts.moon:
            ip(f"route add {OUTER['sun', 4]}/32 dev xfrm0 src {OUTER['moon', 4]}")
        before = counters(hosts.moon, "xfrm0")
        assert ping(hosts.moon, OUTER["sun", 4], 2, timeout=0.2) == []
        after = counters(hosts.moon, "xfrm0")
        assert after.collisions - before.collisions == 2
        assert after.tx_errors - before.tx_errors == 2
        assert after.tx_dropped - before.tx_dropped == 2
        assert after.tx_packets == 0
        assert hosts.esp() == []
        assert strangers(hosts.wire()) == {}
