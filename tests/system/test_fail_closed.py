"""Fail closed: whatever becomes of the daemon, what is routed into an xfrm device does not leave in the clear.

And what becomes of it: killed, stopped, stopped with --remove-on-exit, started twice, started again.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.iproute import ip
from tests.netns import in_netns
from tests.system.background import sending
from tests.system.hosts import (
    Hosts,
    Tunnel,
    at,
    counters,
    device,
    eventually,
    strangers,
    tell,
    two_hosts,
)
from xfrmi.dev.rtnl import Rtnl
from xfrmi.lab.namespace import sysctl
from xfrmi.lab.topology import Node
from xfrmi.lab.traffic import family_of, filler, ping
from xfrmi.wire.address import pack_address
from xfrmi.wire.link_types import IFF_LOWER_UP, IFF_UP

TUNNELS = (
    Tunnel("tun4", 4, outer=4),
    Tunnel("tun6", 6, outer=6),
    Tunnel("beet46", 46, outer=6, mode="beet", inner=(4,)),
    Tunnel("nat0", 45, outer=4, state="encap espinudp 4500 4500 0.0.0.0"),
)
PAIRS = [(tunnel, family) for tunnel in TUNNELS for family in tunnel.inner]
"""Every pair of an inner and an outer family, and more than one way of each."""


@contextmanager
def load(hosts: Hosts, size: int = 900, pause: float = 0.005) -> Iterator[None]:
    """Datagrams both ways through every tunnel in every family, so many seconds apart, whatever errors come back."""
    senders: list[socket.socket] = []
    for source, sink in (hosts.ends, hosts.ends[::-1]):
        for tunnel, family in PAIRS:
            address = tunnel.address(sink.name, family)
            with source:
                sender = socket.socket(family_of(address), socket.SOCK_DGRAM)
            sender.setblocking(False)
            sender.connect((address, 7))
            senders.append(sender)
    with sending(senders, filler(size), pause):
        yield


def kill(daemon: subprocess.Popen[str]) -> None:
    os.kill(daemon.pid, signal.SIGKILL)
    daemon.wait()


def routed(host: Node, address: str) -> int:
    """The ifindex of the device that the kernel would send a packet to `address` by."""
    with host:
        rtnl = Rtnl()
    with contextlib.closing(rtnl):
        return rtnl.route(pack_address(address)).ifindex


def answered(hosts: Hosts) -> int:
    """Of one echo through each tunnel in each family and direction, how many come back."""
    return sum(
        len(ping(source, tunnel.address(sink.name, family), 1, timeout=0.5))
        for source, sink in (hosts.ends, hosts.ends[::-1])
        for tunnel, family in PAIRS
    )


ALL = 2 * len(PAIRS)


def carries(hosts: Hosts, seconds: float = 20) -> None:
    """Wait until each of them does."""
    eventually(lambda: answered(hosts) == ALL, lambda: f"{answered(hosts)} of {ALL} are answered", seconds)


@in_netns
def test_killed_under_load() -> None:
    """SIGKILL at a random moment, twice: no plaintext outside, ever; the next daemon takes the devices over."""
    with two_hosts() as hosts:
        hosts.set_up(*TUNNELS)
        tell(hosts.moon, "link set tun4 mtu 1400")
        carries(hosts, seconds=5)
        moment = random.Random()
        with load(hosts):
            for _ in range(2):
                time.sleep(moment.uniform(0.1, 0.4))
                kill(hosts.daemons["moon"])
                time.sleep(0.2)
                for tunnel, family in PAIRS:
                    link = device(hosts.moon, tunnel.name)
                    assert link is not None, "the device stays"
                    assert link.flags & IFF_UP
                    assert not link.flags & IFF_LOWER_UP, "without carrier"
                    assert routed(hosts.moon, tunnel.address("sun", family)) == link.ifindex, "so do its routes"
                hosts.daemons["moon"] = hosts.moon.start_daemon()
                words = hosts.moon.last_words(lines=20)
                for tunnel in TUNNELS:
                    assert f"interface {tunnel.name} (if_id {tunnel.if_id:#x}) taken over" in words
                with at(hosts.moon) as client:
                    links = {link.name: link for link in client.links()}
                    assert list(client.states()) == [], "keys die with their daemon"
                assert {name: link.if_id for name, link in links.items()} == {t.name: t.if_id for t in TUNNELS}
                assert links["tun4"].mtu == 1400
                time.sleep(0.1)  # load without a state
                key_again(hosts)
        carries(hosts, seconds=5)
        assert hosts.shown() == []
        # Else there is UDP 4500, and sun being told by ICMP that nobody takes ESP on moon (RAW-01, RAW-02).
        others = {*strangers(hosts.wire("moon")), *strangers(hosts.wire("sun"))}
        assert others <= {"IPv4 protocol 17", "IPv4 protocol 1", "IPv6 protocol 58"}
        assert len(hosts.esp()) > 100


def key_again(hosts: Hosts) -> None:
    """New states on both sides, policies on moon: a key manager would negotiate, and never use a key twice."""
    tell(hosts.sun, "state flush")
    for tunnel in TUNNELS:
        fresh = tunnel.rekeyed()
        tell(hosts.sun, fresh.key_lines())
        tell(hosts.moon, fresh.lines("moon").replace(fresh.link_lines(), ""))


@in_netns
def test_stopped() -> None:
    """SIGTERM: exit status 0, no socket left, the devices stay, shut; SIGINT the same."""
    with two_hosts() as hosts:
        hosts.set_up(*TUNNELS)
        for number in (signal.SIGTERM, signal.SIGINT):
            daemon = hosts.daemons["moon"]
            with load(hosts):
                time.sleep(0.1)
                daemon.send_signal(number)
                assert daemon.wait(5) == 0
                time.sleep(0.1)
            left = {path.name for path in hosts.moon.folder.glob("*/*")}
            assert left == {"states"}, "nothing but which states there were, for the next daemon to tell"
            for tunnel in TUNNELS:
                link = device(hosts.moon, tunnel.name)
                assert link is not None
                assert not link.flags & IFF_LOWER_UP
            hosts.daemons["moon"] = hosts.moon.start_daemon()
        assert hosts.shown() == []


@in_netns
def test_stopped_for_good() -> None:
    """--remove-on-exit: a clean stop takes the devices along; a kill cannot."""
    with two_hosts(daemons=False) as hosts:
        for number, stays in ((signal.SIGTERM, False), (signal.SIGKILL, True)):
            daemon = hosts.moon.start_daemon("--remove-on-exit")
            tell(hosts.moon, Tunnel("ipsec0", 1).link_lines())
            daemon.send_signal(number)
            daemon.wait(5)
            assert (device(hosts.moon, "ipsec0") is not None) == stays


@in_netns
def test_one_daemon_for_a_namespace() -> None:
    """The second one says who is there, in one sentence, and the first goes on; a killed one is not in the way."""
    with two_hosts(daemons=False) as hosts:
        first = hosts.moon.start_daemon()
        tell(hosts.moon, Tunnel("ipsec0", 1).link_lines())
        second = hosts.moon.xfrmi("daemon")
        assert second.returncode == 1
        assert second.stderr == f"xfrmi: an xfrmi daemon (pid {first.pid}) serves this network namespace already\n"
        with at(hosts.moon) as client:
            assert client.status()["pid"] == first.pid
            assert [link.name for link in client.links()] == ["ipsec0"]
        link = device(hosts.moon, "ipsec0")
        assert link is not None
        assert link.flags & IFF_LOWER_UP

        kill(first)
        sockets = {path.name for path in hosts.moon.folder.glob("*/*")}
        assert sockets == {"xfrm", "route", "json", "lock", "states"}, "left behind"
        listing = hosts.moon.xfrmi("state", "list")
        assert (listing.returncode, listing.stdout) == (2, "")
        assert listing.stderr == (
            'xfrmi: no xfrmi daemon serves this network namespace; start one there with "xfrmi daemon"\n'
        )
        third = hosts.moon.start_daemon()
        with at(hosts.moon) as client:
            assert client.status()["pid"] == third.pid


@in_netns
def test_without_state_or_policy() -> None:
    """T-02, T-03, TX-16: nothing is let through while there is no state, nor when there is no policy at all."""
    with two_hosts() as hosts:
        hosts.set_up(*TUNNELS)
        with load(hosts):
            for lines in ("state flush", "policy flush"):
                tell(hosts.moon, lines)
                time.sleep(0.1)
        assert hosts.shown() == []
        before = counters(hosts.moon, "tun4")
        assert ping(hosts.moon, TUNNELS[0].address("sun", 4), 2, timeout=0.1) == []
        eventually(
            lambda: counters(hosts.moon, "tun4").tx_carrier_errors >= before.tx_carrier_errors + 2, "not refused"
        )


@in_netns
def test_a_device_that_goes_takes_its_routes_along() -> None:
    """Down or deleted, the kernel forgets the routes into a device: the default route would be next, in the clear.

    That is so with every device. What is to be safe from it gets a blackhole route of a higher metric, as here.
    """
    with two_hosts() as hosts:
        hosts.set_up(*TUNNELS)
        with hosts.moon:
            for prefix in ("10.0.0.0/8", "fd00::/8"):
                ip(f"route add blackhole {prefix} metric 4294967295")
        names = [tunnel.name for tunnel in TUNNELS]
        with load(hosts):
            tell(hosts.moon, "".join(f"link set {name} down\n" for name in names[:2]))
            tell(hosts.moon, "".join(f"link del {name}\n" for name in names[2:]))
            time.sleep(0.1)
        assert hosts.shown() == []


@in_netns
def test_where_new_devices_ignore_routes_without_carrier() -> None:
    """ignore_routes_with_linkdown, on routers often on: the way past a device without carrier would be in the clear."""
    with two_hosts() as hosts:
        with hosts.moon:
            for family in ("ipv4", "ipv6"):
                sysctl(f"net.{family}.conf.default.ignore_routes_with_linkdown", 1)
        hosts.set_up(*TUNNELS)
        with load(hosts):
            time.sleep(0.1)
            kill(hosts.daemons["moon"])
            time.sleep(1.2)  # the kernel looks for links that went down once a second
        for tunnel, family in PAIRS:
            link = device(hosts.moon, tunnel.name)
            assert link is not None
            assert routed(hosts.moon, tunnel.address("sun", family)) == link.ifindex
        assert hosts.shown() == []


@in_netns
def test_where_all_devices_do_the_daemon_says_so() -> None:
    """What is set for all IPv4 devices cannot be switched off for one."""
    with two_hosts(daemons=False) as hosts:
        with hosts.moon:
            sysctl("net.ipv4.conf.all.ignore_routes_with_linkdown", 1)
        hosts.moon.start_daemon()
        tell(hosts.moon, TUNNELS[0].link_lines())
        assert (
            "interface tun4 (if_id 0x4): without a daemon, routes into it will be passed over: "
            "net.ipv4.conf.all.ignore_routes_with_linkdown is on, and stronger"
        ) in hosts.moon.last_words()
