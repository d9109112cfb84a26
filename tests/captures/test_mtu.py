"""Transmit errors, path MTUs and ICMP: what leaves eth0, what the sender is told, and which counters move.

The vectors of a file were captured one after the other on one machine, so they are replayed that way. Where one follows
another that is not in the files, what is missing is taken from the vector itself: from the sequence number of its first
packet, and from the path MTU its socket knew before it sent anything.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import Any

from tests.captures.files import MTU, Vector, vectors
from tests.captures.host import addresses, put_together
from tests.captures.icmp_errors import as_sent, checksums_right, is_from_where_it_was_going, mtu_told, said
from tests.captures.machine import NOW, Machine, Scripted, expected, moved, turned_round
from tests.captures.outer_packets import DF, check_outer, datagram, decrypted, outer_header
from tests.captures.sender import MIN_PMTU, Sender
from tests.each import each
from xfrmi.core import esp
from xfrmi.core.state import State
from xfrmi.core.transform import BadIcv
from xfrmi.wire.address import pack_address
from xfrmi.wire.ip import Buffer, checksum, ipv4_header_checksum, pseudo_header_sum, trim, upper_layer
from xfrmi.wire.xfrm_const import IPPROTO_ESP, IPPROTO_UDP, STATE_ESN, Mode
from xfrmi.wire.xfrm_types import Limits, StateInfo

VECTORS = list(vectors(MTU))
ROUTE = re.compile(r"(?m)^([0-9a-f.:]+) (?:from :: )?dev [^\n]*?(?:\n    cache[^\n]*?)?(?: mtu (\d+)[^\n]*)?$")
"""What `ip route get` prints: destination, learned MTU."""
RATE_LIMIT = 6
"""So many ICMP errors to one destination at once, before the kernel holds some back."""


every = each("vector", VECTORS, ids=lambda vector: vector.id)


MODES = {"one by one": (False, True), "one burst": (True, True), "no quirks": (False, False)}
"""(all packets at once, with --kernel-quirks)"""


@every
@each(("one_burst", "quirks"), MODES.values(), ids=list(MODES))
def test_as_captured(vector: Vector, one_burst: bool, quirks: bool) -> None:
    outcome = outcomes(vector.file, one_burst, quirks)[vector.index]
    if outcome is not None:
        raise outcome


@cache
def outcomes(file: Any, one_burst: bool, quirks: bool) -> list[Exception | None]:
    """What came of each vector of a file, replayed in order on one machine."""
    machine = Machine(kernel_quirks=quirks)
    found: list[Exception | None] = []
    for vector in VECTORS:
        if vector.file != file:
            continue
        try:
            replay(vector.data, machine, one_burst)
        except Exception as error:  # the next vectors are to be replayed all the same
            found.append(error)
        else:
            found.append(None)
    return found


def replay(data: dict[str, Any], machine: Machine, one_burst: bool) -> None:
    assert machine.set_up(data["commands"]) == data["setup_output"].rstrip("\n")
    captured = [packet for packet in map(bytes.fromhex, data.get("emitted", ())) if is_esp(packet)]
    take_over(data, machine, captured)
    at_first = [(replace(state.info, limits=Limits()), state.oseq) for state in machine.states()]
    before = machine.counters()
    sender = Sender(machine)
    if "icmp_sent" in data:
        sender.underlay_error(bytes.fromhex(data["icmp_sent"]))
    printed = stimulate(data, sender, one_burst)
    if "lan_sent" in data:
        sender.forward(bytes.fromhex(data["lan_sent"]))
    states = [info for info, _ in at_first]
    if (vanished(sender, data) or looped(states, data)) and not machine.engine.kernel_quirks:
        check_carried(sender, states)
        return
    made_up = "udpsend" in data["stimulus"]
    check_printed(printed, data["output"])
    assert moved(before, machine.counters()) == expected(data["delta"])
    if "emitted_summary" in data:
        assert [len(packet) for packet in sender.emitted] == [packet["len"] for packet in data["emitted_summary"]]
        captured_heads = [bytes.fromhex(packet["head"]) for packet in data["emitted_summary"]]
    else:
        assert [len(packet) for packet in sender.emitted] == [len(packet) for packet in captured]
        captured_heads = captured
    for ours, theirs in zip(sender.emitted, captured_heads, strict=True):
        assert outer_header(ours, made_up) == outer_header(theirs, made_up)
    for ours, theirs in zip(put_together(sender.emitted), put_together(captured), strict="emitted" in data):
        check_sealed(at_first, ours, theirs, made_up)
    check_errors(sender, data, made_up)


def stimulate(data: dict[str, Any], sender: Sender, one_burst: bool) -> str:
    if "inject_lengths" in data:
        first = bytes.fromhex(data["inject_first"])
        return sender.inject([resized(first, length) for length in data["inject_lengths"]], one_burst)
    return "\n".join(filter(None, (sender.run(line.strip()) for line in data["stimulus"].split(";") if line.strip())))


def resized(packet: bytes, length: int) -> bytes:
    """The same UDP datagram with so many zeros that the packet becomes `length` long."""
    version = packet[0] >> 4
    start = 20 if version == 4 else 40
    udp = packet[start : start + 4] + (length - start).to_bytes(2, "big") + bytes(2)
    udp = udp.ljust(length - start, b"\0")
    check = checksum(udp, pseudo_header_sum(b"".join(addresses(packet)), IPPROTO_UDP, len(udp)))
    udp = udp[:6] + check.to_bytes(2, "big") + udp[8:]
    if version == 6:
        return packet[:4] + len(udp).to_bytes(2, "big") + packet[6:start] + udp
    header = packet[:2] + length.to_bytes(2, "big") + packet[4:start]
    return header[:10] + ipv4_header_checksum(header).to_bytes(2, "big") + header[12:] + udp


# What the vector itself tells of the time before it ------------------------------------------------------------------


def take_over(data: dict[str, Any], machine: Machine, captured: list[bytes]) -> None:
    """Bring the machine to where it was, if vectors between the last one and this one are not in the file."""
    if found := re.search(r"kptool udpsend \S+ (\S+)", data["stimulus"]):
        known = re.search(r"mtu_before=(\d+)", data["output"])
        assert known is not None
        machine.route_mtu[pack_address(found[1])] = int(known[1])
    if "lan_sent" in data and answered_by_ip(data):
        sent, error = bytes.fromhex(data["lan_sent"]), bytes.fromhex(data["lan"][0])
        if sent[0] >> 4 == 4:
            machine.xfrm0.mtu = mtu_told(error)
        else:
            machine.route_mtu[addresses(sent)[1]] = mtu_told(error)
    whole = put_together(captured)
    if whole:
        header, packet = datagram(whole[0])
        seq = int.from_bytes(packet[4:8], "big")
        state = sealer(machine, addresses(bytes(header))[1], packet[:4], whole[0])
        if state.oseq + 1 & 0xFFFFFFFF != seq and not data["commands"]:
            state.sequence.last = seq - 1


def answered_by_ip(data: dict[str, Any]) -> bool:
    """Forwarding refused the packet: it did not come to xfrm0."""
    counted = data["delta"].get("snmp", {})
    return "link" not in data["delta"] and ("IpFragFails" in counted or "Ip6FragFails" in counted)


def sealer(machine: Machine, peer: bytes, spi: Buffer, whole: bytes) -> Scripted:
    """The state that sealed `whole`; set up as some other vector does, if this machine has none."""
    for commands in [[], *(vector.data["commands"] for vector in VECTORS if vector.data.get("emitted"))]:
        other = machine if not commands else Machine()
        other.set_up(commands)
        for state in other.states():
            if state.spi_bytes == spi and state.dst == peer and is_sealed_by(state, whole):
                if other is not machine:
                    machine.set_up(commands)
                return next(s for s in machine.states() if s.info == state.info)
    raise AssertionError("no vector has set up what this one goes on with")


def is_sealed_by(state: Scripted, whole: bytes) -> bool:
    packet = datagram(whole)[1]
    try:
        decrypted(state, packet, number(state.info, state.oseq, packet))
    except BadIcv:
        return False
    return True


def number(info: StateInfo, before: int, packet: Buffer) -> int:
    """The whole sequence number of an ESP packet sealed some time after number `before`."""
    low = int.from_bytes(packet[4:8], "big")
    if not info.flags & STATE_ESN:
        return low
    return low + (before & ~0xFFFFFFFF) + (0 if low > before & 0xFFFFFFFF else 1 << 32)


# What came out -------------------------------------------------------------------------------------------------------


def is_esp(packet: bytes) -> bool:
    """Not the machine's own noise: neighbour discovery, multicast listeners."""
    protocol, _, _ = upper_layer(packet)
    return protocol == IPPROTO_ESP or (protocol == IPPROTO_UDP and packet[0] >> 4 in (4, 6))


