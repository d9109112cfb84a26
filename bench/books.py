"""Where packets went between two daemons: what was sent inside, what arrived, and every place that counts its losses.

    sender's program -> qdisc and queue of the TUN -> daemon -> wire -> sockets of the other daemon -> its engine -> TUN
    -> receiver's socket

Each place has a counter of its own, the kernel's or xfrmi's. They are read when nothing moves, and then

    sent = arrived + all that was lost, by reason

holds to the packet, or a packet has been lost that nobody counted, or counted twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.system.hosts import at
from xfrmi.lab.topology import Node

PROTOCOL_FILES = ("raw", "raw6", "udp", "udp6")


@dataclass
class Side:
    """All that one host counts, at one moment."""

    tun: Counter[str] = field(default_factory=Counter)
    """The kernel's counters of the TUNs, added up: `tx_packets` is what the daemon has read."""
    device: Counter[str] = field(default_factory=Counter)
    """xfrmi's counters of its interfaces, added up."""
    mib: Counter[str] = field(default_factory=Counter)
    """/proc/net/xfrm_stat."""
    sockets: int = 0
    """Datagrams that arrived for sockets that were full, the daemon's and everybody's."""


def side(node: Node, names: Iterable[str]) -> Side:
    with at(node) as client:
        found = Side(mib=Counter(client.stat()))
        links = {link.name: link for link in client.links()}
        found.sockets = sum(_drops(Path(f"/proc/thread-self/net/{name}")) for name in PROTOCOL_FILES)
    for name in names:
        stats = links[name].stats
        assert stats is not None
        found.device.update(asdict(stats))
        found.tun.update(kernel_counters(node, name))
    return found


def kernel_counters(node: Node, name: str) -> dict[str, int]:
    """Of the TUN, and of its qdisc what that has dropped."""
    ipr = node._netlink
    (index,) = ipr.link_lookup(ifname=name)
    (link,) = ipr.get_links(index)
    stats = link.get_attr("IFLA_STATS64")
    dropped = 0
    for qdisc in ipr.get_qdiscs(index):
        told = qdisc.get_attr("TCA_STATS2")
        queue = told.get_attr("TCA_STATS_QUEUE") if told is not None else None
        dropped += queue["drops"] if queue else 0
    wanted = ("rx_packets", "rx_dropped", "rx_errors", "tx_packets", "tx_dropped", "tx_errors")
    return {**{key: stats[key] for key in wanted}, "qdisc": dropped}


def _drops(path: Path) -> int:
    """The last column of all lines."""
    return sum(int(line.split()[-1]) for line in path.read_text().splitlines()[1:])
