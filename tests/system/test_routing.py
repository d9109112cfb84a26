"""Which way packets go: marks and rules outside, several links, a LAN behind a host, a device in another namespace."""

from __future__ import annotations

import sys
import time

from tests.iproute import ip
from tests.netfilter import need_nft, rule
from tests.netns import in_netns
from tests.system.hosts import (
    PEER,
    Hosts,
    Tunnel,
    at,
    counters,
    device,
    give_addresses,
    plaintext,
    rises,
    strangers,
    tell,
    two_hosts,
)
from tests.system.stage import on_stage
from tests.system.udp_path import learns, udp
from xfrmi.dev.rtnl import Rtnl
from xfrmi.lab.namespace import sysctl
from xfrmi.lab.topology import Node
from xfrmi.lab.traffic import ping, tcp_transfer
from xfrmi.lab.wiretap import Wiretap, spi_and_sequence
from xfrmi.wire.address import pack_address


def second_cable(hosts: Hosts) -> None:
    """moon and sun get eth1, joined without the router; nothing is routed there yet."""
    here, there = ["203.0.113.1/30", "2001:db8:3::1/64"], ["203.0.113.2/30", "2001:db8:3::2/64"]
    hosts.lab.link(hosts.moon, "eth1", here, hosts.sun, "eth1", there)
    for host in hosts.ends:
        with host:
            sysctl("net.ipv4.conf.eth1.rp_filter", 0)


NEXT_HOP = {
    ("moon", 4): "203.0.113.2",
    ("sun", 4): "203.0.113.1",
    ("moon", 6): "2001:db8:3::2",
    ("sun", 6): "2001:db8:3::1",
}


def spis(frames: list[bytes]) -> set[int]:
    return {spi_and_sequence(frame)[0] for frame in frames}


@in_netns
def test_output_mark_chooses_the_route() -> None:
    """3.8: set-mark is the mark of the outer packet, for the decision and on the wire side; per state."""
    with two_hosts() as hosts:
        second_cable(hosts)
        for host in hosts.ends:
            with host:
                for family in (4, 6):
                    ip(f"-{family} rule add fwmark 5 table 100")
                    ip(f"-{family} route add default via {NEXT_HOP[host.name, family]} table 100")
        plain = Tunnel("plain", 1)
        marked = [Tunnel(f"marked{outer}", 10 + outer, outer=outer, state="output-mark 5") for outer in (4, 6)]
        hosts.set_up(plain, *marked)
        with Wiretap(hosts.sun, "eth1") as other:
            for tunnel in (plain, *marked):
                for family in (4, 6):
                    assert len(ping(hosts.moon, tunnel.address("sun", family), 2)) == 2
                    assert len(ping(hosts.sun, tunnel.address("moon", family), 2)) == 2
            assert spis(hosts.esp()) == {plain.spi(name) for name in PEER}
            assert spis(other.esp()) == {tunnel.spi(name) for tunnel in marked for name in PEER}
            assert plaintext(other.frames) == []


@in_netns
def test_dev_of_the_interface_leads_out() -> None:
    """Between the same endpoints, over the same links, each interface leaves by its own `dev`, in both families."""
    with two_hosts() as hosts:
        second_cable(hosts)
        left, *right = tunnels = [
            Tunnel("left", 1, dev="eth0"),
            Tunnel("right4", 24, outer=4, dev="eth1"),
            Tunnel("right6", 26, outer=6, dev="eth1"),
        ]
        for host in hosts.ends:
            with host:
                for family in (4, 6):  # a second choice: without `dev` everything would go by eth0
                    ip(f"-{family} route add default via {NEXT_HOP[host.name, family]} metric 2000")
        hosts.set_up(*tunnels)
        with Wiretap(hosts.sun, "eth1") as other:
            for tunnel in tunnels:
                for family in (4, 6):
                    assert len(ping(hosts.moon, tunnel.address("sun", family), 2)) == 2
                    assert tcp_transfer(hosts.moon, hosts.sun, tunnel.address("sun", family), 500_000).intact
            assert spis(hosts.esp()) == {left.spi(name) for name in PEER}
            assert spis(other.esp()) == {tunnel.spi(name) for tunnel in right for name in PEER}
            assert plaintext(other.frames) == []


@on_stage
def test_dev_of_a_policy_is_the_link_of_the_interface(hosts: Hosts) -> None:
    """TX-03: a policy's `dev` means the link, not the xfrm device; another link's name matches nothing."""
    tunnel = Tunnel("ipsec0", 1, dev="eth0")
    for host in hosts.ends:
        tell(host, tunnel.lines(host.name).replace("dir out", "dev eth0 dir out"))
        give_addresses(host, tunnel)
    target = tunnel.address("sun", 4)
    assert len(ping(hosts.moon, target, 2)) == 2
    outward = tunnel.policy_line("moon", "out", 4)
    for wrong in ("lo", "ipsec0"):
        tell(hosts.moon, "policy deleteall dir out\n" + outward.replace("dir", f"dev {wrong} dir", 1))
        before = counters(hosts.moon, "ipsec0").tx_carrier_errors
        with rises(hosts.moon):  # no policy: nothing counts that but the device
            assert ping(hosts.moon, target, 2, timeout=0.1) == []
        assert counters(hosts.moon, "ipsec0").tx_carrier_errors == before + 2
    tell(hosts.moon, "policy deleteall dir out\n" + outward)
    assert len(ping(hosts.moon, target, 2)) == 2


