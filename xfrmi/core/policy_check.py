"""May this decapsulated packet come in? The check at delivery (`in`) or forwarding (`fwd`) (kernel-behaviour 2.6).

    1  states     every state it came through must have been meant for this flow (IN-01)
    2  policy     which policy decides, or what the default says (IN-02..IN-07)
    3  templates  the states it came through must be those the policy demands, in order (IN-08..IN-14)
    4  the rest   and none that nobody asked for (IN-10)

The path of a packet (`secpath`) is the list of its states in the order they were applied to it on input: the
outermost first. Templates are written in the order of output, so the last template is the outermost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from xfrmi.core.policy import in_order
from xfrmi.core.selector import selector_match
from xfrmi.errors import Drop
from xfrmi.wire.flow import PORT_PROTOCOLS, Flow, flow_of
from xfrmi.wire.ip import Buffer, upper_layer
from xfrmi.wire.xfrm_const import (
    AF_INET,
    AF_INET6,
    AF_UNSPEC,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    STATE_ICMP,
    XFRM_MAX_DEPTH,
    Action,
    Default,
    Dir,
    Mode,
    XfrmStat,
)
from xfrmi.wire.xfrm_types import ANY_ALGOS, Selector, Template

if TYPE_CHECKING:
    from xfrmi.core.policy import Policy
    from xfrmi.core.spd import Spd
    from xfrmi.core.state import State

ICMP_ERRORS = {(AF_INET, IPPROTO_ICMP): (3, 11), (AF_INET6, IPPROTO_ICMPV6): (1, 2, 3)}
"""Types that may pass for the sake of the packet they quote: unreachable, too big, time exceeded."""
ICMP_HEADER_LEN = 8

AALGO_IDS = {
    "hmac(md5)": 2, "hmac(sha1)": 3, "hmac(sha256)": 5, "hmac(sha384)": 6, "hmac(sha512)": 7, "hmac(rmd160)": 8,
    "xcbc(aes)": 9, "digest_null": 251,
}  # fmt: skip
"""PF_KEY numbers, which are the bits of a template's aalgos. AEADs and cmac(aes) have none and count as 0."""


def check_input(
    spd: Spd,
    direction: int,
    if_id: int,
    flow: Flow,
    secpath: Sequence[State],
    mark: int = 0,
    now: float = 0,
    *,
    ifindex: int = 0,
    quoted: Flow | None = None,
    verified: int = 0,
) -> Policy | None:
    """Let `flow` in or raise Drop. Returns the policy that decided, None if there was none.

    `ifindex` is the device of the packet's route: lo when it is delivered here (2.1). `quoted` is what `quoted_flow`
    says of an ICMP error that is forwarded (IN-01, IN-06); in one for this host the kernel looks for the quote in the
    wrong place and refuses it first (see input.py). The first `verified` states of `secpath` have passed an earlier
    check, before the packet was decapsulated further (IN-12). The deciding policies' use_time becomes `now` unless that
    is 0.
    """
    # 1 states
    if not is_icmp_error(flow):
        quoted = None
    for state in secpath:
        if not _covers(state.selector, flow, ifindex) and not (
            state.flags & STATE_ICMP and quoted is not None and _covers(state.selector, quoted, ifindex)
        ):
            raise Drop(XfrmStat.IN_STATE_MISMATCH, "not a flow of the state's selector")
    # 2 policy
    policies = spd.lookup_all(direction, if_id, flow, mark, ifindex)
    if not policies and direction == Dir.FWD and quoted is not None:
        policies = spd.lookup_all(direction, if_id, quoted, mark, ifindex)
    if not policies:
        if spd.defaults[direction] == Default.BLOCK:
            raise Drop(XfrmStat.IN_NO_POLS, "no policy, and the default is block")
        if _has_tunnel(secpath, 0):
            raise Drop(XfrmStat.IN_NO_POLS, "no policy for what came through a tunnel")
        return None
    if now:
        for policy in policies:
            policy.use_time = int(now)
    # 3 templates
    templates: list[Template] = []
    for policy in policies:
        if policy.action != Action.ALLOW:
            raise Drop(XfrmStat.IN_POL_BLOCK, "blocked by policy")
        templates += policy.templates
        if len(templates) >= XFRM_MAX_DEPTH:
            raise Drop(XfrmStat.IN_BUFFER_ERROR, "more templates than can be checked")
    met = verify_templates(in_order(templates, policies, flow.family), secpath, flow.family, if_id, verified)
    # 4 the rest
    if _has_tunnel(secpath, met):
        raise Drop(XfrmStat.IN_TMPL_MISMATCH, "came through a tunnel that no template asks for")
    return policies[0]


