"""The phrases that state and policy commands share: ID, SELECTOR, MARK, LIMIT, MODE.

Each function starts behind the keyword that announces its phrase (an ID and a SELECTOR announce themselves) and stops
before the first word that is not part of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from xfrmi.formats import words
from xfrmi.formats.numbers import parse_ipv4, parse_number
from xfrmi.formats.tokens import INCOMPLETE, USAGE, GrammarError, Tokens, shown
from xfrmi.wire import xfrm_const as k
from xfrmi.wire.address import any_address
from xfrmi.wire.xfrm_types import NO_MARK, Mark, Selector

ID_WORDS: Final = ("src", "dst", "proto", "spi")
UPSPEC_WORDS: Final = ("proto", "sport", "dport", "type", "code", "key")
SELECTOR_WORDS: Final = ("src", "dst", "dev", *UPSPEC_WORDS)
LIMIT_WORDS: Final = {
    "time-soft": "soft_add",
    "time-hard": "hard_add",
    "time-use-soft": "soft_use",
    "time-use-hard": "hard_use",
    "byte-soft": "soft_bytes",
    "byte-hard": "hard_bytes",
    "packet-soft": "soft_packets",
    "packet-hard": "hard_packets",
}
"""Word after `limit` -> field of Limits."""

_ONE_FAMILY = 'the same address family is required between values after "src" and "dst"'
_PORT_PROTOS = (0, k.IPPROTO_TCP, k.IPPROTO_UDP, k.IPPROTO_SCTP, k.IPPROTO_DCCP)
_TYPE_PROTOS = (k.IPPROTO_ICMP, k.IPPROTO_ICMPV6, k.IPPROTO_MH)
_COMP_SPI_END = 0x10000
"""IPcomp's CPI has 16 bits."""


@dataclass(slots=True)
class Id:
    """ID := [ src ADDR ] [ dst ADDR ] [ proto XFRM-PROTO ] [ spi SPI ]. None or empty: not given."""

    family: int = k.AF_UNSPEC
    src: bytes = b""
    src_bits: int = 0
    dst: bytes = b""
    dst_bits: int = 0
    proto: int | None = None
    spi: int | None = None

    def addresses(self, family: int) -> tuple[int, bytes, bytes]:
        """(family, source, destination); what was not given is the zero address of the ID's family or of `family`."""
        family = self.family or family or k.AF_INET
        wild = any_address(family)
        return family, self.src or wild, self.dst or wild


def parse_id(tokens: Tokens, *, filtering: bool = False) -> Id:
    """An ID. A filter may leave out `proto`, any other ID may not."""
    found = Id()
    start = tokens.at
    while tokens.peek() in ID_WORDS:
        word = tokens.take("")
        if word == "src":
            found.family, found.src, found.src_bits = tokens.prefix(tokens.family, word)
        elif word == "dst":
            found.family, found.dst, found.dst_bits = tokens.prefix(tokens.family, word)
        elif word == "proto":
            found.proto = tokens.choice(words.XFRM_PROTOS, "XFRM-PROTO value is invalid")
        else:
            found.spi = tokens.number("SPI value is invalid")
    if found.src and found.dst and len(found.src) != len(found.dst):
        raise tokens.wrong(_ONE_FAMILY, "an IPv4 and an IPv6 address cannot be the ends of one state.")
    if found.spi and found.proto:
        _check_spi(tokens, found.proto, found.spi)
    if not filtering and not found.proto:
        stray = tokens.peek()
        seen = f' (next word: "{shown(stray)}")' if tokens.at == start and stray is not None else ""
        raise tokens.missing("XFRM-PROTO", f"An ID is src ADDR dst ADDR proto esp spi SPI{seen}.")
    return found


def _check_spi(tokens: Tokens, proto: int, spi: int) -> None:
    name = words.XFRM_PROTOS[proto]
    if proto in (k.IPPROTO_ROUTING, k.IPPROTO_DSTOPTS):
        text = f'"spi" is invalid with XFRM-PROTO value "{name}"'
        raise tokens.error(text, INCOMPLETE, "leave spi out, only IPsec has one.")
    if proto == k.IPPROTO_COMP and spi >= _COMP_SPI_END:
        text = f'SPI value is too large with XFRM-PROTO value "{name}"'
        raise tokens.error(text, INCOMPLETE, "an IPcomp CPI is at most 0xffff.")


@dataclass(slots=True)
class SelectorDraft:
    """SELECTOR := [ src ADDR[/PLEN] ] [ dst ADDR[/PLEN] ] [ dev DEV ] [ UPSPEC ], and which parts were given."""

    family: int = k.AF_UNSPEC
    src: bytes = b""
    src_bits: int = 0
    dst: bytes = b""
    dst_bits: int = 0
    ifindex: int = 0
    proto: int = 0
    sport: int = 0
    sport_mask: int = 0
    dport: int = 0
    dport_mask: int = 0
    given: set[str] = field(default_factory=set)
    """Keywords that were there."""

    def selector(self, family: int) -> Selector:
        """Of the draft's family, or of `family`; AF_UNSPEC gives a selector without addresses."""
        family = self.family or family
        wild = any_address(family) if family else b""
        return Selector(
            family, self.src or wild, self.src_bits, self.dst or wild, self.dst_bits, self.proto,
            self.sport, self.sport_mask, self.dport, self.dport_mask, self.ifindex,
        )  # fmt: skip


