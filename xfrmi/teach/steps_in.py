"""The steps of a packet from the wire, in the order of core/input.py."""

from __future__ import annotations

from xfrmi.core.dropped import Dropped
from xfrmi.core.engine import Engine
from xfrmi.core.interface import Interface
from xfrmi.core.plain import admit
from xfrmi.core.state import State
from xfrmi.teach.asked import Asked, PolicyQuestion
from xfrmi.teach.choices import input_candidates, policy_candidates
from xfrmi.teach.explanation import Explanation, Step, dropped
from xfrmi.teach.layout import layout_of, plain_packet, unopened
from xfrmi.teach.receiver import refused_by_host
from xfrmi.teach.steps_esp import opening, state_facts
from xfrmi.teach.watch import Watch, Work
from xfrmi.teach.wording import address, direction, flow_text, template_text
from xfrmi.wire.ip import addresses_of, destination_of, split_outer
from xfrmi.wire.xfrm_const import IPPROTO_ESP, SaDir


def explain_input(found: Explanation, engine: Engine, packet: bytes, now: float) -> None:
    """Fill `found` in."""
    refused = refused_by_host(packet, packet)
    if refused is not None:
        by, why = refused
        found.packets.append(plain_packet("the packet, as it came", packet))
        found.steps.append(Step("Arrival", f"{by} does not hand it to ESP: {why}.", failed=True))
        found.reason = f"{why} ({by})"
        return
    header, esp = split_outer(packet)
    found.steps.append(_arrival(bytes(header), bytes(esp)))
    daddr = destination_of(header)
    state = engine.sad.lookup_input(daddr, int.from_bytes(esp[:4], "big"), IPPROTO_ESP, 0)
    _tell_state(found, engine, state, daddr, int.from_bytes(esp[:4], "big"))
    watch = Watch([state for state in engine.sad.dump() if state.transform is not None])
    asked = Asked(engine)
    drops: list[Dropped] = []
    engine.on_drop = drops.append
    delivered = engine.input([(header, esp)], now)
    engine.on_drop = None
    if state is not None:
        _tell_validity(found, state, bool(watch.works), drops)
    for number, work in enumerate(watch.works):
        _tell_work(found, work, packet if not number else b"", number)
    if not found.packets:
        found.packets.append(unopened("the packet, as it came", packet, len(header)))
    found.on_wire = found.packets[0]
    _tell_device(found, engine, watch.works)
    for question in asked.policies:
        _tell_policies(found, engine, question, watch.works)
    for interface, packets in delivered:
        found.interface = interface.name
        found.delivered += tuple(bytes(one) for one in packets)  # type: ignore[arg-type]
    for inner in found.delivered:
        found.packets.append(plain_packet("the packet that is delivered", inner))
    if drops and not found.delivered:
        drop = drops[-1]
        found.reason = drop.reason
        found.counter = drop.counter
        if drop.interface is not None:
            found.interface = drop.interface.name
        found.steps.append(dropped(drop, _device_facts(drop.interface)))


def explain_plain(found: Explanation, engine: Engine, packet: bytes, now: float) -> None:
    """The same for what came in the clear, where a policy without if_id might refuse it: core/plain.py."""
    found.packets.append(plain_packet("the packet, as it came in the clear", packet))
    found.steps.append(Step("Arrival", "It is not ESP: it came in the clear, through no state."))
    asked = Asked(engine)
    drops: list[Dropped] = []
    engine.on_drop = drops.append
    found.delivered = (packet,) if admit(engine, [packet], now) else ()
    engine.on_drop = None
    for drop in drops:
        found.reason, found.counter = drop.reason, drop.counter
    for question in asked.policies:
        _tell_policies(found, engine, question, [])
    found.steps += map(dropped, drops)


def _arrival(header: bytes, esp: bytes) -> Step:
    saddr, daddr = addresses_of(header)
    in_udp = len(header) > (20 if header[0] >> 4 == 4 else 40) and header[9 if header[0] >> 4 == 4 else 6] == 17
    text = "ESP in UDP, on a port that is open for it." if in_udp else "Protocol 50: what follows the IP header is ESP."
    facts = (
        ("from", address(saddr)),
        ("to", address(daddr)),
        ("SPI", f"0x{esp[:4].hex()}"),
        ("sequence number", str(int.from_bytes(esp[4:8], "big"))),
    )
    return Step("Arrival", text, facts)