def _covers(selector: Selector, flow: Flow, ifindex: int) -> bool:
    """IN-01. A selector of one family covers no flow of the other, not even 0.0.0.0/0: seen of a kernel, against what
    quirk Q18 reads out of its source."""
    return selector.family in (AF_UNSPEC, flow.family) and selector_match(selector, flow, ifindex)


def is_icmp(flow: Flow) -> bool:
    """Is it ICMP of its family?"""
    return (flow.family, flow.proto) in ICMP_ERRORS


def is_icmp_error(flow: Flow) -> bool:
    """Does a packet of this flow quote another one?"""
    return flow.sport in ICMP_ERRORS.get((flow.family, flow.proto), ())


def quoted_flow(packet: Buffer) -> Flow | None:
    """The reverse of the flow that an ICMP error quotes: that of the answers it stands for. None if unreadable."""
    try:
        _, offset, _ = upper_layer(packet)
        flow = flow_of(packet[offset + ICMP_HEADER_LEN :])
    except ValueError:
        return None
    sport, dport = (flow.dport, flow.sport) if flow.proto in PORT_PROTOCOLS else (flow.sport, flow.dport)
    return flow._replace(saddr=flow.daddr, daddr=flow.saddr, sport=sport, dport=dport)


def verify_templates(
    templates: Sequence[Template], secpath: Sequence[State], family: int, if_id: int, verified: int = 0
) -> int:
    """Find a state for every template, outermost first; returns how many states of `secpath` are accounted for.

    Raises Drop. `family` is that of the inner packet, `verified` as in check_input.
    """
    position = 0
    for template in reversed(templates):
        position = _meet(template, secpath, position, family, if_id, verified)
    return position


def _meet(template: Template, secpath: Sequence[State], start: int, family: int, if_id: int, verified: int) -> int:
    """The position behind the state that meets `template`, searched from `start` up to the next tunnel."""
    if template.optional and template.mode == Mode.TRANSPORT:
        return start
    for position in range(start, len(secpath)):
        state = secpath[position]
        if _meets(state, template, family, if_id):
            return position + 1
        if state.mode != Mode.TRANSPORT and position >= verified:
            break
    if template.optional:
        return start
    raise Drop(XfrmStat.IN_TMPL_MISMATCH, "a template of the policy is not met")


def _meets(state: State, template: Template, family: int, if_id: int) -> bool:
    """IN-11. Unlike on output, reqid 0 is any reqid, and of the endpoints only the source is compared."""
    return (
        state.proto == template.proto
        and (state.spi == template.spi or not template.spi)
        and (state.reqid == template.reqid or not template.reqid)
        and state.mode == template.mode
        and _has_algorithm(state, template)
        and (template.mode == Mode.TRANSPORT or _same_source(state.src, template.src, family))
        and (not if_id or if_id == state.if_id)
    )


def _has_algorithm(state: State, template: Template) -> bool:
    if template.aalgos & template.ealgos & template.calgos == ANY_ALGOS:
        return True
    auth = state.info.auth_trunc or state.info.auth
    number = AALGO_IDS.get(auth.name, 0) if auth else 0
    return bool(template.aalgos >> number % 32 & 1)


def _same_source(src: bytes, wanted: bytes, family: int) -> bool:
    """Any, or equal: over as many bytes as an address of the *inner* packet has, so that with IPv4 inside IPv6 only
    the first four are compared (quirk IN-14)."""
    length = 4 if family == AF_INET else 16
    wanted = wanted[:length]
    return not any(wanted) or src[:length] == wanted


def _has_tunnel(secpath: Sequence[State], start: int) -> bool:
    return any(state.mode != Mode.TRANSPORT for state in secpath[start:])
