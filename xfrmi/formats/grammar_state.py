"""`state` commands: words -> requests, as ip(8) 6.x reads `ip xfrm state ...`.

Deliberately not ip's: `set-mark` is accepted for `output-mark`, `pcpu` for `pcpu-num`; `nat-keepalive-interval` and
`mtimer-thresh` (seconds) give access to attributes that ip has no words for; ID addresses need not have the family of
a selector before them; `get` and `delete` without an ID say so instead of asking the kernel.

The words that describe a state are loaded by the verbs that need them: a bare `list` has none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from xfrmi.formats import requests_state as requests
from xfrmi.formats import words
from xfrmi.formats.tokens import INCOMPLETE, Tokens, take_verb
from xfrmi.formats.usage import STATE_USAGE
from xfrmi.wire import xfrm_const as k
from xfrmi.wire.xfrm_sa_msg import SpiRequest
from xfrmi.wire.xfrm_types import StateId, StateInfo

_SPI_MIN: Final = 0x100
_SPI_MAX: Final = 0x0FFFFFFF
_CPI_MAX: Final = 0xFFFF
"""`allocspi` without min and max."""


def parse_state(tokens: Tokens) -> requests.StateRequest:
    """The words after `state`; none at all is `list`. Raises GrammarError."""
    if not tokens.more:
        return _list(tokens)
    return take_verb(tokens, "state", _VERBS, STATE_USAGE)(tokens)


def _add(tokens: Tokens) -> requests.AddState:
    return requests.AddState(_modify(tokens))


def _update(tokens: Tokens) -> requests.AddState:
    return requests.AddState(_modify(tokens), update=True)


def _modify(tokens: Tokens) -> StateInfo:
    from xfrmi.formats.grammar_algo import check_algorithms
    from xfrmi.formats.grammar_state_words import STATE_KEYWORDS, Draft, finish_replay, read_keyword

    draft = Draft()
    while tokens.more:
        read_keyword(tokens, draft, STATE_KEYWORDS)
    finish_replay(tokens, draft)
    info = draft.info(tokens)
    check_algorithms(tokens, info)
    return info


def _allocspi(tokens: Tokens) -> requests.AllocSpi:
    from xfrmi.formats.grammar_state_words import ALLOCSPI_KEYWORDS, Draft, read_keyword

    draft = Draft()
    limits: dict[str, int] = {}
    while tokens.more:
        if tokens.accept("min", "max"):
            word = tokens.words[tokens.at - 1]
            tokens.mark_once(draft.seen, word)
            limits[word] = tokens.number(f'value after "{word}" is invalid')
            continue
        read_keyword(tokens, draft, ALLOCSPI_KEYWORDS)
        if draft.id is not None and draft.id.spi:
            raise tokens.error('"spi" is invalid', INCOMPLETE, "allocspi chooses the SPI, between min and max.")
    info = draft.info(tokens)
    for given, absent in (("min", "max"), ("max", "min")):
        if given in limits and absent not in limits:
            raise tokens.incomplete(f'"{absent}" is missing', INCOMPLETE, "Give both min and max, or neither.")
    low = limits.get("min", _SPI_MIN)
    high = limits.get("max", _CPI_MAX if info.proto == k.IPPROTO_COMP else _SPI_MAX)
    if low > high:
        text = 'value after "min" is larger than value after "max"'
        raise tokens.incomplete(text, INCOMPLETE, "Exchange the two.")
    return requests.AllocSpi(SpiRequest(info, low, high))


def _get(tokens: Tokens) -> requests.GetState:
    return requests.GetState(_state_id(tokens))


def _delete(tokens: Tokens) -> requests.DeleteState:
    return requests.DeleteState(_state_id(tokens))


def _state_id(tokens: Tokens) -> StateId:
    from xfrmi.formats.grammar_state_words import STATE_KEYWORDS, Draft, read_keyword

    draft = Draft()
    while tokens.more:
        read_keyword(tokens, draft, {"mark": STATE_KEYWORDS["mark"]})
    info = draft.info(tokens)
    return StateId(info.dst, info.spi, info.proto, info.family, info.mark, info.src)


def _list(tokens: Tokens) -> requests.ListStates:
    return requests.ListStates(*_filter(tokens))


def _deleteall(tokens: Tokens) -> requests.DeleteStates:
    return requests.DeleteStates(_filter(tokens)[0])


def _filter(tokens: Tokens) -> tuple[requests.StateFilter, bool]:
    """[ nokeys ] [ ID ] [ mode MODE ] [ reqid REQID ] [ flag FLAG-LIST ] -> filter, nokeys."""
    if not tokens.more:
        return requests.StateFilter(tokens.family), False
    from xfrmi.formats.grammar_parts import ID_WORDS, Id, parse_id
    from xfrmi.formats.grammar_state_words import STATE_KEYWORDS, Draft

    draft = Draft()
    nokeys = False
    keywords = {word: STATE_KEYWORDS[word] for word in ("mode", "reqid", "flag")}
    while tokens.more:
        if tokens.accept("nokeys"):
            nokeys = True
        elif draft.id is None and tokens.peek() in ID_WORDS:
            draft.id = parse_id(tokens, filtering=True)
        elif tokens.peek() in keywords:
            keywords[tokens.take("")](tokens, draft)
        else:
            raise tokens.unknown((*keywords, *ID_WORDS, "nokeys"))
    found = draft.id or Id()
    chosen = requests.StateFilter(
        tokens.family, found.src, found.src_bits, found.dst, found.dst_bits, found.proto, found.spi, **draft.fields
    )
    return chosen, nokeys


def _flush(tokens: Tokens) -> requests.FlushStates:
    proto = 0
    seen: set[str] = set()
    while tokens.more:
        if not tokens.accept("proto"):
            raise tokens.unknown(("proto",))
        tokens.mark_once(seen, "proto")
        proto = tokens.choice(words.XFRM_PROTOS, "XFRM-PROTO value is invalid")
    return requests.FlushStates(proto)


def _count(tokens: Tokens) -> requests.CountStates:
    return requests.CountStates()


_VERBS: Final[tuple[tuple[str, Callable[[Tokens], requests.StateRequest]], ...]] = (
    ("add", _add),
    ("update", _update),
    ("allocspi", _allocspi),
    ("delete", _delete),
    ("deleteall", _deleteall),
    ("delall", _deleteall),
    ("list", _list),
    ("show", _list),
    ("lst", _list),
    ("get", _get),
    ("flush", _flush),
    ("count", _count),
)
"""In the order in which an abbreviation is tried."""
