"""Policies without if_id: classic IPsec, by the selectors of policies alone, on the host's own devices and routes.

What such policies catch never shows on a cable, and what they do not is none of their business.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import pytest

from tests.iproute import ip
from tests.stage import Stage
from tests.system.background import sending
from tests.system.hosts import (
    ANY,
    FULL,
    OUTER,
    PEER,
    ROUTER,
    Hosts,
    at,
    device,
    eventually,
    plaintext,
    rises,
    stat,
    strangers,
    tell,
    two_hosts,
)
from tests.system.monitor import Monitor
from tests.system.stage import clean, last_words, on_stage
from xfrmi.client.packets import Record
from xfrmi.dev.router import KernelRouter
from xfrmi.dev.rtnl import Rtnl
from xfrmi.dev.traffic_control import TrafficControl
from xfrmi.errors import XfrmError
from xfrmi.lab.namespace import sysctl
from xfrmi.lab.topology import Node
from xfrmi.lab.traffic import family_of, ping, tcp_transfer
from xfrmi.lab.wiretap import kind, spi_and_sequence
from xfrmi.teach import Tables
from xfrmi.teach.one_packet import explain_record
from xfrmi.wire.link_types import POLICY_BASED

NET = {("moon", 4): "10.1.0.0/16", ("sun", 4): "10.2.0.0/16", ("moon", 6): "fd01::/32", ("sun", 6): "fd02::/32"}
LAN = {("moon", 4): "10.1.0.5", ("sun", 4): "10.2.0.5", ("moon", 6): "fd01::5", ("sun", 6): "fd02::5"}
INNER = {("moon", 4): "10.1.0.1", ("sun", 4): "10.2.0.1", ("moon", 6): "fd01::1", ("sun", 6): "fd02::1"}


@dataclass(frozen=True)
class Pair:
    """Two states, one for each direction, and what policies say of them."""

    inner: int = 4
    outer: int = 4
    mode: str = "tunnel"
    reqid: int = 7
    keys: dict[str, str] = field(default_factory=lambda: {name: secrets.token_hex(20) for name in PEER})

    def ends(self, sender: str, table: dict[tuple[str, int], str], family: int, suffix: str = "") -> str:
        return f"src {table[sender, family]}{suffix} dst {table[PEER[sender], family]}{suffix}"

    def states(self) -> str:
        lines = ""
        for number, sender in enumerate(PEER, 1):
            flag = "flag af-unspec" if self.mode == "tunnel" else ""
            if self.mode == "beet":
                flag = f"sel {self.ends(sender, INNER, self.inner, f'/{FULL[self.inner]}')}"
            lines += (
                f"state add {self.ends(sender, OUTER, self.outer)} proto esp spi {self.reqid * 16 + number:#x} "
                f"reqid {self.reqid} mode {self.mode} replay-window 128 "
                f"aead rfc4106(gcm(aes)) 0x{self.keys[sender]} 128 {flag}\n"
            )
        return lines

    def template(self, sender: str) -> str:
        return f"tmpl {self.ends(sender, OUTER, self.outer)} proto esp reqid {self.reqid} mode {self.mode}"

    def policies(self, host: str, more: str = "") -> str:
        """`more` goes into all selectors."""
        table, suffix = (NET, "") if self.mode == "tunnel" else (INNER, f"/{FULL[self.inner]}")
        if self.mode == "transport":
            table = OUTER
        lines = ""
        for direction in ("out", "in", "fwd"):
            sender = host if direction == "out" else PEER[host]
            selector = self.ends(sender, table, self.inner, suffix)
            lines += f"policy add {selector} {more} dir {direction} {self.template(sender)}\n"
        return lines

    def target(self, host: str) -> str:
        return (OUTER if self.mode == "transport" else INNER)[host, self.inner]


@dataclass
class Networks(Hosts):
    """Also a host in the network behind each gateway."""

    inside: dict[str, Node] = field(default_factory=dict)


@contextmanager
def two_networks() -> Iterator[Networks]:
    """Networks behind each host, and the way to the other's by the default route, from an address inside."""
    with two_hosts("--workers=1") as hosts:
        inside = {}
        for host in hosts.ends:
            node = inside[host.name] = hosts.lab.node(f"in {host.name}")
            gateway = {4: INNER[host.name, 4], 6: INNER[host.name, 6]}
            lengths = {4: 16, 6: 32}
            behind = [f"{LAN[host.name, family]}/{lengths[family]}" for family in (4, 6)]
            hosts.lab.link(host, "lan0", [f"{gateway[f]}/{lengths[f]}" for f in (4, 6)], node, "eth0", behind)
            host.forward()
            node.route("0.0.0.0/0", via=gateway[4])
            node.route("::/0", via=gateway[6])
            for family in (4, 6):
                other = NET[PEER[host.name], family]
                with host:
                    ip(f"route add {other} via {ROUTER[host.name, family]} src {gateway[family]}")
        # What leaves in the clear is to arrive there, too, or there would be nothing to see.
        with hosts.router:
            for host in hosts.ends:
                for family in (4, 6):
                    ip(f"route add {NET[host.name, family]} via {OUTER[host.name, family]}")
        yield Networks(hosts.lab, hosts.moon, hosts.sun, hosts.router, hosts.taps, hosts.daemons, inside)


