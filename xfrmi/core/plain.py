"""Packets that came in the clear where a policy may want states: those of a host's devices, for policies without if_id.

A kernel asks its policies about every packet it delivers or forwards. Here a filter on each device has seen that one of
them might refuse (dev/policy_filter.py), and only such packets get here, to be judged and counted in full.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from xfrmi.core.dropped import tell
from xfrmi.core.policy_check import check_input, is_icmp, quoted_flow
from xfrmi.core.router import LOOPBACK_IFINDEX
from xfrmi.errors import Drop
from xfrmi.wire.flow import flow_of
from xfrmi.wire.vnet import SuperPacket
from xfrmi.wire.xfrm_const import Dir

if TYPE_CHECKING:
    from xfrmi.core.engine import Engine
    from xfrmi.wire.vnet import Packet


def admit(engine: Engine, packets: Sequence[Packet], now: float) -> list[Packet]:
    """Those that policies without if_id let in as they are. The others are counted."""
    return [packet for packet in packets if _may_enter(engine, packet, now)]


def _may_enter(engine: Engine, packet: Packet, now: float) -> bool:
    whole = packet.data if isinstance(packet, SuperPacket) else packet
    try:
        flow = flow_of(whole)
    except ValueError as error:  # IP's to refuse
        tell(engine, None, str(error), whole, engine.interfaces.policy_based)
        return False
    local = engine.router.is_local(0, flow.daddr)
    direction, ifindex = (Dir.IN, LOOPBACK_IFINDEX) if local else (Dir.FWD, 0)
    quoted = quoted_flow(whole) if is_icmp(flow) and not local else None
    try:
        check_input(engine.spd, direction, 0, flow, (), 0, now, ifindex=ifindex, quoted=quoted)
    except Drop as drop:
        if drop.stat is not None:
            engine.stats[drop.stat] += 1
        tell(engine, drop.stat, drop.reason, whole, engine.interfaces.policy_based)
        return False
    return True
