"""The SPD as classic BPF: which packets on a device are ours to look at, because a policy without if_id says so.

A program looks at one packet and returns DIVERT or PASS. It has the policies one after another, best first, as blocks
that end in a verdict or fall through to the next. In front of them: the addresses, the protocol and what xfrm takes
for ports are put into scratch memory, and what no policy may touch is let through:

    our ESP                from (to) an address of this host; a state has been applied to it already
    IKE and ESP in UDP     from (to) an address of this host and one of `ports`: what socket policies do in a kernel
    neighbour discovery    without it nobody finds anybody; it has to come from the link anyway
    source 0.0.0.0, ::     DHCP, which goes past a kernel's xfrm by a packet socket; who has no address yet

What cannot be seen errs on the safe side. A fragment shows no ports, and an IPv6 packet with extension headers neither
ports nor protocol: then a policy that demands something counts as if it asked for no ports (and protocol), and one that
demands nothing is not believed. Who gets the packet looks again.

Programs are as long as the kernel allows, so many policies take several. Of each part two are made, for two filters in
a row: one that diverts, and one that ends the search for packets that a policy of this part lets through.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from xfrmi.dev.socket_filter import (
    INSTRUCTION,
    JEQ,
    LD_ABS,
    LDB_ABS,
    LDB_IND,
    LDH_IND,
    LDX_MSH,
    RET,
    SKF_NET_OFF,
    Line,
    assembled,
)
from xfrmi.wire.flow import PORT_PROTOCOLS
from xfrmi.wire.ip import IPV6_HEADER_LEN
from xfrmi.wire.xfrm_const import (
    AF_INET,
    AF_INET6,
    IPPROTO_ESP,
    IPPROTO_GRE,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_MH,
    IPPROTO_UDP,
)
from xfrmi.wire.xfrm_types import Mark, Selector

DIVERT, PASS = 0xFFFFFFFF, 0
MAX_LINES = 4096
"""BPF_MAXINSNS."""

ETHERNET = 14
"""Bytes in front of the IP header on a device of this kind; 0 on one without a link layer."""
UNKNOWN = SKF_NET_OFF
"""Wherever the IP header is. There a program cannot see what lies outside the packet's head."""

_LD_LEN, _LD_IMM, _LDH_ABS, _LDX_IMM, _LD_MEM, _ST = 0x80, 0x00, 0x28, 0x01, 0x60, 0x02
_AND, _SUB_X, _JSET, _JGE, _JA = 0x54, 0x1C, 0x45, 0x35, 0x05
_MARK = 0xFFFFF000 + 20
"""SKF_AD_MARK."""
_SADDR, _DADDR, _PROTO, _SPORT, _DPORT, _LATE, _OWN = 0, 4, 8, 9, 10, 11, 12
"""Scratch memory: addresses of up to four words; ports cannot be seen; it comes in for this host."""

_FRAGMENT, _EXTENSIONS = 44, (0, 43, 60)
_NEIGHBOUR_DISCOVERY = range(133, 138)


class Rule:
    """A policy, as far as a filter is concerned. Each is made for one policy and kept as long: it knows its lines."""

    __slots__ = ("_blocks", "_length", "diverts", "mark", "selector")

    def __init__(self, selector: Selector, mark: Mark, diverts: bool) -> None:
        self.selector = selector
        self.mark = mark
        self.diverts = diverts
        """It blocks, or demands states."""
        self._blocks: dict[tuple[int, bool, int], bytes] = {}
        self._length = 0

    def length(self, family: int) -> int:
        """Lines it takes in all."""
        if not self._length:
            self._length = sum(len(self.block(family, seen, DIVERT)) for seen in (True, False)) // INSTRUCTION.size
        return self._length

    def block(self, family: int, seen: bool, verdict: int) -> bytes:
        """Lines that end in this verdict, or go on behind the last. `seen`: ports (and in IPv6, the protocol) can be
        looked at."""
        key = family, seen, verdict
        block = self._blocks.get(key)
        if block is None:
            block = self._blocks[key] = _block(self, family, seen, verdict)
        return block


class Section(NamedTuple):
    """The policies of one direction, best first, and what happens without any."""

    rules: Sequence[Rule]
    blocks: bool = False