@pytest.fixture(scope="module")
def networks() -> Iterator[Stage[Networks]]:
    with Stage(two_networks, clean, last_words) as stage:
        yield stage


def protect(hosts: Hosts, pair: Pair, more: str = "") -> None:
    for host in hosts.ends:
        tell(host, pair.states() + pair.policies(host.name, more))


def only_esp(hosts: Hosts) -> bool:
    """Nothing else was on the cables, and something was."""
    frames = hosts.wire()
    assert (strangers(frames), plaintext(frames)) == ({}, [])  # here, to be told what it was
    return bool(hosts.esp())


def udp_echo(source: Node, sink: Node, address: str, port: int, payload: bytes = b"hello", sport: int = 0) -> bool:
    """Does a datagram to this port arrive, and its answer?"""
    family = family_of(address)
    with sink, socket.socket(family, socket.SOCK_DGRAM) as server:
        server.bind((address, port))
        server.settimeout(0.4)
        with source:
            client = socket.socket(family, socket.SOCK_DGRAM)
        with client:
            client.settimeout(0.4)
            if sport:
                client.bind(("", sport))
            try:
                client.connect((address, port))
                client.send(payload)
                data, sender = server.recvfrom(65535)
                server.sendto(data, sender)
                return client.recv(65535) == payload
            except OSError:
                return False


MODES = [
    Pair(4, 4), Pair(6, 4), Pair(4, 6), Pair(6, 6), Pair(4, 4, "transport"), Pair(6, 6, "transport"),
    Pair(4, 4, "beet"), Pair(6, 6, "beet"),
]  # fmt: skip


@pytest.mark.parametrize("pair", MODES, ids=lambda pair: f"{pair.mode}-{pair.inner}-in-{pair.outer}")
@on_stage
def test_modes(networks: Networks, pair: Pair) -> None:
    protect(networks, pair)
    networks.clear()
    moon, sun = networks.ends
    with rises(moon), rises(sun):
        assert len(ping(moon, pair.target("sun"), 3)) == 3
        assert len(ping(sun, pair.target("moon"), 3, size=1200)) == 3
        done = tcp_transfer(moon, sun, pair.target("sun"), 1 << 20)
        assert done.sent_hash == done.received_hash and not done.error
    assert only_esp(networks)


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("inner", [4, 6])
@on_stage
def test_between_networks(networks: Networks, inner: int, outer: int) -> None:
    """Forwarded, both ways; also what is too large for the tunnel, of which the sender hears."""
    protect(networks, Pair(inner, outer))
    networks.clear()
    left, right = networks.inside["moon"], networks.inside["sun"]
    there, back = LAN["sun", inner], LAN["moon", inner]
    with rises(networks.moon), rises(networks.sun):
        assert len(ping(left, there, 2)) == 2
        assert len(ping(right, back, 2)) == 2
        done = tcp_transfer(left, right, there, 1 << 20)
        assert done.sent_hash == done.received_hash and not done.error
    assert only_esp(networks)


