"""Fragments: inside a tunnel, outside of it, both at once; and where none are taken."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict

import pytest

from tests.system.hosts import Hosts, Tunnel, counters, eventually, rises
from tests.system.stage import on_stage
from tests.system.udp_path import PMTUDISC_DONT, Udp, fragments, udp
from xfrmi.lab.wiretap import ETH_HEADER_LEN

ENCAP = "encap espinudp 4500 4500 0.0.0.0"
TUNNELS = [
    Tunnel("raw4", 14),
    Tunnel("raw6", 16, outer=6),
    Tunnel("udp4", 24, state=ENCAP),
    Tunnel("udp6", 26, outer=6, state=ENCAP),
]


def narrow(hosts: Hosts, mtu: int) -> None:
    for host in hosts.ends:
        host.up("eth0", mtu=mtu)
    for port in ("eth0", "eth1"):
        hosts.router.up(port, mtu=mtu)


def arrives_at_last(path: Udp, size: int) -> None:
    """IPv6 is told the MTU at the cost of the first packet, and fragments for it then (TX-12a)."""
    path.far.settimeout(0.2)

    def once() -> bool:
        with suppress(TimeoutError):
            return path.arrives(size)
        return False

    eventually(once, f"{size} bytes do not arrive")
    path.far.settimeout(2)


@pytest.mark.parametrize("link", [1500, 1280])
@on_stage
def test_large_datagrams(hosts: Hosts, link: int) -> None:
    """5.3, TX-12b: the host fragments for the device's MTU, each fragment is sealed as it is, and what is too large
    then is fragmented outside. Put together outside, opened, put together inside."""
    narrow(hosts, link)
    hosts.set_up(*TUNNELS)
    for tunnel in TUNNELS:
        hosts.clear()
        with (
            rises(hosts.moon),
            rises(hosts.sun),
            udp(hosts.moon, hosts.sun, tunnel.address("sun", 4), PMTUDISC_DONT) as path,
        ):
            for size in (8000, 60_000):
                assert path.arrives(size)
            assert len(fragments(hosts, tunnel.outer)) > 80
        if tunnel.outer == 6 or link == 1500:  # over IPv4 a link of 1280 has no room for an IPv6 packet of 1280
            with udp(hosts.moon, hosts.sun, tunnel.address("sun", 6), PMTUDISC_DONT) as path:
                for size in (8000, 60_000):
                    arrives_at_last(path, size)
        assert counters(hosts.sun, tunnel.name).rx_errors == 0
        if not tunnel.state:  # runs in UDP cross these cables in one piece
            assert max(len(frame) for frame in hosts.wire()) <= ETH_HEADER_LEN + link
    assert hosts.shown() == []


@on_stage
def test_beet_takes_no_fragments(hosts: Hosts) -> None:
    """5.7: XfrmOutStateModeError for each, an error and aborted, as captured; whole packets go as before."""
    tunnel = Tunnel("beet0", 9, mode="beet", inner=(4,))
    hosts.set_up(tunnel)
    with udp(hosts.moon, hosts.sun, tunnel.address("sun", 4), PMTUDISC_DONT) as path:
        assert path.arrives(1400)
        before = asdict(counters(hosts.moon, "beet0"))
        with rises(hosts.moon, XfrmOutStateModeError=3):
            path.send(4000)
        after = asdict(counters(hosts.moon, "beet0"))
        moved = {key: after[key] - before[key] for key in after if after[key] != before[key]}
        assert moved == {"tx_errors": 3, "tx_aborted_errors": 3}
        assert path.arrives(1400)
    assert hosts.shown() == []
