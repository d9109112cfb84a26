"""The keywords of `state add`, `update` and `allocspi`: each function reads what follows one of them into a draft.

The order of keywords is free; a keyword given twice overrides, except where ip(8) refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from socket import htonl
from typing import Any, Final

from xfrmi.formats import words
from xfrmi.formats.grammar_algo import ALGO_WORDS, parse_algorithm
from xfrmi.formats.grammar_parts import (
    Id,
    parse_context,
    parse_id,
    parse_limit,
    parse_mark,
    parse_mode,
    parse_selector,
)
from xfrmi.formats.tokens import INCOMPLETE, USAGE, Tokens
from xfrmi.wire import xfrm_const as k
from xfrmi.wire.xfrm_types import Encap, Limits, Mark, Replay, ReplayEsn, StateInfo

_LEGACY_WINDOW: Final = 32
"""Packets that xfrm_replay_state holds; more, or ESN, takes xfrm_replay_state_esn (RP-02, RP-03)."""


@dataclass(slots=True)
class Draft:
    """What `add`, `update` and `allocspi` have read so far."""

    fields: dict[str, Any] = field(default_factory=dict)
    """Fields of StateInfo."""
    id: Id | None = None
    limits: dict[str, int] = field(default_factory=dict)
    replay: dict[str, int] = field(default_factory=dict)
    """By keyword: replay-window, replay-seq and so on."""
    seen: set[str] = field(default_factory=set)

    def info(self, tokens: Tokens) -> StateInfo:
        """The state, once the line has ended."""
        if self.id is None:
            hint = "Say which state: src ADDR dst ADDR proto esp spi SPI."
            raise tokens.incomplete("Not enough information: ID is required", INCOMPLETE, hint)
        family, src, dst = self.id.addresses(tokens.family)
        return StateInfo(
            src=src, dst=dst, spi=self.id.spi or 0, proto=self.id.proto or 0, family=family,
            limits=Limits(**self.limits), **self.fields,
        )  # fmt: skip


Keyword = Callable[[Tokens, Draft], None]


def _value(name: str, why: str) -> Keyword:
    """A 32-bit number that goes into field `name` as it is."""

    def keyword(tokens: Tokens, draft: Draft) -> None:
        draft.fields[name] = tokens.number(why)

    return keyword


def _replay(word: str) -> Keyword:
    def keyword(tokens: Tokens, draft: Draft) -> None:
        draft.replay[word] = tokens.number(f'value after "{word}" is invalid')

    return keyword


def _mode(tokens: Tokens, draft: Draft) -> None:
    draft.fields["mode"] = parse_mode(tokens)


def _mark(tokens: Tokens, draft: Draft) -> None:
    draft.fields["mark"] = parse_mark(tokens)


def _seq(tokens: Tokens, draft: Draft) -> None:
    # ip sends this number in network order and the kernel takes it in host order: on x86 `seq 1` is 0x01000000.
    draft.fields["seq"] = htonl(tokens.number("SEQ value is invalid"))


def _flag(tokens: Tokens, draft: Draft) -> None:
    flags = tokens.flags(words.STATE_FLAGS, 8, "FLAG value is invalid")
    draft.fields["flags"] = draft.fields.get("flags", 0) | flags


def _extra_flag(tokens: Tokens, draft: Draft) -> None:
    flags = tokens.flags(words.EXTRA_FLAGS, 32, '"EXTRA-FLAG" is invalid')
    draft.fields["extra_flags"] = draft.fields.get("extra_flags", 0) | flags


def _sel(tokens: Tokens, draft: Draft) -> None:
    if not tokens.more:
        tokens.take("a selector")
    draft.fields["selector"] = parse_selector(tokens).selector(k.AF_UNSPEC)


def _limit(tokens: Tokens, draft: Draft) -> None:
    parse_limit(tokens, draft.limits)


def _encap(tokens: Tokens, draft: Draft) -> None:
    kind = tokens.choice(words.ENCAP_TYPES, "ENCAP-TYPE value is invalid")
    sport = tokens.number('SPORT value after "encap" is invalid', 16)
    dport = tokens.number('DPORT value after "encap" is invalid', 16)
    draft.fields["encap"] = Encap(kind, sport, dport, tokens.address().address or bytes(4))


def _coa(tokens: Tokens, draft: Draft) -> None:
    tokens.mark_once(draft.seen, "coa")
    family = tokens.family or (draft.id.family if draft.id else k.AF_UNSPEC)
    draft.fields["coaddr"] = tokens.prefix(family, "coa").address


def _ctx(tokens: Tokens, draft: Draft) -> None:
    tokens.mark_once(draft.seen, "ctx")
    draft.fields["sec_ctx"] = parse_context(tokens)


def _offload(tokens: Tokens, draft: Draft) -> None:
    """[ crypto | packet ] [ dev DEV ] dir DIR."""
    flags = words.OFFLOAD_PACKET if tokens.accept("packet") else 0
    tokens.accept("crypto")
    ifindex = 0
    if tokens.accept("dev"):
        ifindex = tokens.ifindex_of(tokens.take("a device"))
        if not ifindex:
            raise tokens.wrong('value after "offload dev" is invalid', "the name of an existing device goes here.")
    if tokens.take('"dir"') != "dir":
        raise tokens.wrong('value after "offload dir" is invalid', '"dir in" or "dir out" goes here.')
    inbound = tokens.choice(words.SA_DIRS, "DIR value is invalid") == k.SaDir.IN
    draft.fields["offload"] = (ifindex, flags | (words.OFFLOAD_IN if inbound else 0))


def _output_mark(tokens: Tokens, draft: Draft) -> None:
    """output-mark MARK [ mask MASK ]; the mark 0 sets none (the kernel would not see it)."""
    value = tokens.number('value after "output-mark" is invalid')
    mask = tokens.number("mask value is invalid") if tokens.accept("mask") else 0
    draft.fields["set_mark"] = Mark(value, mask or 0xFFFFFFFF) if value else None


def _dir(tokens: Tokens, draft: Draft) -> None:
    draft.fields["dir"] = tokens.choice(words.SA_DIRS, "DIR value is invalid")


ALLOCSPI_KEYWORDS: Mapping[str, Keyword] = {
    "mode": _mode,
    "mark": _mark,
    "reqid": _value("reqid", "REQID value is invalid"),
    "seq": _seq,
    "dir": _dir,
    "pcpu-num": _value("pcpu", 'value after "pcpu-num" is invalid'),
    "pcpu": _value("pcpu", 'value after "pcpu" is invalid'),
}
STATE_KEYWORDS: Mapping[str, Keyword] = {
    **ALLOCSPI_KEYWORDS,
    "replay-window": _replay("replay-window"),
    "replay-seq": _replay("replay-seq"),
    "replay-seq-hi": _replay("replay-seq-hi"),
    "replay-oseq": _replay("replay-oseq"),
    "replay-oseq-hi": _replay("replay-oseq-hi"),
    "flag": _flag,
    "extra-flag": _extra_flag,
    "sel": _sel,
    "limit": _limit,
    "encap": _encap,
    "coa": _coa,
    "ctx": _ctx,
    "offload": _offload,
    "output-mark": _output_mark,
    "set-mark": _output_mark,
    "if_id": _value("if_id", 'value after "if_id" is invalid'),
    "tfcpad": _value("tfcpad", 'value after "tfcpad" is invalid'),
    "nat-keepalive-interval": _value("nat_keepalive_interval", 'value after "nat-keepalive-interval" is invalid'),
    "mtimer-thresh": _value("mtimer_thresh", 'value after "mtimer-thresh" is invalid'),
    **dict.fromkeys(ALGO_WORDS, lambda tokens, draft: parse_algorithm(tokens, draft.fields)),
}


def read_keyword(tokens: Tokens, draft: Draft, keywords: Mapping[str, Keyword]) -> None:
    """One keyword with its values, or the ID (once)."""
    word = tokens.peek()
    if word in keywords:
        keywords[tokens.take("")](tokens, draft)
    elif draft.id is None:
        draft.id = parse_id(tokens)
    else:
        raise tokens.unknown(keywords)


def finish_replay(tokens: Tokens, draft: Draft) -> None:
    """A window of more than 32 packets, or ESN, is XFRMA_REPLAY_ESN_VAL and leaves the old u8 window 0 (7.9)."""
    window = draft.replay.get("replay-window", 0)
    seq, oseq = draft.replay.get("replay-seq", 0), draft.replay.get("replay-oseq", 0)
    esn = draft.fields.get("flags", 0) & k.STATE_ESN
    if esn and not window:
        text = "Error: esn flag set without replay-window."
        raise tokens.incomplete(text, USAGE, 'Add "replay-window 32", up to 4096 packets.')
    if window > k.REPLAY_ESN_MAX:
        text = f"Error: replay-window ({window}) > XFRMA_REPLAY_ESN_MAX ({k.REPLAY_ESN_MAX})."
        raise tokens.incomplete(text, USAGE, f"Give a window of at most {k.REPLAY_ESN_MAX} packets.")
    if esn or window > _LEGACY_WINDOW:
        draft.fields["replay_esn"] = ReplayEsn(
            bitmap=(0,) * -(-window // 32), oseq=oseq, seq=seq, oseq_hi=draft.replay.get("replay-oseq-hi", 0),
            seq_hi=draft.replay.get("replay-seq-hi", 0), replay_window=window,
        )  # fmt: skip
        return
    draft.fields["replay_window"] = window
    if seq or oseq:
        draft.fields["replay"] = Replay(oseq=oseq, seq=seq)