class Surroundings(NamedTuple):
    """What else decides, the same for all devices of a kind."""

    family: int
    base: int
    """ETHERNET, 0 or UNKNOWN."""
    own: tuple[bytes, ...]
    """Addresses of this host, those where everybody gets it (broadcast) among them."""
    ports: tuple[int, ...]


class Program(NamedTuple):
    code: bytes
    diverts: bool
    """What it says yes to is to be diverted, or else to be left alone by the programs behind it."""


class _Listing:
    """Lines with names for places. Only forward, and by JA also far."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._length = 0
        self._jumps: list[tuple[int, int, int, int, str]] = []
        """Of each: its part, its line, its code and operand, and where it goes."""
        self._places: dict[str, int] = {}

    def add(self, *lines: Line) -> None:
        self.block(assembled(lines))

    def block(self, code: bytes) -> None:
        """Lines that jump among themselves only."""
        self._parts.append(code)
        self._length += len(code) // INSTRUCTION.size

    def unless(self, code: int, value: int, place: str) -> None:
        """Go on if it is so, else go to a place that is at most 255 lines ahead."""
        self._jumps.append((len(self._parts), self._length, code, value, place))
        self.add((code, 0, 0, value))

    def go(self, place: str) -> None:
        self.unless(_JA, 0, place)

    def at(self, place: str) -> None:
        self._places[place] = self._length

    def bytes(self) -> bytes:
        for part, line, code, value, place in self._jumps:
            distance = self._places[place] - line - 1
            jump = (code, 0, 0, distance) if code == _JA else (code, 0, distance, value)
            self._parts[part] = INSTRUCTION.pack(*jump)
        return b"".join(self._parts)


def outbound(around: Surroundings, out: Section, ifindex: int) -> list[Program]:
    """For what leaves by device `ifindex`."""
    return _programs(around, (_for_device(out, ifindex),), inbound=False)


def inbound(around: Surroundings, delivered: Section, forwarded: Section, loopback: int) -> list[Program]:
    """For what comes in, and is for this host or to be forwarded. The device of its route is `loopback`, or the one it
    will leave by, which is not known."""
    return _programs(around, (_for_device(delivered, loopback), _for_device(forwarded, 0)), inbound=True)


def _for_device(section: Section, ifindex: int) -> Section:
    if not any(rule.selector.ifindex for rule in section.rules):
        return section
    return section._replace(rules=[rule for rule in section.rules if rule.selector.ifindex in (0, ifindex)])


def _programs(around: Surroundings, sections: Sequence[Section], inbound: bool) -> list[Program]:
    if not any(section.blocks or any(rule.diverts for rule in section.rules) for section in sections):
        return []
    none = (False,) * len(sections)
    room = MAX_LINES - len(_part(around, ((),) * len(sections), none, inbound, True)) // INSTRUCTION.size
    if room < 256:
        raise ValueError(f"{len(around.own)} addresses of this host are too many for a filter")
    parts = [_slices(section.rules, around.family, room // len(sections)) for section in sections]
    count = max(map(len, parts))
    programs = []
    for index in range(count):
        rules = tuple(tuple(slices[index]) if index < len(slices) else () for slices in parts)
        last = index == count - 1
        blocks = tuple(section.blocks and last for section in sections)
        programs.append(Program(_part(around, rules, blocks, inbound, True), True))
        if not last:
            programs.append(Program(_part(around, rules, none, inbound, False), False))
    return programs


def _slices(rules: Sequence[Rule], family: int, room: int) -> list[list[Rule]]:
    slices: list[list[Rule]] = [[]]
    taken = 0
    for rule in rules:
        length = rule.length(family)
        if taken + length > room:
            slices.append([])
            taken = 0
        slices[-1].append(rule)
        taken += length
    return slices


@lru_cache(maxsize=64)
def _part(
    around: Surroundings, parts: tuple[tuple[Rule, ...], ...], blocks: tuple[bool, ...], inbound: bool, diverting: bool
) -> bytes:
    """A program. Of many policies few have changed since the last time."""
    listing = _Listing()
    _look(listing, around)
    if inbound:
        _test_own(listing, around, _DADDR, "own")
        listing.go("not own")
        listing.at("own")
        listing.add((_LD_IMM, 0, 0, 1), (_ST, 0, 0, _OWN))
        listing.at("not own")
    _let_through(listing, around, inbound)
    if inbound:
        prefix, value = (0xF0000000, 0xE0000000) if around.family == AF_INET else (0xFF000000, 0xFF000000)
        listing.add((_LD_MEM, 0, 0, _OWN), (JEQ, 3, 0, 1))
        listing.add((_LD_MEM, 0, 0, _DADDR), (_AND, 0, 0, prefix), (JEQ, 0, 1, value))  # multicast
        listing.go("delivered")
        listing.go("forwarded")
    names = ("delivered", "forwarded") if inbound else ("out",)
    yes, no = (DIVERT, PASS) if diverting else (PASS, DIVERT)
    for name, rules, block in zip(names, parts, blocks, strict=True):
        listing.at(name)
        listing.add((_LD_MEM, 0, 0, _LATE), (JEQ, 1, 0, 0))
        listing.go(f"{name} late")
        for seen in (True, False):
            if not seen:
                listing.at(f"{name} late")
            for rule in rules:
                listing.block(rule.block(around.family, seen, yes if rule.diverts else no))
            listing.add((RET, 0, 0, DIVERT if block else PASS))
    return listing.bytes()


# In front of the policies -------------------------------------------------------------------------------------------


def _look(listing: _Listing, around: Surroundings) -> None:
    """Fill the scratch memory."""
    ipv4 = around.family == AF_INET
    base = around.base
    saddr, size = (12, 1) if ipv4 else (8, 4)
    for word in range(size):
        for start, place in ((saddr, _SADDR), (saddr + 4 * size, _DADDR)):
            listing.add((LD_ABS, 0, 0, base + start + 4 * word), (_ST, 0, 0, place + word))
    listing.add((_LD_IMM, 0, 0, 0), *((_ST, 0, 0, place) for place in (_SPORT, _DPORT, _LATE, _OWN)))
    if ipv4:
        listing.add((LDB_ABS, 0, 0, base + 9), (_ST, 0, 0, _PROTO))
        listing.add((_LDH_ABS, 0, 0, base + 6), (_JSET, 0, 1, 0x3FFF))
        listing.go("late")
    else:
        listing.add((LDB_ABS, 0, 0, base + 6), (_ST, 0, 0, _PROTO), (JEQ, 0, 3, _FRAGMENT))
        listing.add((LDB_ABS, 0, 0, base + IPV6_HEADER_LEN), (_ST, 0, 0, _PROTO))
        listing.go("late")
        for header in _EXTENSIONS:
            listing.add((JEQ, 0, 1, header))
            listing.go("late")
    listing.add((_LD_MEM, 0, 0, _PROTO))
    for protocol in (*sorted(PORT_PROTOCOLS), IPPROTO_ICMP if ipv4 else IPPROTO_ICMPV6):
        listing.add((JEQ, 0, 1, protocol))
        listing.go("ports" if protocol in PORT_PROTOCOLS else "type")
    for protocol in (IPPROTO_GRE, IPPROTO_MH):
        listing.add((JEQ, 0, 1, protocol))
        listing.go("late")
    listing.go("seen")
    if base == UNKNOWN:
        listing.at("ports")
        listing.at("type")
    else:
        _look_above(listing, base, ipv4)
    listing.at("late")
    listing.add((_LD_IMM, 0, 0, 1), (_ST, 0, 0, _LATE))
    listing.at("seen")


def _look_above(listing: _Listing, base: int, ipv4: bool) -> None:
    """What is compared as ports; a packet that is too short for them has none."""
    for name, load, length in (("ports", LDH_IND, 2), ("type", LDB_IND, 1)):
        listing.at(name)
        listing.add((LDX_MSH, 0, 0, base) if ipv4 else (_LDX_IMM, 0, 0, IPV6_HEADER_LEN))
        listing.add((_LD_LEN, 0, 0, 0), (_SUB_X, 0, 0, 0), (_JGE, 1, 0, base + 2 * length))
        listing.go("seen")
        listing.add((load, 0, 0, base), (_ST, 0, 0, _SPORT), (load, 0, 0, base + length), (_ST, 0, 0, _DPORT))
        listing.go("seen")


def _let_through(listing: _Listing, around: Surroundings, inbound: bool) -> None:
    ipv4 = around.family == AF_INET
    for word in range(1 if ipv4 else 4):
        listing.add((_LD_MEM, 0, 0, _SADDR + word))
        listing.unless(JEQ, 0, "has a source")
    listing.add((RET, 0, 0, PASS))
    listing.at("has a source")
    listing.add((_LD_MEM, 0, 0, _PROTO), (JEQ, 0, 1, IPPROTO_ESP))
    listing.go("ours?")
    if not ipv4:
        listing.unless(JEQ, IPPROTO_ICMPV6, "no neighbour discovery")
        listing.add((LDB_ABS, 0, 0, around.base + 7))
        listing.unless(JEQ, 255, "no neighbour discovery")
        if around.base == UNKNOWN:
            listing.add((LDB_ABS, 0, 0, around.base + IPV6_HEADER_LEN))
        else:
            listing.add((_LD_MEM, 0, 0, _SPORT))
        first, last = _NEIGHBOUR_DISCOVERY[0], _NEIGHBOUR_DISCOVERY[-1]
        listing.unless(_JGE, first, "no neighbour discovery")
        listing.add((_JGE, 1, 0, last + 1), (RET, 0, 0, PASS))
        listing.at("no neighbour discovery")
        listing.add((_LD_MEM, 0, 0, _PROTO))
    listing.add((JEQ, 1, 0, IPPROTO_UDP))
    listing.go("not ours")
    listing.add((_LD_MEM, 0, 0, _DPORT if inbound else _SPORT))
    for port in around.ports:
        listing.add((JEQ, 0, 1, port))
        listing.go("ours?")
    listing.go("not ours")
    listing.at("ours?")
    if inbound:
        listing.add((_LD_MEM, 0, 0, _OWN), (JEQ, 0, 1, 1))
        listing.go("ours")
    else:
        _test_own(listing, around, _SADDR, "ours")
    listing.go("not ours")
    listing.at("ours")
    listing.add((RET, 0, 0, PASS))
    listing.at("not ours")


def _test_own(listing: _Listing, around: Surroundings, place: int, then: str) -> None:
    """Go there if the address is one of this host."""
    for number, address in enumerate(around.own):
        following = f"{then} {number}"
        words = struct.unpack(f">{len(address) // 4}I", address)
        for word in reversed(range(len(words))):
            listing.add((_LD_MEM, 0, 0, place + word))
            listing.unless(JEQ, words[word], following)
        listing.go(then)
        listing.at(following)


# A policy -----------------------------------------------------------------------------------------------------------


def _block(rule: Rule, family: int, seen: bool, verdict: int) -> bytes:
    selector = rule.selector
    by_ports = bool(selector.sport_mask or selector.dport_mask)
    by_protocol = bool(selector.proto)
    if not seen:
        if not rule.diverts and (by_ports or (by_protocol and family == AF_INET6)):
            return b""
        by_ports, by_protocol = False, by_protocol and family == AF_INET
    lines: list[Line] = []
    tests: list[int] = []

    def test(load: Line, value: int, mask: int) -> None:
        lines.append(load)
        full = (1 << 32) - 1
        if mask != full:
            lines.append((_AND, 0, 0, mask))
        tests.append(len(lines))
        lines.append((JEQ, 0, 0, value & mask))

    for address, prefixlen, place in (
        (selector.daddr, selector.prefixlen_d, _DADDR),
        (selector.saddr, selector.prefixlen_s, _SADDR),
    ):
        for word in range(1 if family == AF_INET else 4):
            bits = min(max(prefixlen - 32 * word, 0), 32)
            if bits:
                value = int.from_bytes(address[4 * word : 4 * word + 4].ljust(4, b"\0"), "big")
                test((_LD_MEM, 0, 0, place + word), value, (1 << 32) - (1 << 32 - bits))
    if by_protocol:
        test((_LD_MEM, 0, 0, _PROTO), selector.proto, 0xFFFFFFFF)
    if by_ports:
        for port, mask, place in (
            (selector.sport, selector.sport_mask, _SPORT),
            (selector.dport, selector.dport_mask, _DPORT),
        ):
            if mask:
                test((_LD_MEM, 0, 0, place), port, 0xFFFFFFFF if mask == 0xFFFF else mask)
    if rule.mark.mask:
        test((LD_ABS, 0, 0, _MARK), rule.mark.value, rule.mark.mask)
    lines.append((RET, 0, 0, verdict))
    for at in tests:
        code, _, _, value = lines[at]
        lines[at] = (code, 0, len(lines) - at - 1, value)
    return assembled(lines)
