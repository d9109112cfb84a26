"""The SPD as classic BPF says the same as the SPD itself, and the kernel takes it."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

import pytest

from tests.each import each
from tests.netns import in_netns
from xfrmi.core.spd import Spd
from xfrmi.dev.policy_filter import (
    DIVERT,
    ETHERNET,
    MAX_LINES,
    UNKNOWN,
    Program,
    Rule,
    Section,
    Surroundings,
    inbound,
    outbound,
)
from xfrmi.dev.rtnl import Rtnl
from xfrmi.dev.traffic_control import Hook, TrafficControl
from xfrmi.wire.flow import flow_of
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6, Action, Dir
from xfrmi.wire.xfrm_types import NO_MARK, Mark, PolicyInfo, Selector

OWN = {AF_INET: bytes((10, 0, 0, 1)), AF_INET6: bytes.fromhex("fd00") + bytes(13) + b"\x01"}
IPV4, IPV6, UDP = struct.Struct(">BBHHHBBH4s4s"), struct.Struct(">IHBB16s16s"), struct.Struct(">HHHH")
_INSTRUCTION = struct.Struct("=HBBI")


def run(code: bytes, frame: bytes, network: int, mark: int = 0) -> int:
    """A classic BPF machine, as far as these programs need one. A load that fails is the kernel's: no match."""
    lines = list(_INSTRUCTION.iter_unpack(code))
    memory = [0] * 16
    a = x = at = 0
    while True:
        op, yes, no, k = lines[at]
        at += 1
        size = {0x00: 4, 0x08: 2, 0x10: 1}.get(op & 0x18, 0)
        match op:
            case 0x20 | 0x28 | 0x30 | 0x40 | 0x48 | 0x50:
                if k == 0xFFFFF000 + 20:
                    a = mark
                    continue
                place = k + (x if op & 0x40 else 0)
                place = place - UNKNOWN + network if place >= UNKNOWN else place
                if place + size > len(frame):
                    return 0
                a = int.from_bytes(frame[place : place + size])
            case 0x80:
                a = len(frame)
            case 0x00:
                a = k
            case 0x01:
                x = k
            case 0xB1:
                x = (frame[k] & 15) * 4
            case 0x60:
                a = memory[k]
            case 0x02:
                memory[k] = a
            case 0x54:
                a &= k
            case 0x1C:
                a = a - x & 0xFFFFFFFF
            case 0x05:
                at += k
            case 0x15:
                at += yes if a == k else no
            case 0x35:
                at += yes if a >= k else no
            case 0x45:
                at += yes if a & k else no
            case 0x06:
                return k
            case _:
                raise AssertionError(f"instruction {op:#x}")


def diverted(programs: Sequence[Program], frame: bytes, network: int, mark: int = 0) -> bool:
    """One filter after another, as the kernel asks them."""
    for program in programs:
        if run(program.code, frame, network, mark):
            return program.diverts
    return False


def packet(
    family: int, saddr: bytes, daddr: bytes, proto: int, sport: int = 0, dport: int = 0, hops: int = 64
) -> bytes:
    head = bytes((sport, dport)) if proto in (1, 58) else UDP.pack(sport, dport, 8, 0)
    body = head.ljust(20, b"\0")
    if family == AF_INET:
        return IPV4.pack(0x45, 0, 20 + len(body), 0, 0, hops, proto, 0, saddr, daddr) + body
    return IPV6.pack(6 << 28, len(body), proto, hops, saddr, daddr) + body


def some_address(chance: random.Random, family: int) -> bytes:
    if chance.random() < 0.1:
        return OWN[family]
    tail = bytes((chance.choice((0, 1, 2)), chance.choice((0, 1)), chance.choice((0, 1, 2, 3))))
    return b"\x0a" + tail if family == AF_INET else b"\xfd\x00" + tail[:1] + bytes(11) + tail[1:]