@on_stage
def test_selectors_with_protocol_and_port(networks: Networks) -> None:
    """Only what the policy names is protected; all else leaves as ever."""
    pair = Pair()
    moon, sun = networks.ends
    for host in networks.ends:
        near, far = ("sport", "dport") if host is sun else ("dport", "sport")
        lines = pair.states()
        for direction in ("out", "in"):
            sender = host.name if direction == "out" else PEER[host.name]
            port = near if direction == "out" else far
            selector = f"{pair.ends(sender, NET, 4)} proto udp {port} 7000"
            lines += f"policy add {selector} dir {direction} {pair.template(sender)}\n"
        tell(host, lines)
    networks.clear()
    assert udp_echo(moon, sun, INNER["sun", 4], 7000)
    assert only_esp(networks)
    networks.clear()
    assert udp_echo(moon, sun, INNER["sun", 4], 7001)
    assert len(ping(moon, INNER["sun", 4], 1)) == 1
    assert networks.esp() == [] and len(strangers(networks.wire())) == 2
    networks.clear()
    # Its fragments show no port. They do not leave in the clear.
    udp_echo(moon, sun, INNER["sun", 4], 7000, bytes(4000))
    assert plaintext(networks.wire()) == []


@on_stage
def test_priorities(networks: Networks) -> None:
    """Block, let through, and two tunnels: the policy of the best priority decides, of equal ones the oldest."""
    wide, narrow = Pair(reqid=7), Pair(reqid=8)
    moon, sun = networks.ends
    for host in networks.ends:
        tell(host, wide.states() + narrow.states() + wide.policies(host.name, "priority 100"))
    host_of_sun = f"{INNER['sun', 4]}/32"
    to_host = f"src {NET['moon', 4]} dst {host_of_sun} dir out"
    from_host = f"src {host_of_sun} dst {NET['moon', 4]}"
    assert spis_used(networks) == {0x71, 0x72}
    tell(moon, f"policy add {to_host} priority 50 {narrow.template('moon')}")
    tell(sun, f"policy add src {NET['moon', 4]} dst {host_of_sun} dir in priority 50 {narrow.template('moon')}")
    assert spis_used(networks) == {0x81, 0x72}
    tell(moon, f"policy add src {INNER['moon', 4]}/32 dst {host_of_sun} dir out priority 40 action block")
    networks.clear()
    with rises(moon, XfrmOutPolBlock=1):
        assert refused(moon, INNER["sun", 4])
    assert networks.wire() == [] or strangers(networks.wire()) == {}
    tell(moon, f"policy add proto icmp {to_host} priority 30\npolicy add proto icmp {from_host} dir in priority 30")
    tell(sun, f"policy add proto icmp src {NET['moon', 4]} dst {host_of_sun} dir in priority 30")
    tell(sun, f"policy add proto icmp {from_host} dir out priority 30")
    networks.clear()
    assert len(ping(moon, INNER["sun", 4], 1)) == 1
    assert networks.esp() == [] and plaintext(networks.wire())


def spis_used(networks: Networks) -> set[int]:
    networks.clear()
    assert len(ping(networks.moon, INNER["sun", 4], 1)) == 1
    frames = networks.esp()
    assert only_esp(networks)
    return {spi_and_sequence(frame)[0] for frame in frames}


def refused(host: Node, address: str) -> bool:
    """Does a sender hear at once that it may not?"""
    with host, socket.socket(family_of(address), socket.SOCK_DGRAM) as sender:
        sender.connect((address, 9))
        sender.send(b"?")
        sender.settimeout(1)
        try:
            sender.recv(1)
        except TimeoutError:
            return False
        except OSError as error:
            return error.errno in (errno.EHOSTUNREACH, errno.EACCES, errno.ENETUNREACH)
    return False


