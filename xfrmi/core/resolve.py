"""From a template to the state that meets it, on output (kernel-behaviour 2.5, 3.2).

 1  ends        between which two addresses? A transport template takes the packet's, the others have their own
 2  candidates  VALID states with exactly the template's reqid, mode, protocol and family and the policy's if_id, the
                preferred first; those that leave their source open come second
 3  fit         is the mark right, is the state meant for output, does its selector cover the flow?
 4  waiting     none fits, but a larval state says that somebody has been asked for one

A state may be for one processor alone (RFC 9611, `pcpu-num`): there it is preferred, elsewhere it does not exist. A
policy with the flag CPU_ACQUIRE has every processor ask for a state of its own, and use one that is for all until then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xfrmi.core.selector import selector_match
from xfrmi.core.state_index import OutputKey, StateIndex, has_mark
from xfrmi.wire.address import any_address
from xfrmi.wire.xfrm_const import POLICY_CPU_ACQUIRE, STATE_WILDRECV, Mode
from xfrmi.wire.xfrm_types import Template

if TYPE_CHECKING:
    from xfrmi.core.policy import Policy
    from xfrmi.core.state import State
    from xfrmi.wire.flow import Flow

OWN_ENDS = (Mode.TUNNEL, Mode.BEET, Mode.IPTFS)
"""Modes whose templates name their endpoints."""


def ends_of(template: Template, flow: Flow, src: bytes, dst: bytes) -> tuple[bytes, bytes]:
    """(source, destination) of the state wanted. `src` and `dst`: see Sad.resolve."""
    if template.mode in OWN_ENDS:
        return template.src if any(template.src) else src or any_address(template.family), template.dst
    return src or flow.saddr, dst or flow.daddr


def find(
    index: StateIndex, template: Template, policy: Policy, flow: Flow, src: bytes, dst: bytes, ifindex: int, cpu: int
) -> tuple[State | None, bool]:
    """(the state for `flow` on processor `cpu`, or None; whether a better one is being negotiated)."""
    wild = any_address(template.family)
    for source in (src, wild) if src != wild else (wild,):
        key = (template.family, template.proto, template.mode, template.reqid, policy.if_id, dst, source)
        for state in index.candidates(key, cpu, template.spi):
            if _fits(state, policy.mark.value, flow, ifindex):
                return state, wants_own(policy, state, cpu) and _is_awaited(index, key, template.spi, policy, cpu)
        if _is_awaited(index, key, template.spi, policy):
            return None, True
    return None, False


def wants_own(policy: Policy, state: State, cpu: int) -> bool:
    """Shall `state` serve only until processor `cpu` has one of its own?"""
    return bool(policy.flags & POLICY_CPU_ACQUIRE) and state.info.pcpu != cpu


def _fits(state: State, mark: int, flow: Flow, ifindex: int) -> bool:
    family = state.selector.family
    return (
        has_mark(state, mark)
        and not state.flags & STATE_WILDRECV
        and (not family or (family == flow.family and selector_match(state.selector, flow, ifindex)))
    )


def _is_awaited(index: StateIndex, key: OutputKey, spi: int, policy: Policy, cpu: int | None = None) -> bool:
    """Whatever flow a larval state was made for: one negotiation at a time for each template, or for each processor."""
    return any(
        larval.if_id == policy.if_id
        and has_mark(larval, policy.mark.value)
        and (not spi or larval.spi == spi)
        and (cpu is None or larval.info.pcpu == cpu)
        for larval in index.larvals(key)
    )