def some_selector(chance: random.Random, family: int) -> Selector:
    bits = (0, 8, 15, 16, 23, 24, 31, 32) if family == AF_INET else (0, 7, 16, 24, 33, 64, 112, 120, 127, 128)
    proto = chance.choice((0, 0, 0, 6, 17, 132, 1 if family == AF_INET else 58))
    port_masks = (0, 0, 0xFFFF, 0xFFFE) if proto else (0, 0, 0, 0xFFFF)
    masks = chance.choice(port_masks), chance.choice(port_masks)
    return Selector(
        family,
        some_address(chance, family),
        chance.choice(bits),
        some_address(chance, family),
        chance.choice(bits),
        proto,
        chance.choice((7, 8, 9)),
        masks[0],
        chance.choice((0, 8, 9)),
        masks[1],
        chance.choice((0, 0, 0, 3)),
    )


@each("base", [ETHERNET, 0])
@each("family", [AF_INET, AF_INET6])
@each("count", [1, 30, 900])
def test_as_the_spd(family: int, count: int, base: int) -> None:
    chance = random.Random(f"{family} {count} {base}")
    spd = Spd(lambda event: None)
    for _ in range(count):
        info = PolicyInfo(
            some_selector(chance, family),
            chance.choice((Dir.OUT, Dir.IN, Dir.FWD)),
            priority=chance.randrange(50),
            action=chance.choice((Action.ALLOW, Action.BLOCK)),
            mark=chance.choice((NO_MARK, NO_MARK, Mark(1, 3))),
        )
        spd.update(info, 0)
    rules = {
        direction: [
            Rule(policy.selector, policy.mark, policy.action == Action.BLOCK)
            for policy in spd.ranked(direction, 0, family)
        ]
        for direction in Dir
    }
    around = Surroundings(family, base, (OWN[family],), (500,))
    leaving = outbound(around, Section(rules[Dir.OUT]), 3)
    entering = inbound(around, Section(rules[Dir.IN]), Section(rules[Dir.FWD]), 1)
    assert all(len(program.code) <= 8 * MAX_LINES for program in (*leaving, *entering))
    assert count < 900 or len(leaving) > 2
    found = 0
    for _ in range(300 if count < 100 else 40):
        proto = chance.choice((6, 17, 132, 4, 1 if family == AF_INET else 58))
        sport, dport = chance.choice((7, 8, 9)), chance.choice((0, 8, 9))
        saddr, daddr = some_address(chance, family), some_address(chance, family)
        if not any(saddr):
            continue
        mark = chance.choice((0, 1, 2))
        whole = packet(family, saddr, daddr, proto, sport, dport)
        flow = flow_of(whole)
        frame = bytes(base) + whole
        policy = spd.lookup(Dir.OUT, 0, flow, mark, 3)
        expected = policy is not None and policy.action == Action.BLOCK
        assert diverted(leaving, frame, base, mark) == expected, flow
        found += expected
        direction, ifindex = (Dir.IN, 1) if daddr == OWN[family] else (Dir.FWD, 0)
        policy = spd.lookup(direction, 0, flow, mark, ifindex)
        assert diverted(entering, frame, base, mark) == (policy is not None and policy.action == Action.BLOCK), flow
    assert found or count == 1