def _tell_state(found: Explanation, engine: Engine, state: State | None, daddr: bytes, spi: int) -> None:
    rows = tuple(input_candidates(engine, state, daddr, spi, IPPROTO_ESP))
    if state is None:
        text = f"Nobody has a state for destination {address(daddr)} and SPI {spi:#x}."
        found.steps.append(Step("State", text, (), rows, failed=True))
        return
    text = "Found by destination, SPI and protocol alone. The if_id only says where the packet will come out."
    found.steps.append(Step("State", text, state_facts(state, found.keys), rows))


def _tell_validity(found: Explanation, state: State, worked: bool, drops: list[Dropped]) -> None:
    """What is looked at before the sequence number."""
    facts = (
        ("direction", {SaDir.NONE: "any", SaDir.IN: "in", SaDir.OUT: "out"}.get(SaDir(state.dir), "?")),
        ("encapsulation", "in UDP" if state.encap_type else "none"),
    )
    if worked:
        found.steps.append(Step("Fit", "The state is valid, and the packet is encapsulated as it says.", facts))
    elif drops:
        found.steps.append(Step("Fit", f"The state is not for this packet: {drops[0].reason}.", facts, failed=True))


def _tell_work(found: Explanation, work: Work, packet: bytes, number: int) -> None:
    if number:
        text = "What came out is ESP for this host again, and goes through another state."
        found.steps.append(Step("Nested", text, state_facts(work.state, found.keys)))
    found.steps += opening(work, found.keys)
    if packet:
        work.header = work.header or packet[: len(packet) - _esp_len(packet)]
        found.packets.append(layout_of(work, "the packet, as it came", packet))
    elif work.header and work.sealed:
        outer = work.header + work.head + work.iv + work.sealed
        found.packets.append(layout_of(work, f"the packet inside, opened by state {number + 1}", outer))


def _esp_len(packet: bytes) -> int:
    return len(split_outer(packet)[1])


def _tell_device(found: Explanation, engine: Engine, works: list[Work]) -> None:
    opened = [work for work in works if work.packet]
    if not opened:
        return
    state = opened[-1].state
    interface = engine.interfaces.for_state(state.if_id)
    if interface is None:
        text = f"No device that is up has the state's if_id, {state.if_id:#x}."
        found.steps.append(Step("Device", text, failed=True))
        return
    found.interface = interface.name
    if interface.policy_based:
        text = "The state has no device: policies without if_id decide, and what they let in is the host's."
    else:
        text = f"The state's if_id is {state.if_id:#x}, as that of {interface.name}, which has received the packet now."
    found.steps.append(Step("Device", text))


def _tell_policies(found: Explanation, engine: Engine, question: PolicyQuestion, works: list[Work]) -> None:
    name = direction(question.dir)
    rows = tuple(
        policy_candidates(
            list(engine.spd.dump()), question.answer, question.dir, question.if_id, question.flow, question.mark,
            question.ifindex,
        )
    )  # fmt: skip
    facts = [("flow", flow_text(question.flow))]
    for policy in question.answer:
        facts += [("demands", template_text(template)) for template in policy.templates]
    facts += [("came through", f"spi {work.state.spi:#x}") for work in works if work.packet]
    place = "for this host" if name == "in" else "to be forwarded"
    text = f"The packet is {place}, so a policy of direction {name} with this if_id has to let it in."
    if not question.answer:
        text += " There is none."
    elif not works and not found.reason:
        text += " It demands nothing, or does not insist."
    elif not found.reason:
        text += " It demands what the packet came through, no more and no less."
    found.steps.append(Step(f"Policy ({name})", text, tuple(facts), rows, failed=not question.answer))


def _device_facts(interface: Interface | None) -> tuple[tuple[str, str], ...]:
    if interface is None:
        return ()
    stats = interface.stats()
    moved = {"rx_packets": stats.rx_packets, "rx_errors": stats.rx_errors, "rx_dropped": stats.rx_dropped}
    return ((f"counters of {interface.name}", ", ".join(f"{name} +{value}" for name, value in moved.items() if value)),)


