"""What happens to a flow on its way out: policy, states, the way out, and how much fits (1.5 TX-02..TX-11, 2.4).

A Decision is made once per flow and kept by the interface until a table, a route or a second has passed. Refusals are
never kept: each packet of a flow without a state is one XfrmOutNoStates (OUT-05), as in the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from xfrmi.core.policy import in_order
from xfrmi.core.resolve import OWN_ENDS
from xfrmi.core.router import LOOPBACK_IFINDEX
from xfrmi.errors import Drop
from xfrmi.wire.flow import Flow
from xfrmi.wire.xfrm_const import IPPROTO_ESP, IPPROTO_UDP, Action, Dir, Mode, XfrmStat

if TYPE_CHECKING:
    from xfrmi.core.engine import Engine
    from xfrmi.core.interface import Interface
    from xfrmi.core.path import Path
    from xfrmi.core.policy import Policy
    from xfrmi.core.router import Route
    from xfrmi.core.state import State
    from xfrmi.wire.xfrm_types import Template

MAX_TRANSFORMS = 5
"""Six templates are accepted, five are usable (OUT-07)."""

IPV4_MIN_MTU = 68
"""What every link carries (RFC 791 3.2): nothing smaller is told to a sender, however little the states leave."""

LIFETIME = 1.0
"""Seconds a decision may be reused: what nobody announces is noticed within that time, once the router knows of it."""


class Refused(Exception):
    """TX-06..TX-09, a link failure: no way through. `stat` is the MIB counter, None where the kernel has none."""

    def __init__(self, stat: XfrmStat | None, reason: str) -> None:
        self.stat = stat
        self.reason = reason
        super().__init__(reason)


class Loop(Exception):
    """TX-10: the outer packet would come back into the device it came from, at once or through others of ours."""


class Decision:
    """A resolved flow. `states` are in the order they are applied, innermost first (OUT-08)."""

    __slots__ = ("expires", "generation", "mtu", "path", "states")

    def __init__(self, states: tuple[State, ...], path: Path, mtu: int, expires: float, generation: int) -> None:
        self.states = states
        self.path = path
        self.mtu = mtu
        """Largest inner packet, bytes (TX-11)."""
        self.expires = expires
        self.generation = generation
        """The engine's when this was decided."""

    def joins(self, other: Decision) -> bool:
        """Do packets of both flows go through the same states and out the same way? Then they are sealed together."""
        return self is other or (self.states == other.states and self.path is other.path)


def decide(engine: Engine, interface: Interface, flow: Flow, now: float) -> Decision:
    """Resolve a flow. Raises Refused or Loop."""
    # TX-03: the selector's `dev` sees the link, not the xfrm device. A packet out of a TUN carries no mark.
    link = interface.link if not interface.policy_based else _leaves_by(engine, flow)
    if interface.policy_based and not any(flow.saddr):
        raise Refused(None, "the kernel about the device itself")  # it joins multicast groups
    policies = engine.spd.lookup_all(Dir.OUT, interface.if_id, flow, 0, link)
    if not policies:
        raise Refused(None, "no policy")
    blocked = any(policy.action == Action.BLOCK for policy in policies)
    states = _resolve(engine, link, policies, flow, now) if not blocked else ()
    limits = _limits(engine, interface, states)
    way = _way_out(engine, interface, states[-1]) if states else None
    for policy in policies:  # not before: a policy whose templates find no state has not been used (OUT-04)
        policy.use_time = int(now)
    if blocked:
        raise Refused(XfrmStat.OUT_POL_BLOCK, "blocked by policy")
    if not states:
        raise Refused(None, "the policy demands no transform, and plaintext never leaves an xfrm interface")  # TX-07
    if states[0].if_id != interface.if_id:
        raise Refused(None, "the state belongs to another if_id")  # TX-08
    if way is None or _circles(engine, (interface,), *way, now):
        raise Loop
    path, route = way
    if interface.policy_based and _is_ours(path, flow):
        raise Loop
    states[-1].set_ttl(route.hop_limit)
    mtu = route.mtu
    for state, limit in zip(reversed(states), reversed(limits), strict=True):
        state.path_mtu = mtu
        mtu = min(state.mtu(mtu), limit)
    return Decision(states, path, max(mtu, IPV4_MIN_MTU), now + LIFETIME, engine.generation)


def _leaves_by(engine: Engine, flow: Flow) -> int:
    """The device that a policy without if_id knows: that of the packet's own route."""
    route = engine.router.route(flow.daddr, b"", 0, 0)
    return route.ifindex if route is not None else 0