def parse_selector(tokens: Tokens, family: int = k.AF_UNSPEC) -> SelectorDraft:
    """A SELECTOR; the words of its UPSPEC stand together. Nothing is taken if the next word starts none."""
    draft = SelectorDraft()
    while (word := tokens.peek()) in SELECTOR_WORDS:
        if word in UPSPEC_WORDS:
            if draft.given.intersection(UPSPEC_WORDS):
                break
            _parse_upspec(tokens, draft)
            continue
        draft.given.add(tokens.take(""))
        if word == "src":
            draft.family, draft.src, draft.src_bits = tokens.prefix(family, word)
        elif word == "dst":
            draft.family, draft.dst, draft.dst_bits = tokens.prefix(family, word)
        else:
            draft.ifindex = parse_selector_device(tokens)
    if draft.src and draft.dst and len(draft.src) != len(draft.dst):
        raise tokens.wrong(_ONE_FAMILY, "a selector is IPv4 or IPv6; use one policy for each.")
    return draft


def parse_selector_device(tokens: Tokens) -> int:
    name = tokens.take("a device")
    if name == "none":
        return 0
    ifindex = tokens.ifindex_of(name)
    if not ifindex:
        raise tokens.wrong("DEV value is invalid", "the name of an existing device goes here.")
    return ifindex


def _parse_upspec(tokens: Tokens, draft: SelectorDraft) -> None:
    """UPSPEC := proto PROTO and ports, or type and code, or a GRE key, all kept in the two port fields (2.1)."""
    while (word := tokens.peek()) in UPSPEC_WORDS:
        draft.given.add(tokens.take(""))
        if word == "proto":
            draft.proto = _parse_proto(tokens)
        elif word == "sport":
            # As ip does it, port 0 stands for any port.
            draft.sport = tokens.number('value after "sport" is invalid', 16)
            draft.sport_mask = 0xFFFF if draft.sport else 0
        elif word == "dport":
            draft.dport = tokens.number('value after "dport" is invalid', 16)
            draft.dport_mask = 0xFFFF if draft.dport else 0
        elif word == "type":
            draft.sport, draft.sport_mask = tokens.number('value after "type" is invalid', 8), 0xFFFF
        elif word == "code":
            draft.dport, draft.dport_mask = tokens.number('value after "code" is invalid', 8), 0xFFFF
        else:
            draft.sport, draft.dport = divmod(_parse_key(tokens), 0x10000)
            draft.sport_mask = draft.dport_mask = 0xFFFF
    _check_upspec(tokens, draft)


def _parse_proto(tokens: Tokens) -> int:
    text = tokens.take("a protocol")
    lower = text.lower()
    named = 0 if text == "any" else words.number(words.PROTOS, lower)
    number = parse_number(text, 8) if named is None else named
    if number is None:
        raise tokens.wrong("PROTO value is invalid", "a protocol name such as tcp, or a number up to 255, goes here.")
    return number


def _parse_key(tokens: Tokens) -> int:
    text = tokens.take("a GRE key")
    octets = parse_ipv4(text) if "." in text else None
    key = parse_number(text, 32) if octets is None else int.from_bytes(octets)
    if key is None:
        raise tokens.error('value after "key" is invalid', USAGE, "a number or a dotted quad goes here.")
    return key


def _check_upspec(tokens: Tokens, draft: SelectorDraft) -> None:
    proto, given = draft.proto, draft.given
    if not given.isdisjoint(("sport", "dport")) and proto not in _PORT_PROTOS:
        raise _misplaced(tokens, '"sport" and "dport" are', proto, "tcp, udp, sctp or dccp")
    if not given.isdisjoint(("type", "code")) and proto not in _TYPE_PROTOS:
        raise _misplaced(tokens, '"type" and "code" are', proto, "icmp, ipv6-icmp or mobility-header")
    if "key" in given and proto != k.IPPROTO_GRE:
        raise _misplaced(tokens, '"key" is', proto, "gre")


def _misplaced(tokens: Tokens, what: str, proto: int, fitting: str) -> GrammarError:
    text = f'{what} invalid with PROTO value "{words.word(words.PROTOS, proto)}"'
    return tokens.error(text, INCOMPLETE, f"they go with proto {fitting}.")


def parse_mode(tokens: Tokens) -> int:
    return tokens.choice(words.MODES, "MODE value is invalid", abbreviated=True)


def parse_mark(tokens: Tokens) -> Mark:
    """MARK [ mask MASK ]; a mask of 0 is no mark at all."""
    value = tokens.number("MARK value is invalid")
    mask = tokens.number("MASK value is invalid") if tokens.accept("mask") else 0xFFFFFFFF
    return Mark(value, mask) if mask else NO_MARK


def parse_context(tokens: Tokens) -> bytes:
    """CONTEXT, as the payload of XFRMA_SEC_CTX."""
    try:
        return words.pack_sec_ctx(tokens.take("a security context"))
    except ValueError as error:
        raise tokens.wrong("ctx value is invalid", f"{error}.") from None


def parse_limit(tokens: Tokens, limits: dict[str, int]) -> None:
    """One LIMIT, into `limits` under its name in Limits."""
    word = tokens.take("a limit such as time-hard")
    if word not in LIMIT_WORDS:
        raise tokens.wrong("LIMIT value is invalid", f"one of {', '.join(LIMIT_WORDS)} goes here.")
    limits[LIMIT_WORDS[word]] = tokens.number(f'value after "{word}" is invalid', 64)

