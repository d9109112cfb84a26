"""The notation of the usage texts, read: which words a command has, and what may stand behind each.

    state add  ->  {"mode": (choice of transport, tunnel ...), "encap": (choice, SPORT, DPORT, OADDR), ...}

A usage is clauses, `xfrmi OBJECT { VERB | VERB } ...`, and definitions, `NAME := ...`. Words in lower case are typed as
they are, in upper case they stand for a value or for what a definition says. What a clause may have is put flat here:
in ip's grammar words come in any order, each with its values behind it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

TOKEN = re.compile(r"[\[\]{}|]|[^\s\[\]{}|]+")
DEFINITION = re.compile(r"^([A-Z][A-Z-]*) := (.*(?:\n\s+\|.*)*)", re.MULTILINE)
CLAUSE = re.compile(r"^(?:Usage:| {6}) xfrmi (\w+)(.*(?:\n {8}.*)*)", re.MULTILINE)


class Slot(NamedTuple):
    """What may stand in one place: words of `choices`, or a value of the kind `value` ("DEV", "IF_ID" ...)."""

    choices: tuple[str, ...] = ()
    value: str = ""


class Clause(NamedTuple):
    """One command of an object."""

    first: tuple[Slot, ...]
    """What may stand at the beginning without a word in front of it: the NAME of `link delete NAME`."""
    words: dict[str, tuple[Slot, ...]]
    """Each word, and the places behind it."""


def clauses(usage: str) -> dict[str, Clause]:
    """Verb -> clause; "" for an object without verbs."""
    definitions = {name: TOKEN.findall(text) for name, text in DEFINITION.findall(usage)}
    found: dict[str, Clause] = {}
    for _, text in CLAUSE.findall(usage):
        tokens = TOKEN.findall(text)
        verbs, tokens = _verbs(tokens)
        for verb, own in verbs.items():
            found[verb] = _clause(_flat(own + tokens, definitions, ()))
    return found


def _verbs(tokens: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """({verb: what is its alone}, the rest)."""
    if not tokens or not (tokens[0] == "{" or tokens[0].islower()):
        return {"": []}, tokens
    if tokens[0] != "{":
        return {tokens[0]: []}, tokens[1:]
    end = _closing(tokens, 0)
    verbs: dict[str, list[str]] = {}
    for part in _alternatives(tokens[1:end]):
        verbs[part[0]] = part[1:]
    return verbs, tokens[end + 1 :]


def _flat(tokens: list[str], definitions: dict[str, list[str]], inside: tuple[str, ...]) -> list[str]:
    """With definitions in the places of their names; a value that has no words in its definition stays."""
    flat: list[str] = []
    for token in tokens:
        meaning = definitions.get(token, [])
        if token in inside or not any(map(_is_word, meaning)):
            flat += [token] if token != "..." else []
        elif all(map(_is_word, meaning[::2])):  # one of several words, and nothing else
            flat += ["{", *meaning, "}"]
        else:
            flat += _flat(meaning, definitions, (*inside, token))
    return flat


def _clause(tokens: list[str]) -> Clause:
    words: dict[str, tuple[Slot, ...]] = {}
    choices: set[int] = set()
    for at, token in enumerate(tokens):
        if _is_word(token) and at not in choices:
            slots, taken = _slots(tokens, at + 1)
            choices |= taken
            words[token] = _merged(words[token], slots) if token in words else slots
    return Clause(_first(tokens), words)


def _slots(tokens: list[str], at: int) -> tuple[tuple[Slot, ...], set[int]]:
    """The places from `at` on that belong to the word before, and which tokens are choices in them."""
    slots: list[Slot] = []
    taken: set[int] = set()
    while at < len(tokens):
        if tokens[at].isupper():
            slots.append(Slot(value=tokens[at]))
            at += 1
        elif tokens[at : at + 2] == ["|", "{"] and len(slots) > 1 and slots[0].choices:  # the next line of LIMIT
            end = _closing(tokens, at + 1)
            slots[0] = Slot(slots[0].choices + tuple(filter(_is_word, tokens[at + 2 : end : 2])))
            taken |= set(range(at, end))
            at = end + 2
        elif _is_word(tokens[at]) and not slots:  # `type xfrm`
            slots.append(Slot((tokens[at],)))
            break
        elif tokens[at] == "{":
            end = _closing(tokens, at)
            parts = _alternatives(tokens[at + 1 : end])
            if any(len(part) > 1 for part in parts):  # what has words of its own belongs to nobody else
                break
            values = [part[0] for part in parts if part[0].isupper()]
            slots.append(Slot(tuple(part[0] for part in parts if _is_word(part[0])), values[0] if values else ""))
            taken |= set(range(at, end))
            at = end + 1
        else:
            break
    return tuple(slots), taken


def _merged(old: tuple[Slot, ...], new: tuple[Slot, ...]) -> tuple[Slot, ...]:
    """A word that a clause has twice (proto of the state, proto of the selector) may be followed by either."""
    if not old or not new:
        return old or new
    choices = dict.fromkeys(old[0].choices + new[0].choices)
    return Slot(tuple(choices), old[0].value or new[0].value), *max(old, new, key=len)[1:]


def _first(tokens: list[str]) -> tuple[Slot, ...]:
    match tokens[tokens[:2] == ["[", "["] :]:
        case ["[", word, "]", value, *_] if value.isupper():
            return (Slot((word,), value),)
    return ()


def _closing(tokens: list[str], at: int) -> int:
    depth = 0
    for place in range(at, len(tokens)):
        depth += {"{": 1, "}": -1}.get(tokens[place], 0)
        if not depth:
            return place
    return len(tokens)


def _alternatives(tokens: list[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    depth = 0
    for token in tokens:
        depth += {"{": 1, "}": -1, "[": 1, "]": -1}.get(token, 0)
        if token == "|" and not depth:
            parts.append([])
        else:
            parts[-1].append(token)
    return [part for part in parts if part]


def _is_word(token: str) -> bool:
    return (token[0].isalpha() and not token.isupper()) or token == "SA"
