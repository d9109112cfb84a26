"""The hosts that tests share: as new for each; what cannot be set back is the counters, which tests compare
with what they were.
"""

from __future__ import annotations

from contextlib import suppress

from tests.stage import on_stage
from tests.system.hosts import PORT, Hosts, at, tell
from xfrmi.lab.namespace import sysctl

__all__ = ["clean", "last_words", "on_stage"]


def last_words(hosts: Hosts) -> str:
    return "\n".join(f"{host.name}'s daemon said:\n{host.last_words(lines=40)}" for host in hosts.ends)


def clean(hosts: Hosts) -> None:
    """Hosts as new: no states, policies, devices or learned path MTUs, cables of 1500 bytes."""
    for host in (*hosts.ends, hosts.router):
        with host:
            sysctl("net.ipv4.route.flush", 1)
            with suppress(FileNotFoundError):  # in a user namespace; then no test may rely on it
                sysctl("net.ipv6.route.flush", 1)
    for host in hosts.ends:
        with at(host) as client:
            links = "".join(f"link del {link.name}\n" for link in client.links())
        tables = "state flush\npolicy flush\npolicy flush ptype sub\n"
        tell(host, f"{links}{tables}policy setdefault in accept fwd accept out accept\n")
        host.up("eth0", mtu=1500)
        hosts.router.up(PORT[host.name], mtu=1500)
    hosts.clear()