def _is_ours(path: Path, flow: Flow) -> bool:
    """Is this what the state makes of packets? Whose source is no address of this host is not told from others' ESP
    where packets are caught, and would be sealed again and again."""
    if (path.src, path.dst) != (flow.saddr, flow.daddr):
        return False
    if path.dport:
        return flow.proto == IPPROTO_UDP and (path.sport, path.dport) == (flow.sport, flow.dport)
    return flow.proto == IPPROTO_ESP


def _resolve(
    engine: Engine, link: int, policies: Sequence[Policy], flow: Flow, now: float
) -> tuple[State, ...]:
    """The states for the templates of `policies`, as they are applied. Empty if none is needed. Raises Refused."""
    states: list[State] = []
    try:
        for policy in policies:
            if len(states) + len(policy.templates) > MAX_TRANSFORMS:
                raise Refused(XfrmStat.OUT_POL_ERROR, "more than five transforms")
            src = dst = b""  # between which addresses the packet goes, once a template has given it others (OUT-08)
            for template in policy.templates:
                local, remote = src, dst
                if template.mode in OWN_ENDS:
                    local, remote = template.src if any(template.src) else _source(engine, template), template.dst
                state = engine.sad.resolve(template, policy, flow, now, src=local, dst=remote, ifindex=link)
                if state is not None:  # None: `level use` without a state (OUT-10)
                    states.append(state)
                    src, dst = local, remote
    except Drop as drop:
        raise Refused(drop.stat, drop.reason) from None
    return tuple(in_order(states, policies, flow.family))


def _limits(engine: Engine, interface: Interface, states: Sequence[State]) -> list[int]:
    """For each state the MTU of the route that its packet has before: the device's, or towards the end of the tunnel
    inside. There has to be such a route, though the packet does not take it. Raises Refused."""
    limits = [interface.mtu]
    for state in states[:-1]:
        limit = limits[-1]
        if state.mode != Mode.TRANSPORT:
            path = state.path
            route = engine.router.route(path.dst, path.src, 0, path.mark)
            if route is None:
                raise Refused(XfrmStat.OUT_BUNDLE_GEN_ERROR, "no route to the end of an inner tunnel")
            state.set_ttl(route.hop_limit)
            limit = route.mtu
        limits.append(limit)
    return limits


def _way_out(engine: Engine, interface: Interface, outermost: State) -> tuple[Path, Route] | None:
    """Path and route of the outer packet: by the state's set-mark where that leads out, else by the `dev` of the
    interface where it has one, else by the routing tables. None where that leads back into the interface (TX-10).
    Raises Refused.

    A peer that is reached through this very interface is a loop even so, as in the kernel; except in transport mode,
    where the peer always is, and `dev` is what leads out (docs/deviations.md). `dev lo` leads nowhere and a `dev` that
    is gone leads no more: both count as none (DEV-06). A kernel asks the routing tables only.
    """
    path = outermost.path
    route = engine.router.route(path.dst, path.src, 0, path.mark)
    loops = route is not None and route.ifindex != 0 and route.ifindex == interface.ifindex and not interface.away
    by_mark = path.mark != 0 and route is not None and not loops
    bound_to_link = interface.link not in (0, LOOPBACK_IFINDEX) and not by_mark and not engine.kernel_quirks
    if bound_to_link and not (loops and outermost.mode != Mode.TRANSPORT):
        bound = outermost.path_to(interface.link)
        by_link = engine.router.route(bound.dst, bound.src, bound.ifindex, bound.mark)
        if by_link is not None:
            return bound, by_link
    if route is None:
        raise Refused(XfrmStat.OUT_BUNDLE_GEN_ERROR, "no route to the peer")
    return None if loops else (path, route)


def _circles(engine: Engine, passed: tuple[Interface, ...], path: Path, route: Route, now: float) -> bool:
    """Will the outer packet, on its way through other devices of ours, be back in one that it has `passed`? Each pass
    makes it larger, and without DF more of them, so that it would never end."""
    onward = engine.interfaces.at_home(route.ifindex)
    if onward is None:
        return False
    if onward in passed:
        return True
    in_udp = path.dport != 0
    protocol = IPPROTO_UDP if in_udp else IPPROTO_ESP
    flow = Flow(path.family, path.src, path.dst, protocol, path.sport, path.dport, in_udp)
    policies = engine.spd.lookup_all(Dir.OUT, onward.if_id, flow, 0, onward.link)
    try:
        states = _resolve(engine, onward.link, policies, flow, now)
        way = _way_out(engine, onward, states[-1]) if states else None
    except Refused:  # its end, which is counted there
        return False
    return way is not None and _circles(engine, (*passed, onward), *way, now)


def _source(engine: Engine, template: Template) -> bytes:
    """OUT-09: the address this host would use towards the template's destination. Raises Drop."""
    route = engine.router.route(template.dst, b"", 0, 0)
    if route is None:
        raise Drop(XfrmStat.OUT_POL_ERROR, "no route to the template's destination, so no source")
    return route.src