def lan(hosts: Hosts) -> Node:
    """alice, behind sun, and the way to her through the tunnel."""
    alice = hosts.lab.node("alice")
    hosts.lab.link(hosts.sun, "lan0", ["10.1.0.1/24", "fd01::1/64"], alice, "eth0", ["10.1.0.10/24", "fd01::10/64"])
    alice.route("0.0.0.0/0", via="10.1.0.1")
    alice.route("::/0", via="fd01::1")
    hosts.sun.forward()
    return alice


@in_netns
def test_forwarding_takes_a_fwd_policy() -> None:
    """IN-15, T-14: what is not for the host itself needs `dir fwd`; without it XfrmInNoPols, though `in` allows it."""
    with two_hosts() as hosts:
        tunnel = Tunnel("gw0", 9)
        hosts.set_up(tunnel)
        alice = lan(hosts)
        hosts.moon.route("10.1.0.0/24", device="gw0")
        hosts.moon.route("fd01::/64", device="gw0")
        for family, address in ((4, "10.1.0.10"), (6, "fd01::10")):
            with rises(hosts.sun):
                assert len(ping(hosts.moon, address, 3)) == 3
                assert tcp_transfer(hosts.moon, alice, address, 1_000_000).intact
                assert len(ping(alice, tunnel.address("moon", family), 3)) == 3, "alice starts"
            time.sleep(0.3)  # the last acknowledgements of the TCP stream are not to be counted below
            tell(hosts.sun, tunnel.policy_line("sun", "fwd", family, "delete"))
            received = counters(hosts.sun, "gw0").rx_packets
            with rises(hosts.sun, XfrmInNoPols=2):
                assert ping(hosts.moon, address, 2, timeout=0.1) == []
                assert len(ping(hosts.moon, tunnel.address("sun", family), 2)) == 2, "`in` is another matter"
            assert counters(hosts.sun, "gw0").rx_packets == received + 4, "counted before policy is asked (1.4)"
        assert strangers(hosts.wire()) == {}
        assert hosts.shown() == []


@in_netns
def test_TX_13_who_is_behind_nat_is_told_too() -> None:
    """sun hides alice behind its address in the tunnel. That a packet of hers is too big is told her, not sun."""
    need_nft()
    with two_hosts() as hosts:
        tunnel = Tunnel("gw0", 9)
        hosts.set_up(tunnel)
        alice = lan(hosts)
        with rule("postrouting", "oifname gw0 masquerade", hosts.sun, kind="nat"):
            for family in (4, 6):
                with udp(alice, hosts.moon, tunnel.address("moon", family)) as path:
                    assert path.arrives(200) and path.mtu == 1500
                    learns(path, 1446)
                    with udp(hosts.sun, hosts.moon, tunnel.address("moon", family)) as suns:
                        assert suns.mtu == 1500


@in_netns
def test_the_device_lives_in_another_namespace() -> None:
    """NS-02, NS-04: `link set netns` moves the device; states, policies, counters and ESP stay at home."""
    with two_hosts() as hosts:
        tunnel = Tunnel("ipsec0", 7)
        hosts.set_up(tunnel)
        assert len(ping(hosts.moon, tunnel.address("sun", 4), 1)) == 1
        box = hosts.lab.node("box")
        inhabitant = box.start([sys.executable, "-c", "import time; time.sleep(600)"])
        tell(hosts.moon, f"link set ipsec0 netns {inhabitant.pid}")
        assert device(hosts.moon, "ipsec0") is None
        assert device(box, "ipsec0") is not None

        # Addresses and routes are lost on the way, as with every device.
        with box:
            rtnl = Rtnl()
            assert not {pack_address("10.0.7.1"), pack_address("fd00:7::1")} & {a.address for a in rtnl.addresses()}
            rtnl.close()
        box.up("ipsec0")
        give_moon_addresses(box, tunnel)
        for family in (4, 6):
            with rises(hosts.moon), rises(hosts.sun):
                assert len(ping(box, tunnel.address("sun", family), 3)) == 3
                assert len(ping(hosts.sun, tunnel.address("moon", family), 3)) == 3
            assert tcp_transfer(box, hosts.sun, tunnel.address("sun", family), 1_000_000).intact
        assert hosts.shown() == []
        with at(hosts.moon) as client:
            assert len(list(client.states())) == 2
            assert len(list(client.policies())) == 6
            assert [link.name for link in client.links()] == ["ipsec0"], "its daemon still knows it"
            assert client.links()[0].stats == counters(hosts.moon, "ipsec0")

        # The only way out of the box is encrypted: there is no other device in it.
        tell(hosts.moon, "state flush")
        assert ping(box, tunnel.address("sun", 4), 1, timeout=0.1) == []
        assert hosts.shown() == []
        box.stop(inhabitant)


def give_moon_addresses(box: Node, tunnel: Tunnel) -> None:
    box.address("ipsec0", f"{tunnel.address('moon', 4)}/30", f"{tunnel.address('moon', 6)}/64")
