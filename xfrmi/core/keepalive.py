"""NAT keepalives (RFC 3948 section 4, kernel-behaviour 3.8): one 0xFF at once, which opens the way through the NAT, and
one after each interval in which a state was silent.

Only outbound espinudp states can ask for them. Each has one deadline, moved as its traffic moves, so states without
an interval cost nothing and busy ones one look per interval.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xfrmi.core.outer import finish_for, template
from xfrmi.core.outgoing import Outgoing
from xfrmi.core.state import KM_VALID
from xfrmi.core.timers import Timers
from xfrmi.wire.udpencap import KEEPALIVE

if TYPE_CHECKING:
    from xfrmi.core.router import Router
    from xfrmi.core.state import State


class Keepalives:
    """Which states owe their NAT a sign of life, and when."""

    def __init__(self) -> None:
        self.timers: Timers[State] = Timers()

    def watch(self, state: State, now: float) -> None:
        """Begin for a state that asks for it; anything else is ignored. A state that is no longer valid drops out."""
        if state.info.nat_keepalive_interval and state not in self.timers:
            self.timers.set(state, now)

    def tick(self, router: Router, now: float) -> list[Outgoing]:
        """The keepalives due by now, as complete outer packets."""
        due: list[Outgoing] = []
        for state in self.timers.due(now):
            interval = state.info.nat_keepalive_interval
            if state.km != KM_VALID:
                continue
            silent_since = state.lastused
            if now - silent_since >= interval:
                path = state.path
                if (route := router.route(path.dst, path.src, path.ifindex, path.mark)) is not None:
                    state.set_ttl(route.hop_limit)
                    due.append(Outgoing(path, [keepalive(state)]))
                silent_since = int(now)
            self.timers.set(state, silent_since + interval)
        return due

    def next_deadline(self) -> float | None:
        return self.timers.next_deadline()


def keepalive(state: State) -> bytearray:
    """The outer packet: IP, UDP with the ports of the encapsulation, one byte. No ESP, no sequence number."""
    packet = bytearray(template(state))
    header_len = len(packet)
    packet += KEEPALIVE
    finish_for(state.family, udp=True)(packet, header_len)
    return packet
