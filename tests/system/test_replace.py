"""`xfrmi daemon --replace`: another process goes on, and nobody notices."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.netns import in_netns
from tests.system.hosts import Hosts, Tunnel, at, eventually, two_hosts
from xfrmi.lab.topology import Node
from xfrmi.lab.traffic import NumberedStream, Stream

TUNNELS = (
    Tunnel("tun4", 4, outer=4),
    Tunnel("tun6", 6, outer=6),
    Tunnel("nat0", 45, outer=4, state="encap espinudp 4500 4500 0.0.0.0"),
)
PAIRS = [(tunnel, family) for tunnel in TUNNELS for family in tunnel.inner]
A_SECOND = 100
"""Datagrams of each stream."""
PAUSE = re.compile(r"packets waited ([0-9.]+) ms")


@contextmanager
def streaming(hosts: Hosts) -> Iterator[dict[str, Stream]]:
    """Numbered datagrams through every tunnel, in both families and directions. What became of them is known after the
    block."""
    accounts: dict[str, Stream] = {}
    streams = {
        f"{source.name} {tunnel.name} IPv{family}": NumberedStream(
            source, sink, tunnel.address(sink.name, family), A_SECOND
        )
        for source, sink in (hosts.ends, hosts.ends[::-1])
        for tunnel, family in PAIRS
    }
    try:
        yield accounts
    finally:
        accounts.update((name, stream.finish()) for name, stream in streams.items())


def replace(host: Node, *options: str) -> subprocess.Popen[str]:
    """Start the successor; it has taken over when this returns."""
    before = host.last_words(lines=1000).count("has handed over")
    program = host.launch_daemon("--replace", *options)
    eventually(
        lambda: host.last_words(lines=1000).count("has handed over") > before,
        lambda: f"no hand-over:\n{host.last_words(lines=30)}",
        seconds=20,
    )
    return program


def losses(accounts: dict[str, Stream]) -> dict[str, tuple[int, int]]:
    """Streams of which anything was lost or came twice: how many."""
    counts = {name: (stream.sent - len(stream.received), stream.duplicates) for name, stream in accounts.items()}
    return {name: count for name, count in counts.items() if any(count)}


def refused(hosts: Hosts) -> dict[str, int]:
    """Everything that either host has counted as an error."""
    found: dict[str, int] = {}
    for host in hosts.ends:
        with at(host) as client:
            found.update((f"{host.name} {name}", count) for name, count in client.stat().items() if count)
    return found


@in_netns
def test_nothing_is_lost() -> None:
    """Both hosts, one after the other: no packet is missing, none twice, none refused, none in the clear."""
    with two_hosts() as hosts:
        hosts.set_up(*TUNNELS)
        with streaming(hosts) as accounts:
            for host in hosts.ends:
                old = hosts.daemons[host.name]
                hosts.daemons[host.name] = replace(host)
                assert old.wait(5) == 0
        print("packets waited (ms):", *(PAUSE.findall(host.last_words(lines=1000)) for host in hosts.ends))
        assert losses(accounts) == {}
        assert min(stream.sent for stream in accounts.values()) > 50
        assert refused(hosts) == {}
        assert hosts.shown() == []
