"""Tables of engines that have carried packets, and what went out of them."""

from __future__ import annotations

from dataclasses import replace

from tests.core.pair import NOW, Host, Pair, wire
from xfrmi.client.packets import Record
from xfrmi.core.engine import Engine
from xfrmi.core.interface import Interface
from xfrmi.teach import Tables
from xfrmi.wire.link_types import LinkInfo


def tables_of(engine: Engine, live: bool = False) -> Tables:
    """As a daemon's dumps would say them now."""
    return Tables(
        tuple(state.snapshot() for state in reversed(engine.sad.dump())),
        tuple(replace(policy.snapshot(), index=0) for policy in reversed(engine.spd.dump())),
        tuple(LinkInfo(one.name, one.ifindex, one.if_id, one.link, mtu=one.mtu) for one in engine.interfaces),
        "the test",
        live,
    )


def sent(host: Host, interface: Interface, packet: bytes) -> Record:
    """Send one packet, and record it as a daemon would."""
    (outer,) = wire(host.engine.output(interface, [packet], NOW)[0])
    return Record(NOW, interface.name, "out", packet, outer)


def sent_by(pair: Pair, packet: bytes) -> Record:
    return sent(pair.left, pair.xfrm_left, packet)
