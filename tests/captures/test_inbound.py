"""Inbound captures: forged packets come off the wire; what xfrm0 delivers, what a socket reads, which counters move,
and what `ip -s xfrm state` and `ip -d -s link` print afterwards."""

from __future__ import annotations

import re
from typing import Any

from tests.captures.files import INBOUND, Vector, vectors
from tests.captures.host import SOCKET_PORT, Wire, ip_input, parameter_problem, udp_payload
from tests.captures.machine import NOW, Counters, Machine, expected, moved, without_dates
from tests.each import each
from xfrmi.wire.ip import split_outer
from xfrmi.wire.link_types import LinkStats
from xfrmi.wire.xfrm_const import Mode

VECTORS = list(vectors(INBOUND))
REFUSED_BY_POLICY = {"XfrmInNoPols", "XfrmInPolBlock", "XfrmInTmplMismatch", "XfrmInStateMismatch", "XfrmInPolError"}


every = each("vector", VECTORS, ids=lambda vector: vector.id)


def start(vector: Vector) -> Machine:
    machine = Machine()
    assert machine.set_up(vector.data["commands"]) == vector.data.get("setup_output", "").rstrip("\n")
    return machine


def receive(machine: Machine, outers: list[bytes]) -> dict[str, list[bytes]]:
    """By device, what is delivered."""
    wire = Wire()
    datagrams = [split_outer(whole) for outer in outers if (whole := wire.esp(outer)) is not None]
    found: dict[str, list[bytes]] = {}
    for interface, packets in machine.engine.input(datagrams, NOW):
        found.setdefault(interface.name, []).extend(map(bytes, packets))
    return found


@every
def test_one_by_one(vector: Vector) -> None:
    machine = start(vector)
    mode = machine.states()[0].mode
    wire = Wire()
    beginning = machine.counters()
    for packet in vector.data["packets"]:
        before = machine.counters()
        outer = bytes.fromhex(packet["outer"])
        whole = wire.esp(outer)
        delivered = receive(machine, [] if whole is None else [whole])
        arrived = [packet for packets in delivered.values() for packet in packets]
        for answer in filter(None, map(parameter_problem, arrived)):
            machine.engine.output(machine.xfrm0, [answer], NOW)
        delta = moved(before, machine.counters())
        if "delta" in packet:
            assert as_captured(delta) == expected(packet["delta"]), packet["label"]
        check_delivered(packet, delivered.get("xfrm0", []), delta, mode)
        if "socket" in packet:
            heard = [payload for inner in arrived if (payload := udp_payload(inner, SOCKET_PORT)) is not None]
            if whole is None:  # what is not ESP is the host's alone
                heard += [payload for p in [outer] if (payload := udp_payload(p, SOCKET_PORT)) is not None]
            assert heard == [bytes.fromhex(payload) for payload in packet["socket"]], packet["label"]
            assert packet["answers"] == [], "nobody answers to ESP"
    total = moved(beginning, machine.counters())
    if "delta_total" in vector.data:
        assert total == expected(vector.data["delta_total"])
    check_texts(vector, machine, total)


def as_captured(delta: Counters) -> Counters:
    """`replay-window` of a state's statistics is nowhere in the captured deltas, which read the line above in its
    place; `state_text_after` has it."""
    sa = {name: by for name, by in delta.get("sa", {}).items() if name != "replay-window"}
    rest = {group: values for group, values in delta.items() if group != "sa"}
    return rest | {"sa": sa} if sa else rest


def check_delivered(packet: dict[str, Any], ours: list[bytes], delta: Counters, mode: int) -> None:
    """AF_PACKET sees a packet on xfrm0 before the policies and IP have been asked, but not what transport mode leaves;
    we give to the TUN what is accepted, and nothing that cannot be a packet."""
    if packet["delivered"] is None:
        return
    seen = [bytes.fromhex(inner) for inner in packet["delivered"]]
    if mode == Mode.TRANSPORT:
        assert not seen
        assert len(ours) == delta.get("link", {}).get("rx_packets", 0)
    elif REFUSED_BY_POLICY & delta.get("xfrm_stat", {}).keys():
        assert not ours
        assert sum(map(len, seen)) == delta.get("link", {}).get("rx_bytes", 0)
    else:
        assert [p for p in ours if ip_input(p)] == [p for p in seen if accepted(p, packet)], packet["label"]
        assert all(packet in seen for packet in ours)
        if "delta" in packet:
            assert len(seen) == delta.get("link", {}).get("rx_packets", 0)


def accepted(inner: bytes, packet: dict[str, Any]) -> bool:
    """Has IP taken it? Where a socket would have read it, the capture says so."""
    payload = udp_payload(inner, SOCKET_PORT)
    return ip_input(inner) is not None and (payload is None or payload.hex() in packet.get("socket", [payload.hex()]))


def check_texts(vector: Vector, machine: Machine, total: Counters) -> None:
    assert without_dates(machine.state_text()) == without_dates(vector.data["state_text_after"])
    # The machine counted on from vector to vector: before this one, it was as much less as this one has brought.
    text = vector.data["link_text_after"].rstrip("\n")
    received, transmitted = ([int(n) for n in re.findall(r"\d+", line)] for line in text.splitlines()[4::2])
    ours = total.get("link", {})
    names = ("bytes", "packets", "errors", "dropped")
    base = [n - ours.get(f"rx_{name}", 0) for n, name in zip(received, names, strict=False)]
    assert min(base) >= 0
    stats = LinkStats(
        rx_bytes=base[0] + machine.xfrm0.rx_bytes, rx_packets=base[1] + machine.xfrm0.rx_packets,
        rx_errors=base[2] + machine.xfrm0.rx_errors, rx_dropped=base[3] + machine.xfrm0.rx_dropped,
        tx_bytes=transmitted[0], tx_packets=transmitted[1], tx_errors=transmitted[2], tx_dropped=transmitted[3],
        tx_carrier_errors=transmitted[4], collisions=transmitted[5],
    )  # fmt: skip
    assert machine.link_text(stats) == text


@every
def test_all_at_once(vector: Vector) -> None:
    """The same packets, counters and states when they come in one burst."""
    apart, together = start(vector), start(vector)
    outers = [bytes.fromhex(packet["outer"]) for packet in vector.data["packets"]]
    wire = Wire()
    found: dict[str, list[bytes]] = {}
    for outer in outers:
        whole = wire.esp(outer)
        for name, packets in receive(apart, [] if whole is None else [whole]).items():
            found.setdefault(name, []).extend(packets)
    assert receive(together, outers) == found
    assert together.counters() == apart.counters()
    for one, other in zip(apart.states(), together.states(), strict=True):
        assert one.snapshot() == other.snapshot()


def test_the_counters_of_the_device_go_on_from_vector_to_vector() -> None:
    """`link_text_after` of each file: what a vector brought is in the text, and nothing goes down in between."""
    seen: dict[Any, list[int]] = {}
    for vector in VECTORS:
        after = [int(n) for n in re.findall(r"\d+", vector.data["link_text_after"].splitlines()[4])]
        assert all(a >= b for a, b in zip(after, seen.get(vector.file, after), strict=True))
        seen[vector.file] = after
