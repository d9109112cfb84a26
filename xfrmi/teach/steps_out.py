"""The steps of a packet on its way out, in the order of core/output.py."""

from __future__ import annotations

from xfrmi.core.decision import Decision, Loop, Refused, decide
from xfrmi.core.dropped import Dropped
from xfrmi.core.engine import Engine
from xfrmi.core.interface import Interface
from xfrmi.errors import Drop
from xfrmi.teach.asked import Asked, PolicyQuestion, StateQuestion
from xfrmi.teach.choices import policy_candidates, state_candidates
from xfrmi.teach.explanation import Explanation, Step, dropped
from xfrmi.teach.layout import layout_of, plain_packet
from xfrmi.teach.scratch import pin
from xfrmi.teach.steps_esp import sealing, state_facts
from xfrmi.teach.watch import Watch, Work
from xfrmi.teach.wording import address, flow_text, mode, template_text
from xfrmi.wire.flow import flow_key, flow_of_key
from xfrmi.wire.fragment import fragment_ipv4, fragment_ipv6
from xfrmi.wire.xfrm_const import Action


def explain_output(
    found: Explanation, engine: Engine, interface: Interface, packet: bytes, now: float, outer: bytes = b""
) -> None:
    """Fill `found` in. `outer` is what went out, where `packet` is one that was sent."""
    where = "is about to leave by any device" if interface.policy_based else "is routed into the interface"
    found.packets.append(plain_packet(f"the packet, as it {where}", packet))
    asked = Asked(engine)
    decision = _decide(found, engine, interface, packet, now)
    if asked.policies:
        _tell_policies(found, engine, interface, asked.policies[0], asked.states)
    watch: Watch | None = None
    if decision is not None:
        found.steps.append(_way(decision, len(packet), interface))
        if outer and not _pinned(found, decision, outer, now):
            return
        watch = Watch(list(decision.states))
    drops: list[Dropped] = []
    engine.on_drop = drops.append
    outgoing, replies = engine.output(interface, [packet], now)
    engine.on_drop = None
    found.sent = tuple(bytes(one) for group in outgoing for one in group.packets)
    for number, work in enumerate(watch.works if watch is not None else (), 1):
        _tell_work(found, work, number, len(watch.works) if watch is not None else 0)
    if drops:
        drop = drops[-1]
        found.reason = drop.reason
        found.counter = drop.counter
        answers = [("answer to the sender", _icmp_text(bytes(reply))) for reply in replies]
        found.steps.append(dropped(drop, answers))
    elif decision is not None and found.sent:
        _tell_departure(found, decision)
    if outer and found.sent != (outer,):
        found.origin += " SEALED AGAIN IT GIVES OTHER BYTES: the state or the route is not what it was."


def _decide(
    found: Explanation, engine: Engine, interface: Interface, packet: bytes, now: float
) -> Decision | None:
    try:
        flow = flow_of_key(key := flow_key(packet))
    except ValueError as error:
        found.steps.append(Step("Flow", f"This is no IP packet that could be sent: {error}.", failed=True))
        return None
    text = "Policies and states are chosen by addresses, protocol, ports. Decided once, then remembered by this key."
    if not flow.sport_known:
        text += " A fragment, or a protocol without ports: it shows none."
    found.steps.append(Step("Flow", text, (("flow", flow_text(flow)), ("key", key.hex()))))
    try:
        return decide(engine, interface, flow, now)
    except (Refused, Loop):  # told when the engine says it again, and counts it
        return None


def _tell_policies(
    found: Explanation, engine: Engine, interface: Interface, question: PolicyQuestion, states: list[StateQuestion]
) -> None:
    policies = list(engine.spd.dump())
    rows = policy_candidates(
        policies, question.answer, question.dir, question.if_id, question.flow, question.mark, question.ifindex
    )
    if not question.answer:
        text = f"No policy of direction out with if_id {interface.if_id:#x} is for this flow: nothing may leave."
        found.steps.append(Step("Policy", text, (), tuple(rows), failed=True))
        return
    action = "block" if any(policy.action == Action.BLOCK for policy in question.answer) else "allow"
    text = f"The policy of direction out for if_id {interface.if_id:#x} that matches, the lowest priority number first."
    found.steps.append(Step("Policy", text, (("action", action),), tuple(rows), failed=action == "block"))
    for asked in states:
        if asked.policy in question.answer:
            _tell_template(found, engine, asked)