def check_sealed(at_first: list[tuple[StateInfo, int]], ours: bytes, theirs: bytes, made_up: bool) -> None:
    """What the kernel sealed is what we sealed, and we seal it to the same bytes."""
    (header, packet), (_, our_packet) = datagram(theirs), datagram(ours)
    peer = addresses(bytes(header))[1]
    info, before = next(
        (info, before) for info, before in at_first if (info.spi.to_bytes(4, "big"), info.dst) == (packet[:4], peer)
    )
    seq = number(info, before, packet)
    again = Scripted(info, now=NOW)
    inner, our_inner = (opened(info, p, seq) for p in (theirs, ours))
    assert our_packet[4:8] == packet[4:8]
    if info.mode != Mode.TUNNEL and theirs[0] >> 4 == 4 and not theirs[6] & DF:
        made_up = True  # the identification is the outer one's
    assert (as_sent(inner) == as_sent(our_inner)) if made_up else (inner == our_inner)
    again.sequence.last = seq - 1 if seq else 0xFFFFFFFF
    again.ivs = [bytes(packet[8 : 8 + again.transform.iv_len])]
    next_header = decrypted(again, packet, seq)[-1]
    check_outer(again, bytes(esp.seal(again, inner, NOW)), theirs, seq, next_header)


def opened(info: StateInfo, outer: bytes, seq: int) -> bytes:
    receiver = turned_round(State(info, now=NOW))
    receiver.window.top = seq - 1
    return bytes(trim(esp.open(receiver, *datagram(outer), NOW)))


