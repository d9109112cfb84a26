"""What the policies say of a flow that has come through states (2.6), and what is remembered of it.

A verdict is made once per flow, device and way, and kept by the interface until a table or a route changes. Refusals
are never kept: each refused packet counts, as in the kernel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from xfrmi.core.dropped import tell
from xfrmi.core.mode_tunnel import OtherFamily
from xfrmi.core.policy_check import check_input, is_icmp, quoted_flow
from xfrmi.core.router import LOOPBACK_IFINDEX
from xfrmi.errors import Drop
from xfrmi.wire.flow import flow_key, flow_of_key, trimmed_key
from xfrmi.wire.ip import trim
from xfrmi.wire.xfrm_const import AF_INET, IPPROTO_ESP, STATE_ICMP, Dir
from xfrmi.wire.xfrm_types import NO_MARK

if TYPE_CHECKING:
    from xfrmi.core.engine import Engine
    from xfrmi.core.interface import Interface
    from xfrmi.core.policy import Policy
    from xfrmi.core.state import State
    from xfrmi.wire.ip import Buffer

    SecPath = tuple[State, ...]
    """The states a packet came through, the outermost first."""

MAX_VERDICTS = 4096
"""Policy verdicts kept per interface; past it they are all forgotten and made again."""

NOPOLICY_AGE = 5.0
"""Seconds after which a device that receives is asked anew for its disable_policy: nobody announces a change, and each
answer costs as much as a good many packets."""


class Way(NamedTuple):
    """How packets have come this far."""

    secpath: SecPath = ()
    verified: int = 0
    """How many states at the beginning of `secpath` have answered for themselves to a policy before (IN-12)."""
    mark: int = 0
    """The mark that chooses states: a raw socket tells none, what set-mark made of it counts for what is nested."""


class Verdict:
    """An accepted flow: how it came, the policy that let it in (None: nothing was demanded), and whether it may be
    nested: ESP for this very host."""

    __slots__ = ("nested", "only", "policy", "way")

    def __init__(self, way: Way, policy: Policy | None, nested: bool) -> None:
        self.way = way
        self.policy = policy
        self.nested = nested
        self.only = way.secpath[0] if way == Way(way.secpath[:1]) else None
        """The state it came through, if that is all of the way."""


OFF_THE_WIRE = Way()


def known_verdict(engine: Engine, interface: Interface, state: State, packet: Buffer, now: float) -> Verdict | None:
    """The verdict on the flow of a packet that came through this state and no other, if it is all there is to ask."""
    if interface.away or abs(now - interface.nopolicy_asked) >= NOPOLICY_AGE or type(packet) is OtherFamily:
        return None
    if interface.verdicts_generation != engine.generation:
        return None
    try:
        verdict = interface.verdicts.get(trimmed_key(packet))
    except ValueError:
        return None
    return verdict if verdict is not None and verdict.only is state and not verdict.nested else None


def refresh(engine: Engine, interface: Interface, now: float) -> None:
    """Before a burst is asked about: forget what may have become wrong."""
    if not interface.away and abs(now - interface.nopolicy_asked) >= NOPOLICY_AGE:
        _ask_nopolicy(engine, interface, now)
    generation = engine.generation
    if interface.verdicts_generation != generation or len(interface.verdicts) > MAX_VERDICTS:
        interface.verdicts.clear()
        interface.verdicts_generation = generation


def _ask_nopolicy(engine: Engine, interface: Interface, now: float) -> None:
    interface.nopolicy_asked = now
    nopolicy = engine.sysctls.disable_policy(interface)
    if nopolicy != interface.nopolicy:
        interface.nopolicy = nopolicy
        interface.verdicts.clear()


def verdict_on(engine: Engine, interface: Interface, way: Way, packet: Buffer, now: float) -> Verdict | None:
    """None where the packet is refused."""
    if type(packet) is OtherFamily:
        tell(engine, None, "an inner packet of another version than its next header says", packet, interface)
        return None
    try:
        packet = trim(packet)  # TFC padding is no part of the packet
        key = flow_key(packet)
    except ValueError as error:  # not an IP packet: counted as received, refused by IP input, no xfrm counter moves
        tell(engine, None, str(error), packet, interface)
        return None
    verdict = interface.verdicts.get(key)
    if verdict is not None and verdict.way == way:
        if verdict.policy is not None:
            verdict.policy.use_time = int(now)
        return verdict
    flow = flow_of_key(key)
    # The route of a packet for this host leads to lo (2.1).
    local = interface.away or engine.router.is_local(interface.ifindex, flow.daddr)
    direction, ifindex = (Dir.IN, LOOPBACK_IFINDEX) if local else (Dir.FWD, 0)
    nested = flow.proto == IPPROTO_ESP and local and not interface.away
    # RX-12. What IPv6 switches off are the checks of its own addresses, so that what it forwards is asked still.
    if flow.family in interface.nopolicy and not interface.away and (local or flow.family == AF_INET):
        verdict = interface.verdicts[key] = Verdict(way, None, nested)
        return verdict
    secpath, last = way.secpath, way.secpath[-1]
    if_id = last.if_id if interface.external else interface.if_id
    quoted = quoted_flow(packet) if is_icmp(flow) else None
    questions = [flow]
    if quoted is not None and local and last.flags & STATE_ICMP:
        questions.append(quoted)  # what is refused for itself, and counted, may be let in for what it quotes (3.5)
    refused: Drop
    for question in questions:
        try:
            policy = check_input(
                engine.spd, direction, if_id, question, secpath, mark_of(secpath), now,
                ifindex=ifindex, quoted=None if local else quoted, verified=way.verified,
            )  # fmt: skip
        except Drop as drop:
            if drop.stat is not None:
                engine.stats[drop.stat] += 1
            refused = drop
            continue
        verdict = Verdict(way, policy, nested)
        if quoted is None:  # another error between the same hosts may quote something else
            interface.verdicts[key] = verdict
        return verdict
    tell(engine, refused.stat, refused.reason, packet, interface, last)
    return None


def mark_of(secpath: SecPath) -> int:
    """What the states have made of the packet's mark, each right after it was found (3.8)."""
    mark = 0
    for state in secpath:
        set_mark = state.info.set_mark or NO_MARK
        mark = set_mark.value & set_mark.mask | mark & ~set_mark.mask
    return mark