@on_stage
def test_block_ipv6(networks: Networks) -> None:
    tell(networks.moon, f"policy add src ::/0 dst {NET['sun', 6]} dir out action block")
    networks.clear()
    with rises(networks.moon, XfrmOutPolBlock=1):
        assert refused(networks.moon, INNER["sun", 6])
    assert plaintext(networks.wire()) == []
    with rises(networks.moon, XfrmOutPolBlock=1):
        assert ping(networks.inside["moon"], LAN["sun", 6], 1, timeout=0.3) == []
    assert plaintext(networks.wire()) == []


@pytest.mark.parametrize("family", [4, 6])
@on_stage
def test_what_comes_in_the_clear(networks: Networks, family: int) -> None:
    """Where a policy wants states, plain packets are dropped and counted, delivered or forwarded; else they are not."""
    moon, sun = networks.ends
    pair = Pair(family, family)
    tell(moon, pair.states() + pair.policies("moon"))
    with rises(moon, XfrmInTmplMismatch=1):
        send_plain(sun, INNER["moon", family])
    with rises(moon, XfrmInTmplMismatch=1):
        send_plain(networks.inside["sun"], LAN["moon", family])
    with rises(moon):
        assert len(ping(sun, OUTER["moon", family], 1)) == 1
    tell(moon, f"policy add {pair.ends('sun', NET, family)} proto udp dir in action block")
    tell(moon, f"policy update {pair.ends('sun', NET, family)} dir in priority 5 {pair.template('sun')}")
    with rises(moon, XfrmInPolBlock=1):
        send_plain(sun, INNER["moon", family])


def send_plain(host: Node, address: str) -> None:
    with host, socket.socket(family_of(address), socket.SOCK_DGRAM) as sender:
        sender.sendto(b"plain", (address, 9))


@on_stage
def test_they_are_seen(networks: Networks) -> None:
    """`trace xfrmi-policy`: out, in, refused and let in; each explained as it happened."""
    moon, sun = networks.ends
    protect(networks, Pair())
    with at(moon) as client:
        packets = client.packets(POLICY_BASED)
        ping(moon, INNER["sun", 4], 1)
        tell(sun, "policy flush")
        send_plain(sun, INNER["moon", 4])
        tell(moon, f"policy add src {OUTER['moon', 4]} dst {NET['sun', 4]} dir out priority 3 action block")
        with suppress(OSError), moon, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind((OUTER["moon", 4], 0))
            sender.sendto(b"plain", (INNER["sun", 4], 9))
        seen = [record for record, _ in zip(packets, range(4), strict=False) if isinstance(record, Record)]
        packets.close()
        tables, router = Tables.of(client), KernelRouter()
    assert [(one.direction, one.counter) for one in seen] == [
        ("out", ""), ("in", ""), ("in", "XfrmInTmplMismatch"), ("out", "XfrmOutPolBlock"),
    ], [bytes(one.inner).hex() for one in seen]  # fmt: skip
    assert [bool(one.outer) for one in seen] == [True, True, False, False]
    with moon:
        found = [explain_record(record, tables, router) for record in seen]
    router.close()
    assert [one.counter for one in found] == [one.counter for one in seen]
    assert found[0].sent == (seen[0].outer,) and found[1].delivered == (seen[1].inner,)


@on_stage
def test_without_a_state_nothing_leaves_and_one_is_asked_for(networks: Networks) -> None:
    moon = networks.moon
    tell(moon, Pair().policies("moon"))
    networks.clear()
    with Monitor(moon) as monitor:
        with rises(moon, XfrmOutNoStates=1):
            send_plain(moon, INNER["sun", 4])
        monitor.expect("acquire proto esp", f"sel src {INNER['moon', 4]}/32 dst {INNER['sun', 4]}/32 proto udp")
    assert plaintext(networks.wire()) == []


