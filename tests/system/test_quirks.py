"""`xfrmi daemon --kernel-quirks`: what Linux does, also where xfrmi by itself does better (docs/deviations.md)."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tests.iproute import ip
from tests.netns import in_netns
from tests.system.hosts import OUTER, Hosts, Tunnel, device_counts, eventually, strangers, two_hosts
from tests.system.udp_path import udp
from xfrmi.lab.traffic import ping


@contextmanager
def quirky_moon() -> Iterator[Hosts]:
    with two_hosts(daemons=False) as hosts:
        daemons = [hosts.moon.launch_daemon("--kernel-quirks"), hosts.sun.launch_daemon()]
        for host, daemon in zip(hosts.ends, daemons, strict=True):
            hosts.daemons[host.name] = host.await_daemon(daemon)
        yield hosts


@in_netns
def test_transport_mode_is_a_loop_whatever_dev_says() -> None:
    """TX-10: "Local routing loop detected!", as captured. Without quirks: test_two_hosts.py."""
    with quirky_moon() as hosts:
        hosts.set_up(Tunnel("xfrm0", 1, mode="transport", inner=(4,), dev="eth0"))
        with hosts.moon:
            ip(f"route add {OUTER['sun', 4]}/32 dev xfrm0 src {OUTER['moon', 4]}")
        with device_counts(hosts.moon, "xfrm0", tx_errors=2, tx_dropped=2, collisions=2):
            assert ping(hosts.moon, OUTER["sun", 4], 2, timeout=0.2) == []
        assert strangers(hosts.wire()) == {} and hosts.esp() == []
        assert "Local routing loop detected!" in hosts.moon.last_words(lines=40)


@in_netns
def test_small_ipv6_packets_are_lost_on_a_narrow_path() -> None:
    """TX-12a, as captured: aborted, and who sent it hears nothing. Without quirks: test_pmtu.py."""
    with quirky_moon() as hosts:
        tunnels = [Tunnel("over4", 44, outer=4), Tunnel("over6", 46, outer=6)]
        hosts.set_up(*tunnels)
        for host in hosts.ends:
            host.up("eth0", mtu=1300)
        for tunnel in tunnels:
            with udp(hosts.moon, hosts.sun, tunnel.address("sun", 6)) as path:
                path.send(1281)
                eventually(lambda path=path: path.mtu == 1280, "the sender was not told")
                with device_counts(hosts.moon, tunnel.name, tx_errors=1, tx_aborted_errors=1):
                    path.near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # what it was told is read
                    path.send(1280)
                assert path.arrives(1220), "what fits passes"

