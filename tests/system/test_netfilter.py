"""Netfilter in the way: what a rule does to packets of the underlay and of the xfrm device itself.

The counters and errors are those of a Linux 6.12 with its own xfrm interface, measured with the same rules: a packet
that a rule takes from the underlay is an error and aborted, and its sender hears nothing; one taken on its way into the
device has never been there, and its sender gets EPERM.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from dataclasses import asdict

import pytest

from tests.netfilter import need_nft, rule
from tests.system.hosts import Hosts, Tunnel, counters, eventually, rises, state
from tests.system.stage import on_stage
from tests.system.udp_path import Udp, udp
from xfrmi.lab.topology import Node
from xfrmi.lab.traffic import tcp_transfer

ENCAP = "encap espinudp 4500 4500 0.0.0.0"
TUNNELS = [
    (Tunnel("raw4", 14), "meta nfproto ipv4 meta l4proto esp"),
    (Tunnel("raw6", 16, outer=6), "meta nfproto ipv6 meta l4proto esp"),
    (Tunnel("udp4", 24, state=ENCAP), "meta nfproto ipv4 udp dport 4500"),
    (Tunnel("udp6", 26, outer=6, state=ENCAP), "meta nfproto ipv6 udp dport 4500"),
]
"""And what matches their outer packets."""
REFUSALS = [("output", "drop"), ("output", "reject"), ("postrouting", "drop")]
SIZE, COUNT = 200, 30


def moved(host: Node, name: str, before: dict[str, int]) -> dict[str, int]:
    return {key: value - before[key] for key, value in asdict(counters(host, name)).items() if value != before[key]}


def comes_to(host: Node, tunnel: Tunnel, before: dict[str, int], expected: dict[str, int]) -> None:
    """Exactly these counters of the device have moved, or will have in a moment."""
    eventually(
        lambda: moved(host, tunnel.name, before) == expected,
        lambda: f"{tunnel.name} on {host.name}: {moved(host, tunnel.name, before)}, not {expected}",
    )


def error_of(path: Udp) -> int:
    return path.near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def log_lines(hosts: Hosts) -> int:
    return sum(len(host.last_words(lines=10_000).splitlines()) for host in hosts.ends)


@on_stage
def test_a_rule_against_outer_packets(hosts: Hosts) -> None:
    """1.4: each inner packet is one error, aborted; the state has counted it (LT-01); no MIB counter, no ICMP, no log
    line, and the sender's socket knows nothing. With the rule gone the next packet arrives."""
    need_nft()
    hosts.set_up(*(tunnel for tunnel, _ in TUNNELS))
    for tunnel, match in TUNNELS:
        with udp(hosts.moon, hosts.sun, tunnel.address("sun", 4)) as path, rises(hosts.moon), rises(hosts.sun):
            assert path.arrives(SIZE)
            for hook, verdict in REFUSALS:
                lines = log_lines(hosts)
                before, sealed = asdict(counters(hosts.moon, tunnel.name)), state(hosts.moon, tunnel, "moon")
                with rule(hook, f"{match} {verdict}", hosts.moon):
                    for _ in range(COUNT):
                        path.send(SIZE)
                    comes_to(hosts.moon, tunnel, before, {"tx_errors": COUNT, "tx_aborted_errors": COUNT})
                    assert state(hosts.moon, tunnel, "moon").current.packets - sealed.current.packets == COUNT
                    assert error_of(path) == 0
                assert path.arrives(SIZE), "the rule is gone"
                assert log_lines(hosts) == lines
    assert hosts.shown() == []


