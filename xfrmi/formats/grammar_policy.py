"""`policy` commands: words -> requests, as ip(8) 6.x reads `ip xfrm policy ...`.

Deliberately not ip's: a template before the selector does not bind the selector's family; `flag cpu-acquire`, which ip
takes as `flag 0x4` only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from xfrmi.formats import requests_policy as requests
from xfrmi.formats import words
from xfrmi.formats.grammar_parts import SELECTOR_WORDS, SelectorDraft
from xfrmi.formats.grammar_policy_words import FILTER_KEYWORDS, ID_KEYWORDS, POLICY_KEYWORDS, Draft, read_keyword
from xfrmi.formats.tokens import INCOMPLETE, USAGE, GrammarError, Tokens, suggestion, take_verb
from xfrmi.formats.usage import POLICY_USAGE
from xfrmi.wire.xfrm_info_msg import Defaults, Thresholds
from xfrmi.wire.xfrm_types import Limits, PolicyId, PolicyInfo


def parse_policy(tokens: Tokens) -> requests.PolicyRequest:
    """The words after `policy`; none at all is `list`. Raises GrammarError."""
    if not tokens.more:
        return _list(tokens)
    return take_verb(tokens, "policy", _VERBS, POLICY_USAGE)(tokens)


def _add(tokens: Tokens) -> requests.AddPolicy:
    return requests.AddPolicy(_modify(tokens))


def _update(tokens: Tokens) -> requests.AddPolicy:
    return requests.AddPolicy(_modify(tokens), update=True)


def _modify(tokens: Tokens) -> PolicyInfo:
    draft = Draft()
    while tokens.more:
        if not read_keyword(tokens, draft, POLICY_KEYWORDS):
            tokens.take("")
            raise _second(tokens, (*POLICY_KEYWORDS, *SELECTOR_WORDS))
    draft.require_dir(tokens)
    selector = draft.whole_selector(tokens)
    templates = tuple(tmpl.template(selector.family) for tmpl in draft.tmpls)
    return PolicyInfo(selector, templates=templates, limits=Limits(**draft.limits), **draft.fields)


def _second(tokens: Tokens, keywords: tuple[str, ...]) -> GrammarError:
    """ip takes any unknown word of `add` for a second selector."""
    word = tokens.words[tokens.at - 1]
    hint = "a policy has one selector, in one piece." if word in SELECTOR_WORDS else suggestion(word, keywords)
    return tokens.duplicate("unknown", hint)


def _get(tokens: Tokens) -> requests.GetPolicy:
    return requests.GetPolicy(_policy_id(tokens))


def _delete(tokens: Tokens) -> requests.DeletePolicy:
    return requests.DeletePolicy(_policy_id(tokens))


def _policy_id(tokens: Tokens) -> PolicyId:
    draft = Draft()
    while tokens.more:
        if not read_keyword(tokens, draft, ID_KEYWORDS):
            raise tokens.unknown((*ID_KEYWORDS, *SELECTOR_WORDS))
    draft.require_dir(tokens)
    by_index = "index" in draft.fields
    if draft.selector is None and not by_index:
        text = "Not enough information: either SELECTOR or INDEX is required."
        raise tokens.incomplete(text, INCOMPLETE, "Add src PREFIX dst PREFIX, or index INDEX.")
    if draft.selector is not None and by_index:
        text = 'Error: either "SELECTOR" is duplicate, or "INDEX" is a garbage.'
        raise tokens.incomplete(text, USAGE, "Name the policy by its selector or by its index.")
    return PolicyId(draft.whole_selector(tokens), **draft.fields)


def _list(tokens: Tokens) -> requests.ListPolicies:
    return requests.ListPolicies(*_filter(tokens))


def _deleteall(tokens: Tokens) -> requests.DeletePolicies:
    return requests.DeletePolicies(_filter(tokens)[0])


def _filter(tokens: Tokens) -> tuple[requests.PolicyFilter, bool]:
    """[ nosock ] [ SELECTOR ] [ dir DIR ] [ index INDEX ] [ ptype PTYPE ] ... -> filter, nosock."""
    draft = Draft()
    nosock = False
    while tokens.more:
        if tokens.accept("nosock"):
            nosock = True
        elif not read_keyword(tokens, draft, FILTER_KEYWORDS):
            raise tokens.unknown((*FILTER_KEYWORDS, *SELECTOR_WORDS, "nosock"))
    sel = draft.selector or SelectorDraft()
    chosen = requests.PolicyFilter(
        family=tokens.family, src=sel.src, src_bits=sel.src_bits, dst=sel.dst, dst_bits=sel.dst_bits,
        proto=sel.proto if "proto" in sel.given else None,
        sport=None if sel.given.isdisjoint(("sport", "type", "key")) else sel.sport,
        dport=None if sel.given.isdisjoint(("dport", "code", "key")) else sel.dport,
        ifindex=sel.ifindex if "dev" in sel.given else None,
        **draft.fields,
    )  # fmt: skip
    return chosen, nosock


def _flush(tokens: Tokens) -> requests.FlushPolicies:
    draft = Draft()
    while tokens.more:
        if not tokens.accept("ptype"):
            raise tokens.unknown(("ptype",))
        POLICY_KEYWORDS["ptype"](tokens, draft)
    return requests.FlushPolicies(**draft.fields)


def _count(tokens: Tokens) -> requests.CountPolicies:
    return requests.CountPolicies()


def _set(tokens: Tokens) -> requests.SetThresholds:
    """[ hthresh4 LBITS RBITS ] [ hthresh6 LBITS RBITS ]."""
    found: dict[str, tuple[int, int]] = {}
    seen: set[str] = set()
    while tokens.more:
        if not tokens.accept("hthresh4", "hthresh6"):
            raise tokens.unknown(("hthresh4", "hthresh6"))
        word = tokens.words[tokens.at - 1]
        tokens.mark_once(seen, word)
        found[word] = (_threshold(tokens, f"{word} LBITS"), _threshold(tokens, f"{word} RBITS"))
    return requests.SetThresholds(Thresholds(found.get("hthresh4"), found.get("hthresh6")))


def _threshold(tokens: Tokens, name: str) -> int:
    bits = tokens.number(f"{name} value is invalid", 8)
    longest = 32 if name.startswith("hthresh4") else 128
    if bits > longest:
        raise tokens.wrong(f"{name} value is invalid", f"a prefix length from 0 to {longest} goes here.")
    return bits


def _setdefault(tokens: Tokens) -> requests.SetDefaults:
    """DIR { block | accept }, for each direction at most once."""
    found: dict[str, int] = {}
    seen: set[str] = set()
    while tokens.more:
        word = tokens.take("a direction")
        if word not in words.DIRS.values():
            raise tokens.wrong("unknown direction", "in, fwd or out goes here.")
        tokens.mark_once(seen, word)
        found[word] = tokens.choice(words.DEFAULTS, f"{word} policy value is invalid")
    return requests.SetDefaults(Defaults(found.get("in", 0), found.get("fwd", 0), found.get("out", 0)))


def _getdefault(tokens: Tokens) -> requests.GetDefaults:
    return requests.GetDefaults()


_VERBS: Final[tuple[tuple[str, Callable[[Tokens], requests.PolicyRequest]], ...]] = (
    ("add", _add),
    ("update", _update),
    ("delete", _delete),
    ("deleteall", _deleteall),
    ("delall", _deleteall),
    ("list", _list),
    ("show", _list),
    ("lst", _list),
    ("get", _get),
    ("flush", _flush),
    ("count", _count),
    ("set", _set),
    ("setdefault", _setdefault),
    ("getdefault", _getdefault),
)
"""In the order in which an abbreviation is tried."""