def vanished(sender: Sender, data: dict[str, Any]) -> bool:
    """A small IPv6 packet for which the tunnel is too narrow (TX-12a): the kernel drops it, xfrmi sends fragments."""
    small = [packet for packet in sender.sent if packet[0] >> 4 == 6 and len(packet) <= MIN_PMTU[6]]
    return len(small) == len(sender.sent) == 1 and data["delta"].get("link", {}).get("tx_aborted_errors") == 1


def looped(states: list[StateInfo], data: dict[str, Any]) -> bool:
    """Transport mode: the kernel takes it for a loop (TX-10), xfrmi goes by `dev`."""
    transport = [info for info in states if info.mode == Mode.TRANSPORT]
    return len(transport) == len(states) == 1 and data["delta"].get("link", {}).get("tx_collisions") == 1


def check_carried(sender: Sender, states: list[StateInfo]) -> None:
    """It has left, and nobody is told anything."""
    assert sender.emitted and not sender.to_itself + sender.to_lan
    (whole,) = put_together(sender.emitted)
    packet = datagram(whole)[1]
    (info,) = states
    assert opened(info, whole, number(info, 0, packet)) == sender.sent[0]


def check_printed(ours: str, theirs: str) -> None:
    """Sends and injections line by line; of a route, the destination and the MTU it has learned."""
    shown = ROUTE.sub(_route, theirs)
    assert ours.splitlines() == shown.splitlines()


def _route(found: re.Match[str]) -> str:
    return f"{found[1]} mtu {found[2]}" if found[2] else found[1]


def check_errors(sender: Sender, data: dict[str, Any], made_up: bool) -> None:
    """ICMP of xfrm0: as many as the kernel has counted, and those that were captured, in order. The kernel's rate limit
    holds some of a burst back."""
    counted = data["delta"].get("snmp", {})
    ours = sender.to_itself + sender.to_lan
    sent = len(ours) + len(sender.ip_answered)
    allowed = counted.get("IcmpOutMsgs", 0) + counted.get("Icmp6OutMsgs", 0)
    assert sent == allowed if sent <= RATE_LIMIT else sent >= allowed > 0
    assert all(is_from_where_it_was_going(error) and checksums_right(error) for error in ours)
    for errors, theirs in ((sender.to_itself, data["loopback"]), (sender.to_lan, data["lan"])):
        captured = [bytes.fromhex(error) for error in theirs]
        if errors is sender.to_lan and sender.ip_answered:
            assert [(error[0] >> 4, mtu_told(error)) for error in captured] == sender.ip_answered
            captured = []
        left = iter([said(error, made_up) for error in errors])
        for error in captured:
            assert said(error, made_up) in left
