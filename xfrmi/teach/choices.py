"""Why this policy and this state, and why not the others.

Which one it is, the engine has said. Here each candidate is asked, one condition after the other, by the function that
the engine asks (a selector with only one of its fields set, the key of a state field by field), and the first condition
that does not hold is the reason. Who holds all of them, and still was not taken, came second.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from xfrmi.core.engine import Engine
from xfrmi.core.policy import Policy
from xfrmi.core.resolve import ends_of
from xfrmi.core.selector import selector_match
from xfrmi.core.state import KM_VALID, State
from xfrmi.core.state_index import has_mark, output_key
from xfrmi.formats import words
from xfrmi.teach.wording import address, direction, mode, protocol, selector_text, state_title
from xfrmi.wire.flow import Flow
from xfrmi.wire.xfrm_const import AF_INET, STATE_WILDRECV, SaDir
from xfrmi.wire.xfrm_types import Selector, Template

MAX_SHOWN = 12
"""Candidates told about; the rest is a number."""


class Candidate(NamedTuple):
    name: str
    taken: bool
    why: str


def policy_candidates(
    policies: Iterable[Policy], taken: list[Policy], dir: int, if_id: int, flow: Flow, mark: int = 0, ifindex: int = 0
) -> list[Candidate]:
    """All policies, those taken first, then those that came near."""
    best = min((policy.rank for policy in taken), default=None)
    rows: list[tuple[int, Candidate]] = []
    for policy in policies:
        name = f"{selector_text(policy.selector)} dir {direction(policy.dir)} if_id {policy.if_id:#x}"
        name += f" priority {policy.priority}" if policy.priority else ""
        if policy in taken:
            others = sum(_matches(other, dir, if_id, flow, mark, ifindex) for other in policies) - len(taken)
            why = "matches, and " + ("nothing else does" if others <= 0 else "comes first of those that match")
            rows.append((0, Candidate(name, True, why)))
            continue
        steps = _policy_conditions(policy, dir, if_id, flow, mark, ifindex)
        failed = next(((at, why) for at, (holds, why) in enumerate(steps) if not holds), None)
        if failed is None:
            older = best is not None and policy.priority == best[0]
            why = "matches, too, but is younger" if older else "matches, too, but its priority number is higher"
            rows.append((1, Candidate(name, False, why)))
        else:
            rows.append((100 - failed[0], Candidate(name, False, failed[1])))
    return _first_of(rows)


def _matches(policy: Policy, dir: int, if_id: int, flow: Flow, mark: int, ifindex: int) -> bool:
    return all(holds for holds, _ in _policy_conditions(policy, dir, if_id, flow, mark, ifindex))


def _policy_conditions(
    policy: Policy, dir: int, if_id: int, flow: Flow, mark: int, ifindex: int
) -> list[tuple[bool, str]]:
    return [
        (policy.dir == dir, f"is for direction {direction(policy.dir)}, not {direction(dir)}"),
        (policy.if_id == if_id, f"has if_id {policy.if_id:#x}, the interface has {if_id:#x}"),
        (mark & policy.mark.mask == policy.mark.value, f"wants mark {policy.mark.value:#x}/{policy.mark.mask:#x}"),
        *selector_conditions(policy.selector, flow, ifindex),
    ]


def selector_conditions(selector: Selector, flow: Flow, ifindex: int = 0) -> list[tuple[bool, str]]:
    """(does it hold, why not) for each field of a selector, as selector_match sees it alone."""
    family = selector.family
    if family and family != flow.family:
        return [(False, f"is for {'IPv4' if family == AF_INET else 'IPv6'} packets")]
    one = Selector(family=family, saddr=bytes(len(flow.saddr)), daddr=bytes(len(flow.daddr)))
    alone = [
        (replace(one, saddr=selector.saddr, prefixlen_s=selector.prefixlen_s),
         f"source {address(flow.saddr)} is outside {address(selector.saddr)}/{selector.prefixlen_s}"),
        (replace(one, daddr=selector.daddr, prefixlen_d=selector.prefixlen_d),
         f"destination {address(flow.daddr)} is outside {address(selector.daddr)}/{selector.prefixlen_d}"),
        (replace(one, proto=selector.proto), f"is for protocol {protocol(selector.proto)}, not {protocol(flow.proto)}"),
        (replace(one, sport=selector.sport, sport_mask=selector.sport_mask),
         f"wants source port (or type) {selector.sport}, not {flow.sport}"),
        (replace(one, dport=selector.dport, dport_mask=selector.dport_mask),
         f"wants destination port (or code) {selector.dport}, not {flow.dport}"),
        (replace(one, ifindex=selector.ifindex), f"is for packets that leave by device {selector.ifindex}"),
    ]  # fmt: skip
    return [(selector_match(part, flow, ifindex), why) for part, why in alone]


def state_candidates(
    engine: Engine, taken: State | None, template: Template, policy: Policy, flow: Flow, src: bytes, dst: bytes
) -> list[Candidate]:
    """All states, for a template on the way out; `src` and `dst` as Sad.resolve takes them."""
    src, dst = ends_of(template, flow, src, dst)
    rows: list[tuple[int, Candidate]] = []
    for state in engine.sad.dump():
        conditions = [
            (state.km == KM_VALID, "is not valid (larval, expired or dead)"),
            (state.proto == template.proto, f"is not {words.word(words.XFRM_PROTOS, template.proto)}"),
            (state.dst == dst, f"goes to {address(state.dst)}, the template to {address(dst)}"),
            (state.src in (src, bytes(len(src))), f"comes from {address(state.src)}, the template from {address(src)}"),
            (state.if_id == policy.if_id, f"has if_id {state.if_id:#x}, the policy {policy.if_id:#x}"),
            (state.reqid == template.reqid, f"has reqid {state.reqid}, the template {template.reqid}"),
            (state.mode == template.mode, f"is in {mode(state.mode)} mode, the template in {mode(template.mode)}"),
            (not template.spi or state.spi == template.spi, f"the template names SPI {template.spi:#x}"),
            (has_mark(state, policy.mark.value), "has another mark"),
            (not state.flags & STATE_WILDRECV, "only receives (wildrecv)"),
            *selector_conditions(state.selector, flow),
            (state.dir != SaDir.IN, "is an inbound state (dir in)"),
        ]
        rows.append(_judged(state, taken, conditions))
    return _first_of(rows)


def _judged(state: State, taken: State | None, conditions: list[tuple[bool, str]]) -> tuple[int, Candidate]:
    name = state_title(state)
    if state is taken:
        return 0, Candidate(name, True, "has all that the template asks for")
    failed = next(((at, why) for at, (holds, why) in enumerate(conditions) if not holds), None)
    if failed is not None:
        return 100 - failed[0], Candidate(name, False, failed[1])
    if taken is not None and output_key(state) == output_key(taken) and state.dying and not taken.dying:
        return 1, Candidate(name, False, "would do, but is near its end (soft limit)")
    return 1, Candidate(name, False, "would do, too, but is older")


def input_candidates(engine: Engine, taken: State | None, dst: bytes, spi: int, proto: int) -> list[Candidate]:
    """All states, for an ESP packet that came."""
    rows: list[tuple[int, Candidate]] = []
    for state in engine.sad.dump():
        conditions = [
            (state.proto == proto, "is of another protocol"),
            (state.spi == spi, f"has SPI {state.spi:#x}, the packet {spi:#x}"),
            (state.dst == dst, f"is for destination {address(state.dst)}, the packet goes to {address(dst)}"),
        ]
        at, candidate = _judged(state, taken, conditions)
        rows.append((at, candidate._replace(why="has destination, protocol and SPI") if candidate.taken else candidate))
    return _first_of(rows)


def _first_of(rows: list[tuple[int, Candidate]]) -> list[Candidate]:
    rows.sort(key=lambda row: row[0])
    shown = [candidate for _, candidate in rows[:MAX_SHOWN]]
    if len(rows) > MAX_SHOWN:
        shown.append(Candidate(f"{len(rows) - MAX_SHOWN} more", False, "fit even less"))
    return shown
