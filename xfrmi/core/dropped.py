"""What is told of a packet that dies in the engine, to who wants to know (`Engine.on_drop`): xfrmi trace and explain.

Counting does not depend on it. Nobody is told anything as a rule, and only dead packets pass the places that ask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from xfrmi.core.engine import Engine
    from xfrmi.core.interface import Interface
    from xfrmi.core.state import State
    from xfrmi.wire.ip import Buffer
    from xfrmi.wire.vnet import Packet
    from xfrmi.wire.xfrm_const import XfrmStat

    Dead: TypeAlias = Packet | tuple[Buffer, Buffer]


class Dropped(NamedTuple):
    """One packet. Its buffers are the engine's: who keeps them makes a copy."""

    stat: XfrmStat | None
    """The counter of /proc/net/xfrm_stat that has risen, None where only device counters have."""
    reason: str
    packet: Dead
    """The inner packet on its way out; on its way in the (outer header, ESP) pair, or the inner packet once opened.
    What came in the clear is itself.
    Both empty where it came in a train."""
    interface: Interface | None
    state: State | None
    """The one that was at work."""

    @property
    def counter(self) -> str:
        """Its name in /proc/net/xfrm_stat, empty if there is none."""
        return self.stat.label if self.stat is not None else ""


def tell(
    engine: Engine,
    stat: XfrmStat | None,
    reason: str,
    packet: Dead,
    interface: Interface | None = None,
    state: State | None = None,
) -> None:
    """It has been counted."""
    if engine.on_drop is not None:
        engine.on_drop(Dropped(stat, reason, packet, interface, state))
