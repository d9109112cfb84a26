"""The engine's two walks against captures of a kernel: what goes out, what comes in, and every counter on the way.

Set-up is the capture's own `ip xfrm` commands. ICMP errors are compared byte for byte but for what a kernel makes up
(IPv4 identification, IPv6 flow label) and their source, which has to be the inner destination here (PMTU-02).
"""

from __future__ import annotations

import pytest

from tests.core import walk_vectors
from tests.core.walk_vectors import Arrival, Machine, Received, Sent, moved
from xfrmi.core.outgoing import Outgoing
from xfrmi.errors import XfrmError
from xfrmi.wire.fragment import fragment_ipv4, fragment_ipv6
from xfrmi.wire.ip import checksum, ipv4_header_checksum, pseudo_header_sum, split_outer, trim
from xfrmi.wire.xfrm_const import IPPROTO_FRAGMENT, IPPROTO_ICMPV6, IPPROTO_UDP

NOW = walk_vectors.NOW

LEARNED_ROUTE = "IP forwarding answers by itself, from the MTU that an earlier packet left in its route"
NOT_THE_ENGINES = {
    "tx/4 interface down": "a TUN that is down hands nothing over",
    "tx/6 interface down": "a TUN that is down hands nothing over",
    "pmtu/underlay 1280/6-in-4/forward 1281": LEARNED_ROUTE,
    "pmtu/underlay 1280/6-in-4/forward 1400": LEARNED_ROUTE,
    "pmtu/underlay 1280/6-in-6/forward 1281": LEARNED_ROUTE,
    "pmtu/underlay 1280/6-in-6/forward 1400": LEARNED_ROUTE,
    "outer fragments": "the host puts fragments together before a raw socket sees them (RAW-04)",
    "err/plain packet into xfrm0 subnet without ESP": "what is not ESP does not come to the engine",
}
"""Captures that are not replayed, and why."""

REFUSED_BY_IP = {"next header 4 with IPv6 inside"}
"""By label: whole packets that are not what they are announced to be."""

NOT_RECEIVED = {"zero checksum": "checking UDP over IPv6 is the receiving socket's work"}
"""By label: packets that do not come to the engine."""

SENT = [case for case in walk_vectors.sent() if case.id not in NOT_THE_ENGINES]
RECEIVED = [case for case in walk_vectors.received() if case.id not in NOT_THE_ENGINES]


# Out ---------------------------------------------------------------------------------------------------------------


def sessions() -> list[list[Sent]]:
    """Captures that continue on the machine of the one before belong together."""
    groups: list[list[Sent]] = []
    for case in SENT:
        if case.continues:
            groups[-1].append(case)
        else:
            groups.append([case])
    return groups


@pytest.mark.parametrize("session", sessions(), ids=lambda session: session[0].id)
@pytest.mark.parametrize("one_burst", [False, True], ids=["one by one", "one burst"])
def test_out(session: list[Sent], one_burst: bool) -> None:
    machine = Machine()
    for case in session:
        replay_sent(machine, case, one_burst)


def replay_sent(machine: Machine, case: Sent, one_burst: bool) -> None:
    engine, xfrm0 = machine.engine, machine.xfrm0
    set_up(machine, case)
    before = machine.counters()
    left: list[bytes] = []
    replies: list[bytes] = []
    for burst in [case.inner] if one_burst else [[packet] for packet in case.inner]:
        outgoing, errors = engine.output(xfrm0, burst, NOW)
        left += leave(machine, outgoing, case.path_mtu)
        replies += map(bytes, errors)
    assert moved(before, machine.counters()) == case.stat | case.link
    assert [len(packet) for packet in left] == case.lengths
    for packet, head in zip(left, case.heads, strict=False):
        assert outer_header(packet) == outer_header(head)
    if case.answers:
        refused = [packet for packet in case.inner if any(packet[: len(q)] == q for q in map(quoted, case.answers))]
        assert len(refused) == len(case.answers)
        assert [said(reply) for reply in replies[: len(refused)]] == [said(answer) for answer in case.answers]
    for reply in replies:
        assert source_of(reply) == destination_of(quoted(reply))
        assert checksums_right(reply)


def set_up(machine: Machine, case: Sent) -> None:
    machine.router.mtu = case.path_mtu
    machine.router.ifindex = walk_vectors.XFRM0 if "routing loop" in case.id else walk_vectors.ETH0
    machine.router.generation += 1
    if not case.refused:
        for command in case.setup:
            machine.run(command)
        return
    for command in case.setup[:-1]:
        machine.run(command)
    with pytest.raises(XfrmError) as caught:
        machine.run(case.setup[-1])
    assert caught.value.extack + "." == case.refused


