"""What a negotiation starts with: larval states, and acquires that a user asks for (kernel-behaviour 3.1, 3.3, 7.6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from xfrmi.core.events import Acquire
from xfrmi.core.state import KM_ACQ, State
from xfrmi.wire.address import any_address
from xfrmi.wire.xfrm_alg import NO_REPLAY
from xfrmi.wire.xfrm_const import AF_INET, Dir, SaDir
from xfrmi.wire.xfrm_types import Current, Limits, Selector, StateInfo, Template

if TYPE_CHECKING:
    from xfrmi.core.policy import Policy
    from xfrmi.wire import xfrm_event_msg
    from xfrmi.wire.flow import Flow


def larval_for_spi(info: StateInfo, now: float, lifetime: int) -> State:
    """The state ALLOCSPI makes: of `info` only identity, mode, reqid, if_id and mark are taken over (3.3)."""
    bits = 32 if info.family == AF_INET else 128
    src = info.src or any_address(info.family)
    # The kernel leaves the selector's family open.
    selector = Selector(saddr=src, prefixlen_s=bits, daddr=info.dst, prefixlen_d=bits)
    return larval(
        StateInfo(
            src=src,
            dst=info.dst,
            proto=info.proto,
            family=info.family,
            mode=info.mode,
            reqid=info.reqid,
            if_id=info.if_id,
            mark=info.mark,
            pcpu=info.pcpu,
            selector=selector,
            limits=Limits(hard_add=lifetime),
        ),
        now,
    )


def larval_for_flow(
    template: Template,
    policy: Policy,
    flow: Flow,
    src: bytes,
    dst: bytes,
    *,
    ifindex: int,
    seq: int,
    pcpu: int | None,
    now: float,
    lifetime: int,
) -> State:
    """The state an acquire asks for: from `src` to `dst` unless the template says otherwise, for exactly this flow and
    its device `ifindex`, numbered `seq` (7.6), and for one processor where a state for all is there already. What it is
    configured with is what a dump shows of it, so that it need not be copied to be announced."""
    bits = 32 if flow.family == AF_INET else 128
    selector = Selector(
        flow.family, flow.saddr, bits, flow.daddr, bits, flow.proto, flow.sport, 0xFFFF, flow.dport, 0xFFFF, ifindex
    )
    return larval(
        StateInfo(
            src=template.src if any(template.src) else src,
            dst=template.dst if any(template.dst) else dst,
            spi=template.spi,
            proto=template.proto,
            family=template.family,
            mode=template.mode,
            reqid=template.reqid,
            if_id=policy.if_id,
            mark=policy.mark,
            dir=SaDir.OUT,
            replay=NO_REPLAY,
            current=Current(add_time=int(now)),
            seq=seq,
            pcpu=pcpu,
            selector=selector,
            limits=Limits(hard_add=lifetime),
        ),
        now,
    )


def acquires_wanted(wanted: xfrm_event_msg.Acquire, next_seq: Callable[[], int]) -> Iterator[Acquire]:
    """One Acquire for each template of the policy in the request, which overrides the algorithm masks of one after the
    other. SPI and destination are the templates', the source is the request's, the policy is told as an unused
    outbound one (7.2)."""
    policy = replace(wanted.policy, dir=Dir.OUT, share=0, current=Current())
    for at, template in enumerate(policy.templates):
        template = replace(template, aalgos=wanted.aalgos, ealgos=wanted.ealgos, calgos=wanted.calgos)
        policy = replace(policy, templates=(*policy.templates[:at], template, *policy.templates[at + 1 :]))
        state = StateInfo(
            src=wanted.src,
            dst=template.dst,
            spi=template.spi,
            proto=template.proto,
            family=template.family,
            mode=template.mode,
            reqid=template.reqid,
            if_id=policy.if_id,
            mark=policy.mark,
            selector=wanted.selector,
            seq=next_seq(),
            pcpu=wanted.pcpu,
        )
        yield Acquire(state, template, policy)


def larval(info: StateInfo, now: float) -> State:
    """Nothing of `info` is checked."""
    state = State(info, km=KM_ACQ, now=now)
    # Unlike a state that is added, a larval one keeps mark and selector as they are given.
    state.info, state.mark, state.selector = info, info.mark, info.selector
    return state
