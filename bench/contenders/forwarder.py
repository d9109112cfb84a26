"""The floor: a tunnel in Python over TUN and UDP offloads that encrypts nothing (bench/forward.py)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial

from bench.cable import OUTER, Way
from bench.forward import GSO_MAX_SIZE, MTU
from tests.system.hosts import eventually
from xfrmi.lab.topology import Node

INNER = {4: ("10.3.0.1", "10.3.0.2"), 6: ("fd03::1", "fd03::2")}
DEVICE, PORT = "bare0", "4599"


def forwarder(moon: Node, sun: Node) -> Iterator[Way]:
    nodes = (moon, sun)
    command = [sys.executable, "-m", "bench.forward", DEVICE, PORT]
    programs = [
        node.start([*command, OUTER[4][end], OUTER[4][1 - end]], "forward.log") for end, node in enumerate(nodes)
    ]
    for end, node in enumerate(nodes):
        eventually(partial(hold_small, node), partial(node.last_words, "forward.log"))
        node.up(DEVICE, MTU)
        node.address(DEVICE, f"{INNER[4][end]}/30", f"{INNER[6][end]}/64")
    for family, addresses in INNER.items():
        yield Way("no crypto", family, addresses, (programs[0].pid, programs[1].pid))


def hold_small(node: Node) -> bool:
    """Super-packets of this device are no larger than what one call sends. False: it is not there yet."""
    from pyroute2 import IPRoute  # here: its import takes a quarter of a second

    with node, IPRoute() as netlink:
        found = netlink.link_lookup(ifname=DEVICE)
        if found:
            netlink.link("set", index=found[0], gso_max_size=GSO_MAX_SIZE)
        return bool(found)
