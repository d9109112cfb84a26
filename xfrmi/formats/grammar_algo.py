"""ALGO := { enc | auth } NAME KEY | auth-trunc NAME KEY BITS | aead NAME KEY BITS | comp NAME, and which go together.

KEY is 0x and hex digits (an odd number of them gets a zero in front), or the key itself as text. A key never appears
in an error.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from xfrmi.formats import words
from xfrmi.formats.tokens import INCOMPLETE, GrammarError, Tokens
from xfrmi.wire import xfrm_const as k
from xfrmi.wire.xfrm_types import Algorithm, StateInfo

ALGO_WORDS: Final = {
    "aead": "aead",
    "auth": "auth",
    "auth-trunc": "auth_trunc",
    "enc": "crypt",
    "comp": "comp",
}
"""Word -> field of StateInfo."""

_EXCLUDES: Final = {
    "aead": ("aead", "auth", "auth-trunc", "enc"),
    "auth": ("aead", "auth", "auth-trunc"),
    "auth-trunc": ("aead", "auth", "auth-trunc"),
    "enc": ("aead", "enc"),
    "comp": ("comp",),
}
_NAME_MAX: Final = 63
_KEY_MAX: Final = 512
_BITS_NAME: Final = {"aead": "ALGO-ICV-LEN", "auth-trunc": "ALGO-TRUNC-LEN"}


def parse_algorithm(tokens: Tokens, fields: dict[str, Any]) -> None:
    """One ALGO, behind its word; into `fields` under its name in StateInfo."""
    word = tokens.words[tokens.at - 1]
    if any(ALGO_WORDS[other] in fields for other in _EXCLUDES[word]):
        raise tokens.duplicate("ALGO-TYPE")
    name = _take(tokens, "ALGO-NAME", f'After "{word}" goes a name such as "cbc(aes)".')
    key, bits = b"", 0
    if word != "comp":
        _take(tokens, "ALGO-KEYMAT", f'After "{word} {name}" goes the key, 0x and hex digits.')
        key = _parse_key(tokens)
    if word in _BITS_NAME:
        lacking = _BITS_NAME[word]
        if not tokens.more:
            raise tokens.missing(lacking, "After the key goes a length in bits, such as 128.")
        bits = tokens.number(f"{lacking} value is invalid")
    fields[ALGO_WORDS[word]] = Algorithm(name[:_NAME_MAX], key, bits)


def _take(tokens: Tokens, name: str, hint: str) -> str:
    if not tokens.more:
        raise tokens.missing(name, hint)
    return tokens.take(name)


def _parse_key(tokens: Tokens) -> bytes:
    """The key taken last."""
    text = tokens.words[tokens.at - 1]
    invalid = "ALGO-KEYMAT value is invalid"
    if text.startswith("0x") and len(text) > 2:
        digits = text[2:].rjust(len(text) - 2 + len(text) % 2, "0")
        try:
            # fromhex skips blanks, which are no digits here.
            key = bytes.fromhex(digits if digits.isalnum() else "?")
        except ValueError:
            raise tokens.wrong(invalid, "only hex digits may follow 0x.", secret=True) from None
    else:
        try:
            key = text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise tokens.wrong(invalid, "write the key as 0x and hex digits.", secret=True) from None
    if len(key) > _KEY_MAX:
        why = "ALGO-KEYMAT value makes buffer overflow"
        raise tokens.wrong(why, f"a key has at most {_KEY_MAX} bytes.", secret=True)
    return key


def check_algorithms(tokens: Tokens, info: StateInfo) -> None:
    """What ip refuses before the kernel can: mode, algorithms and care-of address that do not fit the protocol."""
    proto = info.proto
    if proto in (k.IPPROTO_ROUTING, k.IPPROTO_DSTOPTS):
        _check_route_optimization(tokens, info)
        return
    if info.mode in (k.Mode.ROUTEOPTIMIZATION, k.Mode.IN_TRIGGER):
        raise _refused(tokens, "MODE value is invalid with", proto, "Use mode tunnel, transport or beet.")
    given = {word for word, field in ALGO_WORDS.items() if getattr(info, field) is not None}
    rule = _RULES.get(proto)
    if rule is not None and given.intersection(rule.barred):
        raise _refused(tokens, rule.barred_text, proto, "Leave them out.")
    if rule is not None and not given.intersection(rule.needed):
        raise _refused(tokens, rule.needed_text, proto, f"Add {' or '.join(rule.needed)} with a name and a key.")
    if info.coaddr is not None:
        raise _refused(tokens, '"coa" is invalid with', proto, "Leave coa out, it belongs to Mobile IPv6.")


class _Rule(NamedTuple):
    barred: tuple[str, ...]
    needed: tuple[str, ...]
    """One of these is enough."""
    barred_text: str
    needed_text: str


_RULES: Final = {
    k.IPPROTO_ESP: _Rule(
        ("comp",),
        ("enc", "aead"),
        'ALGO-TYPE value "comp" is invalid with',
        'ALGO-TYPE value "enc" or "aead" is required with',
    ),
    k.IPPROTO_AH: _Rule(
        ("enc", "aead", "comp"),
        ("auth", "auth-trunc"),
        'ALGO-TYPE values "enc", "aead", and "comp" are invalid with',
        'ALGO-TYPE value "auth" or "auth-trunc" is required with',
    ),
    k.IPPROTO_COMP: _Rule(
        ("enc", "auth", "auth-trunc", "aead"),
        ("comp",),
        'ALGO-TYPE values "enc", "auth", "auth-trunc", and "aead" are invalid with',
        'ALGO-TYPE value "comp" is required with',
    ),
}


def _check_route_optimization(tokens: Tokens, info: StateInfo) -> None:
    if any(getattr(info, field) is not None for field in ALGO_WORDS.values()):
        raise _refused(tokens, "ALGO is invalid with", info.proto, "Leave the algorithms out.")
    if info.mode == k.Mode.TRANSPORT:
        raise _refused(tokens, '"mode" is required with', info.proto, "Add mode ro or mode in_trigger.")
    if info.mode not in (k.Mode.ROUTEOPTIMIZATION, k.Mode.IN_TRIGGER):
        raise _refused(tokens, "MODE value is invalid with", info.proto, "Use mode ro or in_trigger.")
    if info.coaddr is None:
        raise _refused(tokens, '"coa" is required with', info.proto, "Add coa ADDR.")


def _refused(tokens: Tokens, text: str, proto: int, hint: str) -> GrammarError:
    name = words.word(words.XFRM_PROTOS, proto)
    return tokens.incomplete(f'{text} XFRM-PROTO value "{name}"', INCOMPLETE, hint)