@on_stage
def test_a_stream_stands_still_while_a_rule_is_there_and_then_goes_on(hosts: Hosts) -> None:
    """Super-packets and segmented runs included; the daemon neither spins nor dies."""
    need_nft()
    tunnels = [TUNNELS[0], TUNNELS[2]]
    hosts.set_up(*(tunnel for tunnel, _ in tunnels))
    for tunnel, match in tunnels:
        before = counters(hosts.moon, tunnel.name)
        with rule("output", f"{match} reject", hosts.moon):
            assert not tcp_transfer(hosts.moon, hosts.sun, tunnel.address("sun", 4), 100, timeout=0.3).intact
            spent = cpu_ticks(hosts.daemons["moon"].pid)
            time.sleep(0.2)
            assert cpu_ticks(hosts.daemons["moon"].pid) - spent < 10, "the daemon is busy with nothing"
        assert tcp_transfer(hosts.moon, hosts.sun, tunnel.address("sun", 4), 3_000_000).intact
        after = counters(hosts.moon, tunnel.name)
        assert after.tx_aborted_errors > before.tx_aborted_errors
        # Some had to learn the MTU first, which is an error and a loss; what the queue before the TUN loses, no error.
        assert after.tx_aborted_errors <= after.tx_errors <= after.tx_aborted_errors + after.tx_dropped
        trouble = threading.Thread(target=come_and_go, args=(hosts.moon, match))
        trouble.start()
        assert tcp_transfer(
            hosts.moon, hosts.sun, tunnel.address("sun", 4), 1_000_000, more=trouble.is_alive
        ).intact
        trouble.join()
        assert counters(hosts.moon, tunnel.name).tx_aborted_errors > after.tx_aborted_errors
    assert hosts.shown() == []


def come_and_go(host: Node, match: str) -> None:
    with rule("postrouting", f"{match} drop", host):
        time.sleep(0.1)


def cpu_ticks(pid: int) -> int:
    """utime and stime of a process, in units of 1/SC_CLK_TCK seconds (proc(5))."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 100 // os.sysconf("SC_CLK_TCK")


@on_stage
def test_TX_15_plaintext_meets_no_rule_of_the_underlying_device(hosts: Hosts) -> None:
    """Where it does in a kernel (docs/deviations.md); nor do rules for the device below see what comes out of ESP."""
    need_nft()
    tunnel, _ = TUNNELS[0]
    hosts.set_up(tunnel)
    address = tunnel.address("sun", 4)
    for hook, side, host in (("postrouting", "oifname", hosts.moon), ("prerouting", "iifname", hosts.sun)):
        with (
            udp(hosts.moon, hosts.sun, address) as path,
            rule(hook, f"{side} eth0 ip daddr {address} drop", host),
            rises(hosts.moon),
            rises(hosts.sun),
        ):
            assert path.arrives(SIZE)


@on_stage
def test_a_rule_on_the_xfrm_device(hosts: Hosts) -> None:
    """The packet never gets into the device: EPERM to its sender, as from any device, and nothing is counted."""
    need_nft()
    tunnel, _ = TUNNELS[0]
    hosts.set_up(tunnel)
    for family in (4, 6):
        with udp(hosts.moon, hosts.sun, tunnel.address("sun", family)) as path, rises(hosts.moon):
            assert path.arrives(SIZE)
            for hook, verdict in REFUSALS:
                before = asdict(counters(hosts.moon, tunnel.name))
                with rule(hook, f"oifname {tunnel.name} {verdict}", hosts.moon):
                    with pytest.raises(OSError) as refused:
                        path.send(SIZE)
                    assert refused.value.errno == errno.EPERM
                    assert error_of(path) == (errno.ECONNREFUSED if verdict == "reject" else 0)
                assert moved(hosts.moon, tunnel.name, before) == {}
                assert path.arrives(SIZE)
    assert hosts.shown() == []


@on_stage
def test_a_rule_against_what_arrives(hosts: Hosts) -> None:
    """RX-06: outer packets that a rule takes do not exist; inner ones come out of the xfrm device, as rules see it,
    have been received by it (1.4), and are lost behind it. No MIB counter knows of either, nor is there ICMP about it.
    """
    need_nft()
    hosts.set_up(*(tunnel for tunnel, _ in TUNNELS))
    for tunnel, match in TUNNELS:
        with udp(hosts.moon, hosts.sun, tunnel.address("sun", 4)) as path, rises(hosts.sun), rises(hosts.moon):
            assert path.arrives(SIZE)
            for hook in ("prerouting", "input"):
                for what, expected in (
                    (f"{match} drop", {}),
                    (f"iifname {tunnel.name} drop", {"rx_packets": 1, "rx_bytes": SIZE}),
                ):
                    before, sent = (asdict(counters(host, tunnel.name)) for host in (hosts.sun, hosts.moon))
                    with rule(hook, what, hosts.sun):
                        path.send(SIZE)
                        comes_to(hosts.moon, tunnel, sent, {"tx_packets": 1, "tx_bytes": SIZE})
                        hosts.wire()
                        comes_to(hosts.sun, tunnel, before, expected)
                    assert path.arrives(SIZE)
                    assert error_of(path) == 0
    assert hosts.shown() == []