@pytest.mark.parametrize("base", [ETHERNET, 0, UNKNOWN])
def test_what_passes_and_what_cannot_be_seen(base: int) -> None:
    """IPv4: our ESP and IKE. A fragment, ports out of sight: the policy that wants something counts, no other."""
    network = 0 if base == UNKNOWN else base
    everything = Rule(Selector(AF_INET), NO_MARK, True)
    around = Surroundings(AF_INET, base, (OWN[AF_INET],), (500,))
    leaving = outbound(around, Section([everything]), 3)
    entering = inbound(around, Section([everything]), Section([]), 1)
    other = bytes((10, 9, 9, 9))

    def sent(*words: int, saddr: bytes = OWN[AF_INET], edit: bytes = b"") -> bool:
        whole = packet(AF_INET, saddr, other, *words)
        return diverted(leaving, bytes(network) + whole[:6] + (edit or whole[6:8]) + whole[8:], network)

    assert sent(17, 1, 1) and sent(6, 500, 500) and sent(1, 8, 0)
    assert not sent(50) and sent(50, saddr=other) and not sent(50, edit=b"\x20\x10")
    if base != UNKNOWN:
        assert not sent(17, 500, 77) and sent(17, 77, 500) and sent(17, 500, 500, saddr=other)
    assert not sent(17, 68, 67, saddr=bytes(4))
    received = packet(AF_INET, other, OWN[AF_INET], 17, 4500, 500)
    assert base == UNKNOWN or not diverted(entering, bytes(network) + received, network)
    assert diverted(entering, bytes(network) + packet(AF_INET, other, OWN[AF_INET], 17, 500, 53), network)
    assert not diverted(entering, bytes(network) + packet(AF_INET, other, other, 17, 500, 53), network)
    dns = Selector(AF_INET, proto=17, dport=53, dport_mask=0xFFFF)
    by_port, but_port = Rule(dns, NO_MARK, True), Rule(dns, NO_MARK, False)
    cases = ([by_port], False, True), ([but_port, everything], True, True), ([but_port], False, False)
    for rules, whole, fragment in cases:
        leaving = outbound(around, Section(rules), 3)
        if base != UNKNOWN:
            assert sent(17, 9, 9) == whole
        assert sent(17, 9, 9, edit=b"\x20\0") == fragment and sent(17, 9, 9, edit=b"\0\7") == fragment


def test_ipv6() -> None:
    everything = Rule(Selector(AF_INET6), NO_MARK, True)
    around = Surroundings(AF_INET6, ETHERNET, (OWN[AF_INET6],), (500,))
    leaving = outbound(around, Section([everything]), 3)
    other = bytes.fromhex("fd01") + bytes(14)

    def sent(whole: bytes) -> bool:
        return diverted(leaving, bytes(14) + whole, 14)

    own = OWN[AF_INET6]
    assert sent(packet(AF_INET6, own, other, 58, 128)) and not sent(packet(AF_INET6, own, other, 58, 135, hops=255))
    assert sent(packet(AF_INET6, own, other, 58, 135)) and sent(packet(AF_INET6, own, other, 58, 138, hops=255))
    assert not sent(packet(AF_INET6, own, other, 50)) and sent(packet(AF_INET6, other, own, 50))
    assert not sent(packet(AF_INET6, bytes(16), other, 17))
    fragment = bytes((50, 0, 0, 1)) + bytes(4)
    assert not sent(IPV6.pack(6 << 28, 8, 44, 64, own, other) + fragment)
    assert sent(IPV6.pack(6 << 28, 8, 44, 64, own, other) + b"\x11" + fragment[1:])
    only_tcp = outbound(around, Section([Rule(Selector(AF_INET6, proto=6), NO_MARK, True)]), 3)
    options = IPV6.pack(6 << 28, 16, 60, 64, own, other) + bytes((17, 0, 1, 4)) + bytes(12)
    assert diverted(only_tcp, bytes(14) + options, 14), "which protocol it is cannot be seen"


def test_nothing_wanted_takes_no_program() -> None:
    around = Surroundings(AF_INET, ETHERNET, (), ())
    assert outbound(around, Section([Rule(Selector(AF_INET), NO_MARK, False)]), 3) == []
    assert [program.code[-4:] for program in outbound(around, Section([], True), 3)] == [struct.pack("=I", DIVERT)]


@in_netns
def test_the_kernel_takes_them() -> None:
    """Also many, one set in place of another, and in the end nothing is left."""
    rtnl = Rtnl()
    control = TrafficControl(rtnl)
    for family, count in ((AF_INET, 1), (AF_INET, 1000), (AF_INET, 1), (AF_INET6, 300), (AF_INET6, 0)):
        chance = random.Random(count)
        rules = [Rule(some_selector(chance, family), NO_MARK, bool(chance.randrange(2))) for _ in range(count)]
        around = Surroundings(family, ETHERNET, (OWN[family],), (500, 4500))
        control.hook(1)
        control.install(1, Hook.EGRESS, family, outbound(around, Section(rules), 1), 1)
        control.install(1, Hook.INGRESS, family, inbound(around, Section(rules), Section(rules), 1), 1)
    assert control.hooked() == {1}
    TrafficControl(rtnl).clear(1)
    assert control.hooked() == set()
    rtnl.close()