@on_stage
def test_everything(networks: Networks) -> None:
    """A policy for all addresses: ESP, IKE and neighbour discovery pass, or nothing would go at all."""
    moon, sun = networks.ends
    for family in (4, 6):
        pair = Pair(family, family, reqid=family)
        for host in networks.ends:
            lines = pair.states()
            for direction in ("out", "in", "fwd"):
                sender = host.name if direction == "out" else PEER[host.name]
                lines += f"policy add src {ANY[family]} dst {ANY[family]} dir {direction} {pair.template(sender)}\n"
            tell(host, lines)
    networks.clear()
    for family in (4, 6):
        assert len(ping(moon, INNER["sun", family], 1)) == 1
        assert udp_echo(moon, sun, OUTER["sun", family], 500, sport=500)
        assert udp_echo(moon, sun, OUTER["sun", family], 4500, sport=4500)
    frames = [frame for frame in networks.wire() if kind(frame) not in ("ESP", "neighbour")]
    assert len(frames) == 8 and all(udp_ports(frame) in ((500, 500), (4500, 4500)) for frame in frames)


def udp_ports(frame: bytes) -> tuple[int, int]:
    at = 14 + (20 if frame[12:14] == b"\x08\x00" else 40)
    return int.from_bytes(frame[at : at + 2]), int.from_bytes(frame[at + 2 : at + 4])


@pytest.mark.parametrize("family", [4, 6])
@on_stage
def test_sizes(networks: Networks, family: int) -> None:
    """Datagrams of any size, also such as have to be fragmented before or after."""
    protect(networks, Pair(family, 4))
    networks.clear()
    for size in (1, 1372, 1400, 1472, 1473, 4000, 20000):
        # The first that is too large for the tunnel tells its sender so, there and on the way back.
        tries = (udp_echo(networks.moon, networks.sun, INNER["sun", family], 7000, bytes(size)) for _ in range(3))
        assert any(tries), size
    assert plaintext(networks.wire()) == []


@on_stage
def test_deleted_under_traffic(networks: Networks) -> None:
    """As long as there is a policy nothing leaves in the clear, whatever becomes of its states; without, all does."""
    pair = Pair()
    moon = networks.moon
    protect(networks, pair)
    networks.clear()
    with moon:
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect((INNER["sun", 4], 9))
    with sending([sender], b"x" * 200, 0.001):
        eventually(networks.esp, "no ESP")
        for _ in range(10):
            tell(moon, "state flush")
            tell(moon, pair.states())
            tell(moon, f"policy update {pair.ends('moon', NET, 4)} dir out priority 7 {pair.template('moon')}")
            tell(moon, f"policy update {pair.ends('moon', NET, 4)} dir out priority 0 {pair.template('moon')}")
        assert plaintext(networks.wire()) == []
        tell(moon, f"policy del {pair.ends('moon', NET, 4)} dir out")
        eventually(lambda: plaintext(networks.wire()), "still nothing in the clear")


@on_stage
def test_devices_come_and_go(networks: Networks) -> None:
    """One that is made later is watched like the others; also addresses given later count."""
    moon = networks.moon
    protect(networks, Pair(reqid=9))
    third = networks.lab.node("third")
    networks.lab.link(moon, "eth5", ["172.16.5.1/24"], third, "eth0", ["172.16.5.2/24"])
    eventually(lambda: filtered(moon, "eth5"), "the new device has no filter")
    with moon:
        ip("link del eth5")
    assert len(ping(moon, INNER["sun", 4], 1)) == 1
    with moon:
        ip("link del xfrmi-policy")
    eventually(lambda: ping(moon, INNER["sun", 4], 1, timeout=0.2), "no way after the TUN was deleted")
    assert only_esp(networks)