def _tell_template(found: Explanation, engine: Engine, asked: StateQuestion) -> None:
    text = "What the policy demands: a state between these addresses, with this reqid and mode."
    found.steps.append(Step("Template", text, (("template", template_text(asked.template)),)))
    rows = state_candidates(
        engine, asked.answer, asked.template, asked.policy, asked.flow, asked.src, asked.dst
    )
    if asked.answer is not None:
        text = "The state that meets the template, the youngest first. Its if_id has to be the policy's."
        facts = state_facts(asked.answer, found.keys)
        found.steps.append(Step("State", text, facts, tuple(rows)))
    elif asked.drop is None:
        text = "None meets it, and the template does not insist (level use)."
        found.steps.append(Step("State", text, (), tuple(rows)))
    else:
        found.steps.append(Step("State", f"None meets it: {asked.drop.reason}.", (), tuple(rows), failed=True))


def _way(decision: Decision, length: int, interface: Interface) -> Step:
    path = decision.path
    text = f"To the peer goes a way of {decision.states[-1].path_mtu} bytes: an inner packet of {decision.mtu} fits."
    facts = (
        ("peer", address(path.dst)),
        ("inner packet", f"{length} bytes, {'fits' if length <= decision.mtu else 'does not fit'}"),
        ("device", interface.name),
    )
    return Step("Route and size", text, facts)


def _pinned(found: Explanation, decision: Decision, outer: bytes, now: float) -> bool:
    """Are the numbers of then set? If not the packet cannot be sealed as it was, and so is not sealed at all."""
    try:
        pin(decision.states, outer, now)
    except (Drop, ValueError) as error:
        why = error.reason if isinstance(error, Drop) else str(error)
        text = f"The states of now are not those that sealed it ({why}). So nothing is sealed."
        found.steps.append(Step("State", text, failed=True))
        return False
    return True


def _tell_work(found: Explanation, work: Work, number: int, count: int) -> None:
    if count > 1:
        order = "innermost first" if number == 1 else "what came out goes into the next one"
        facts = state_facts(work.state, found.keys)
        text = f"State {number} of {count}, {mode(work.state.mode)} mode; {order}."
        found.steps.append(Step(f"State {number} at work", text, facts))
    found.steps += sealing(work, found.keys)
    if work.outer:
        title = "the outer packet" if count == 1 else f"the packet after state {number} of {count}"
        found.packets.append(layout_of(work, title, work.outer))


def _tell_departure(found: Explanation, decision: Decision) -> None:
    last = found.packets[-1]
    sent = found.sent[0]
    if last.data != sent:  # DF was taken off, see sending._let_be_cut
        last = found.packets[-1] = last._replace(data=sent)
        text = "It is longer than the way is wide, and has to leave all the same: DF is taken off."
        found.steps.append(Step("Let be cut", text))
    found.on_wire = last
    mtu = decision.states[-1].path_mtu
    if len(sent) > mtu:
        cut = fragment_ipv4 if sent[0] >> 4 == 4 else fragment_ipv6
        found.fragments = tuple(bytes(piece) for piece in cut(sent, mtu, 1))
        text = (
            f"{len(sent)} bytes on a way of {mtu}: it leaves in {len(found.fragments)} fragments of the outer packet, "
            "which the peer puts together before it opens it. (Their identification is chosen by who sends.)"
        )
        found.steps.append(Step("Fragments", text))
        found.packets += [plain_packet(f"fragment {at}", piece) for at, piece in enumerate(found.fragments, 1)]


def _icmp_text(reply: bytes) -> str:
    if reply[0] >> 4 == 4:
        at = (reply[0] & 15) * 4
        names = {(3, 1): "host unreachable", (3, 4): "fragmentation needed"}
        mtu = int.from_bytes(reply[at + 6 : at + 8], "big")
    else:
        at = 40
        names = {(1, 3): "address unreachable", (2, 0): "packet too big"}
        mtu = int.from_bytes(reply[at + 4 : at + 8], "big")
    name = names.get((reply[at], reply[at + 1]), f"type {reply[at]} code {reply[at + 1]}")
    too_big = f", MTU {mtu}" if name in ("fragmentation needed", "packet too big") else ""
    return f"ICMP {name}{too_big}"


