"""What the nodes of a lab have counted by now, as JSON: xfrm counters, interfaces, states with their replay windows.

Keys are not in what a daemon is asked for here. For the worker of a HeldLab.
"""

from __future__ import annotations

from typing import Any

from xfrmi.client.samples import StateView
from xfrmi.errors import XfrmError
from xfrmi.formats.words import MODES, word
from xfrmi.web.held import HeldLab, HeldNode
from xfrmi.wire.address import format_address
from xfrmi.wire.link_types import IFF_UP, LinkInfo

MAX_STATES = 64
"""Told of a node, the newest first."""
SHOWN = (
    "rx_packets", "tx_packets", "rx_errors", "tx_errors", "rx_dropped", "tx_dropped", "tx_carrier_errors",
)  # fmt: skip


def counters(lab: HeldLab) -> dict[str, Any]:
    """{node: {"error": sentence} or {"xfrm_stat", "interfaces", "states", "state_count"}}, nodes with daemons only."""
    found: dict[str, Any] = {}
    for node in lab.with_daemons():
        try:
            found[node.name] = _of(node)
        except XfrmError as error:
            node.hang_up()
            found[node.name] = {"error": error.detail or str(error)}
    return found


def _of(node: HeldNode) -> dict[str, Any]:
    assert node.client is not None
    if node.sampler is None:
        node.sampler = node.client.sampler()
    sample = node.sampler.sample()
    keys = [use.key for use in sample.uses[:MAX_STATES]]
    sample = node.sampler.with_details(sample, keys)
    states = [sample.states[key] for key in keys if key in sample.states]
    router = node.router()
    return {
        "xfrm_stat": dict(sample.stat),
        "interfaces": [_interface(link) for link in sample.links],
        "states": [_state(state, router.is_local(0, state.dst)) for state in states],
        "state_count": len(sample.uses),
    }


def _interface(link: LinkInfo) -> dict[str, Any]:
    stats = link.stats
    return {
        "name": link.name,
        "if_id": link.if_id or 0,
        "up": bool(link.flags & IFF_UP),
        "stats": {name: getattr(stats, name) for name in SHOWN} if stats is not None else {},
    }


def _state(state: StateView, incoming: bool) -> dict[str, Any]:
    return {
        "spi": state.spi,
        "dst": format_address(state.dst),
        "direction": "in" if incoming else "out",
        "if_id": state.if_id,
        "mode": word(MODES, state.mode),
        "algorithms": list(state.algorithms),
        "packets": state.packets,
        "last": state.top if incoming else state.sent,
        "late": state.late,
        "replayed": state.replayed,
        "unauthentic": state.unauthentic,
        "window": state.window if incoming else 0,
        "seen": f"{state.seen:x}" if incoming else "",
    }
