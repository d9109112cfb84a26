"""From a template to the state that meets it, on output (kernel-behaviour 2.5, 3.2).

 1  ends        between which two addresses? A transport template takes the packet's, the others have their own
 2  candidates  VALID states with exactly the template's reqid, mode, protocol and family and the policy's if_id, the
                preferred first; those that leave their source open come second
 3  fit         is the mark right, is the state meant for output, does its selector cover the flow?
 4  waiting     none fits, but a larval state says that somebody has been asked for one
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xfrmi.core.selector import selector_match
from xfrmi.core.state_index import OutputKey, StateIndex, has_mark
from xfrmi.wire.address import any_address
from xfrmi.wire.xfrm_const import STATE_WILDRECV, Mode
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
    index: StateIndex, template: Template, policy: Policy, flow: Flow, src: bytes, dst: bytes, ifindex: int
) -> tuple[State | None, bool]:
    """(the state for `flow`, False), or (None, whether one is being negotiated)."""
    wild = any_address(template.family)
    for source in (src, wild) if src != wild else (wild,):
        key = (template.family, template.proto, template.mode, template.reqid, policy.if_id, dst, source)
        for state in index.candidates(key, template.spi):
            if _fits(state, policy.mark.value, flow, ifindex):
                return state, False
        if _is_awaited(index, key, template.spi, policy):
            return None, True
    return None, False


def _fits(state: State, mark: int, flow: Flow, ifindex: int) -> bool:
    family = state.selector.family
    return (
        has_mark(state, mark)
        and not state.flags & STATE_WILDRECV
        and (not family or (family == flow.family and selector_match(state.selector, flow, ifindex)))
    )


def _is_awaited(index: StateIndex, key: OutputKey, spi: int, policy: Policy) -> bool:
    """Whatever flow a larval state was made for: one negotiation at a time for each template."""
    return any(
        larval.if_id == policy.if_id and has_mark(larval, policy.mark.value) and (not spi or larval.spi == spi)
        for with_spi in (False, True)
        for larval in index.larvals(key, with_spi)
    )
