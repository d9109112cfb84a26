"""Packets larger than the way can carry: who is told, what is learned, what is fragmented where (TX-11, TX-12)."""

from __future__ import annotations

from tests.system.hosts import Hosts, Tunnel, counters, device, rises, tell
from tests.system.stage import on_stage
from tests.system.udp_path import PMTUDISC_DONT, fragments, learns, udp
from xfrmi.lab.wiretap import ETH_HEADER_LEN

INNER_MTU = {4: 1446, 6: 1426}
"""GCM-16 in tunnel mode over IPv4 and IPv6 with 1500 (5.8)."""


@on_stage
def test_senders_learn_the_mtu_of_the_tunnel(hosts: Hosts) -> None:
    """T-11, TX-12: ICMP "fragmentation needed" and "packet too big" come back, and the sending kernel believes them."""
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


@on_stage
def test_without_df_the_outer_packet_is_fragmented(hosts: Hosts) -> None:
    """TX-12b: a packet that may be fragmented goes on; ESP first, then fragments, put together before ESP (RAW-04)."""
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


@on_stage
def test_ipv6_is_never_told_less_than_1280(hosts: Hosts) -> None:
    """T-12, TX-12a: what has 1280 bytes arrives, in fragments, whatever the tunnel can carry. A kernel means to do so,
    and drops it (tests/system/test_quirks.py)."""
    tunnels = _, over6 = Tunnel("over4", 44, outer=4), Tunnel("over6", 46, outer=6)
    hosts.set_up(*tunnels)
    for host in hosts.ends:
        host.up("eth0", mtu=1300)
    with udp(hosts.moon, hosts.sun, over6.address("sun", 4)) as path:
        learns(path, 1226)
    for tunnel in tunnels:
        hosts.clear()
        with rises(hosts.moon), udp(hosts.moon, hosts.sun, tunnel.address("sun", 6)) as path:
            learns(path, 1280)
            assert len(fragments(hosts, tunnel.outer)) == 2
    assert hosts.shown() == []


@on_stage
def test_the_mtu_of_the_device_is_a_limit_too(hosts: Hosts) -> None:
    """1.2, TX-11: `link set mtu` is purely administrative; with less than the tunnel's, packets are cut before ESP."""
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