def leave(machine: Machine, outgoing: list[Outgoing], mtu: int) -> list[bytes]:
    """What a raw socket makes of it (RAW-06): fragments of what may be fragmented, failure for the rest."""
    left: list[bytes] = []
    for group in outgoing:
        for position, packet in enumerate(map(bytes, group.packets)):
            if len(packet) <= mtu:
                left.append(packet)
            elif packet[0] >> 4 == 6:
                left += map(bytes, fragment_ipv6(packet, mtu, 1))
            elif packet[6] & 0x40:
                machine.engine.send_failed(group, [position])
            else:
                left += map(bytes, fragment_ipv4(packet, mtu, 1))
    return left


def outer_header(packet: bytes) -> bytes:
    """Outer headers, SPI and sequence number, as far as captured and without what is not ours to choose: IPv4
    identification where DF is clear, the identification of IPv6 fragments, and checksums."""
    if packet[0] >> 4 == 6:
        return packet[: {IPPROTO_UDP: 46, IPPROTO_FRAGMENT: 44}.get(packet[6], 48)]
    ident = packet[4:6] if packet[6] & 0x40 else b""
    if packet[6] & 0x1F or packet[7]:  # a later fragment
        return packet[:4] + packet[6:10] + packet[12:20]
    return packet[:4] + ident + packet[6:10] + packet[12 : 36 if packet[9] == IPPROTO_UDP else 28]


def said(error: bytes) -> bytes:
    """An ICMP error, cut to 128 bytes like those of the captures, without identification, flow label, and source."""
    if error[0] >> 4 == 4:
        return error[:4] + error[6:10] + error[16:128]
    return error[:1] + error[4:8] + error[24:42] + error[44:128]


def quoted(error: bytes) -> bytes:
    return error[28:] if error[0] >> 4 == 4 else error[48:]


def source_of(packet: bytes) -> bytes:
    return packet[12:16] if packet[0] >> 4 == 4 else packet[8:24]


def destination_of(packet: bytes) -> bytes:
    return packet[16:20] if packet[0] >> 4 == 4 else packet[24:40]


def checksums_right(error: bytes) -> bool:
    if error[0] >> 4 == 6:
        return checksum(error[40:], pseudo_header_sum(error[8:40], IPPROTO_ICMPV6, len(error) - 40)) == 0
    return checksum(error[20:]) == 0 and ipv4_header_checksum(error[:20]).to_bytes(2, "big") == error[10:12]


# In ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", RECEIVED, ids=lambda case: case.id)
def test_in(case: Received) -> None:
    machine = Machine()
    for command in case.setup:
        machine.run(command)
    for arrival in case.packets:
        if arrival.label not in NOT_RECEIVED:
            replay_arrival(machine, arrival)
    if all(arrival.link is None for arrival in case.packets):
        assert machine.counters() == case.stat | case.link
    states = list(machine.engine.states())
    if case.after is None:
        assert not states
        return
    (state,) = states
    stats = state.snapshot().stats
    assert [state.bytes, state.packets, *stats] == case.after


def replay_arrival(machine: Machine, arrival: Arrival) -> None:
    before = machine.counters()
    delivered = machine.engine.input([split_outer(arrival.outer)], NOW)
    rose = moved(before, machine.counters())
    if arrival.link is not None:
        assert rose == arrival.stat | arrival.link
    packets = [bytes(packet) for _, burst in delivered for packet in burst]
    if arrival.heard and not arrival.delivered:  # transport mode and xfrm1: nobody looked, but it got through
        assert len(packets) == arrival.heard
    elif arrival.stat:
        assert packets == []
    else:
        assert packets == [packet for packet in arrival.delivered if is_taken(packet, arrival.label)]


def is_taken(packet: bytes, label: str) -> bool:
    """Seen on xfrm0 also where IP refuses it next; here it is refused before it gets to the TUN."""
    if label in REFUSED_BY_IP:
        return False
    try:
        return trim(packet) == packet
    except ValueError:
        return False


@pytest.mark.parametrize("case", [case for case in RECEIVED if len(case.packets) > 1], ids=lambda case: case.id)
def test_in_one_burst(case: Received) -> None:
    """The same counters and the same packets when all arrive at once."""
    apart, together = Machine(), Machine()
    for machine in (apart, together):
        for command in case.setup:
            machine.run(command)
    datagrams = [split_outer(arrival.outer) for arrival in case.packets]
    expected = [bytes(p) for d in datagrams for _, burst in apart.engine.input([d], NOW) for p in burst]
    delivered = [bytes(p) for _, burst in together.engine.input(datagrams, NOW) for p in burst]
    assert delivered == expected
    assert together.counters() == apart.counters()
    for one, other in zip(apart.engine.states(), together.engine.states(), strict=True):
        assert one.snapshot() == other.snapshot()