@on_stage
def test_the_way_back_does_not_matter(networks: Networks) -> None:
    """A kernel's reverse-path filter leaves alone what was IPsec. Packets come out of another device than they would
    go back by, also where that has to be the same; and if nothing is filtered, out of one where no way back is."""
    protect(networks, Pair())
    moon, sun = networks.ends
    way, no_way = f"{NET['moon', 4]} via {ROUTER['sun', 4]} src {INNER['sun', 4]}", f"blackhole {INNER['moon', 4]}/32"
    with sun:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server:
        server.bind((INNER["sun", 4], 9))
        server.settimeout(0.2)

        def arrives() -> bool:
            send_plain(moon, INNER["sun", 4])
            with contextlib.suppress(TimeoutError):
                return server.recv(100) == b"plain"
            return False

        with sun:
            sysctl("net.ipv4.conf.all.rp_filter", 1)
        try:
            eventually(arrives, "strict")
            with sun:
                sysctl("net.ipv4.conf.all.rp_filter", 0)
                ip(f"route del {way}")
                ip(f"route add {no_way}")
            eventually(arrives, "off, and no way back")
        finally:
            with sun:
                sysctl("net.ipv4.conf.all.rp_filter", 0)
                ip(f"route del {no_way}")
                ip(f"route add {way}")


def filtered(host: Node, name: str) -> bool:
    with host:
        rtnl = Rtnl()
    with contextlib.closing(rtnl):
        link = rtnl.link(name)
        assert link is not None
        return link.ifindex in TrafficControl(rtnl).hooked()


@on_stage
def test_nothing_is_left_without_such_policies(networks: Networks) -> None:
    protect(networks, Pair())
    moon = networks.moon
    assert device(moon, "xfrmi-policy") and filtered(moon, "eth0") and filtered(moon, "lan0")
    tell(moon, "policy flush")
    assert not device(moon, "xfrmi-policy") and not filtered(moon, "eth0") and not filtered(moon, "lan0")
    tell(moon, "policy add src 0.0.0.0/0 dst 0.0.0.0/0 dir out")  # lets through: nothing to do
    assert not filtered(moon, "eth0")


@on_stage
def test_defaults(networks: Networks) -> None:
    """Without a policy: block. What a policy lets through passes."""
    moon, sun = networks.ends
    networks.clear()
    tell(moon, f"policy add src {ANY[4]} dst {ANY[4]} proto icmp dir out\npolicy setdefault out block")
    assert len(ping(moon, INNER["sun", 4], 1)) == 1
    networks.clear()
    send_plain(moon, INNER["sun", 4])
    assert plaintext(networks.wire()) == []
    tell(moon, "policy setdefault out accept in block")
    before = stat(moon)["XfrmInNoPols"]  # others' packets come in, too
    send_plain(sun, INNER["moon", 4])
    eventually(lambda: stat(moon)["XfrmInNoPols"] > before, "what came in has not been counted")


@on_stage
def test_what_cannot_be_done_is_refused(networks: Networks) -> None:
    pair = Pair()
    with pytest.raises(XfrmError, match="mark") as refusal:
        tell(networks.moon, f"policy add {pair.ends('moon', NET, 4)} mark 5 dir out {pair.template('moon')}")
    assert refusal.value.errno == errno.EOPNOTSUPP
    with at(networks.moon) as client:
        assert not list(client.policies())


@on_stage
def test_killed(networks: Networks) -> None:
    """Nothing in the clear while there is no daemon, nor when the next one knows of no policies yet."""
    pair = Pair(6, 4)
    moon = networks.moon
    protect(networks, pair)
    networks.clear()
    with moon:
        sender = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sender.setblocking(False)
    sender.connect((INNER["sun", 6], 9))
    with sending([sender], b"x" * 200, 0.001):
        eventually(networks.esp, "no ESP")
        daemon = networks.daemons["moon"]
        os.kill(daemon.pid, signal.SIGKILL)
        daemon.wait()
        time.sleep(0.1)
        networks.daemons["moon"] = moon.start_daemon("--workers=1")
        time.sleep(0.1)
        assert plaintext(networks.wire()) == []
        tell(moon, pair.states() + pair.policies("moon"))
        networks.clear()
        eventually(networks.esp, "no ESP again")
        assert plaintext(networks.wire()) == []
    moon.stop(networks.daemons["moon"])
    assert not device(moon, "xfrmi-policy") and not filtered(moon, "eth0")
    networks.daemons["moon"] = moon.start_daemon("--workers=1")
