"""The keywords of `policy` commands: each function reads what follows one of them into a draft.

The order of keywords is free; a keyword given twice overrides, except where ip(8) refuses it; each tmpl adds one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from xfrmi.formats import words
from xfrmi.formats.grammar_parts import (
    SELECTOR_WORDS,
    Id,
    SelectorDraft,
    parse_context,
    parse_id,
    parse_limit,
    parse_mark,
    parse_mode,
    parse_selector,
)
from xfrmi.formats.tokens import INCOMPLETE, Tokens
from xfrmi.wire import xfrm_const as k
from xfrmi.wire.xfrm_types import Selector, Template

_TMPLS_MAX: Final = 16
"""What ip's buffer holds; the kernel's own limit is lower (OUT-07)."""


@dataclass(slots=True)
class _Tmpl:
    family: int
    id: Id = field(default_factory=Id)
    fields: dict[str, int] = field(default_factory=lambda: {"mode": int(k.Mode.TRANSPORT)})

    def template(self, family: int) -> Template:
        """`family` is the policy's, for a template that has none (7.4)."""
        family, src, dst = self.id.addresses(self.family or family)
        return Template(src, dst, self.id.spi or 0, self.id.proto or 0, family=family, **self.fields)


@dataclass(slots=True)
class Draft:
    """What a command has read so far."""

    fields: dict[str, Any] = field(default_factory=dict)
    """Fields of PolicyInfo, PolicyId or PolicyFilter."""
    selector: SelectorDraft | None = None
    limits: dict[str, int] = field(default_factory=dict)
    tmpls: list[_Tmpl] = field(default_factory=list)
    tmpl_family: int = k.AF_UNSPEC
    """Of a template without addresses: that of the template or selector before it."""
    seen: set[str] = field(default_factory=set)

    def read_selector(self, tokens: Tokens) -> None:
        self.selector = parse_selector(tokens, tokens.family)
        self.tmpl_family = self.tmpl_family or self.selector.family

    def require_dir(self, tokens: Tokens) -> None:
        if "dir" not in self.fields:
            hint = "Add dir in, dir out or dir fwd."
            raise tokens.incomplete("Not enough information: DIR is required.", INCOMPLETE, hint)

    def whole_selector(self, tokens: Tokens) -> Selector:
        """IPv4 unless an address or option says otherwise (7.9)."""
        return (self.selector or SelectorDraft()).selector(tokens.family or k.AF_INET)


Keyword = Callable[[Tokens, Draft], None]


def _dir(tokens: Tokens, draft: Draft) -> None:
    draft.fields["dir"] = tokens.choice(words.DIRS, "DIR value is invalid")


def _ptype(tokens: Tokens, draft: Draft) -> None:
    draft.fields["type"] = tokens.choice(words.POLICY_TYPES, "PTYPE value is invalid")


def _ctx(tokens: Tokens, draft: Draft) -> None:
    tokens.mark_once(draft.seen, "ctx")
    draft.fields["sec_ctx"] = parse_context(tokens)


def _mark(tokens: Tokens, draft: Draft) -> None:
    draft.fields["mark"] = parse_mark(tokens)


def _action(tokens: Tokens, draft: Draft) -> None:
    draft.fields["action"] = tokens.choice(words.ACTIONS, "ACTION value is invalid")


def _flag(tokens: Tokens, draft: Draft) -> None:
    flags = tokens.flags(words.POLICY_FLAGS_READ, 8, "FLAG value is invalid")
    draft.fields["flags"] = draft.fields.get("flags", 0) | flags


def _limit(tokens: Tokens, draft: Draft) -> None:
    parse_limit(tokens, draft.limits)


def _value(name: str) -> Keyword:
    def keyword(tokens: Tokens, draft: Draft) -> None:
        draft.fields[name] = tokens.number(f"{name.upper()} value is invalid")

    return keyword


def _once(word: str, read: Keyword) -> Keyword:
    def keyword(tokens: Tokens, draft: Draft) -> None:
        tokens.mark_once(draft.seen, word)
        read(tokens, draft)

    return keyword


def _tmpl(tokens: Tokens, draft: Draft) -> None:
    """tmpl ID [ mode MODE ] [ reqid REQID ] [ level LEVEL ]: in any order, the ID in one piece."""
    if len(draft.tmpls) == _TMPLS_MAX:
        raise tokens.error("Too many tmpls: buffer overflow", INCOMPLETE, "only five templates are ever used.")
    if not tokens.more:
        tokens.take("a template")
    tmpl = _Tmpl(draft.tmpl_family)
    while tokens.more:
        if tokens.accept("mode"):
            tmpl.fields["mode"] = parse_mode(tokens)
        elif tokens.accept("reqid"):
            tmpl.fields["reqid"] = tokens.number("REQID value is invalid")
        elif tokens.accept("level"):
            tmpl.fields["optional"] = tokens.choice(words.LEVELS, "LEVEL value is invalid")
        elif tmpl.id.proto is None:
            tmpl.id = parse_id(tokens)
            draft.tmpl_family = tmpl.family = tmpl.id.family or draft.tmpl_family
        else:
            break
    draft.tmpls.append(tmpl)


POLICY_KEYWORDS: Final[dict[str, Keyword]] = {
    "dir": _once("dir", _dir),
    "ctx": _ctx,
    "mark": _mark,
    "index": _value("index"),
    "ptype": _once("ptype", _ptype),
    "action": _action,
    "priority": _value("priority"),
    "flag": _flag,
    "limit": _limit,
    "if_id": _value("if_id"),
    "tmpl": _tmpl,
}
ID_KEYWORDS: Final[dict[str, Keyword]] = {
    **{word: POLICY_KEYWORDS[word] for word in ("dir", "ctx", "mark", "ptype", "if_id")},
    "index": _once("index", _value("index")),
}
FILTER_KEYWORDS: Final[dict[str, Keyword]] = {
    "dir": _dir,
    "index": _value("index"),
    "ptype": _ptype,
    "action": _action,
    "priority": _value("priority"),
    "flag": _flag,
}


def read_keyword(tokens: Tokens, draft: Draft, keywords: dict[str, Keyword]) -> bool:
    """One keyword with its values, or the SELECTOR (once); False if the next word is neither."""
    word = tokens.peek()
    if word in keywords:
        keywords[tokens.take("")](tokens, draft)
    elif draft.selector is None and word in SELECTOR_WORDS:
        draft.read_selector(tokens)
    else:
        return False
    return True
