"""What may come next on a command line: the words for a shell to choose from.

FILES and COMMANDS are no words: they ask the shell for its own.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from xfrmi.cli import options as front
from xfrmi.cli.commands import OBJECTS, PROGRAMS, actions, parser_of, subcommands
from xfrmi.cli.usage_words import Slot, clauses
from xfrmi.errors import XfrmError
from xfrmi.formats.tokens import matches

if TYPE_CHECKING:
    from xfrmi.wire.link_types import LinkInfo

FILES, COMMANDS = ":files", ":commands"
TIMEOUT = 0.5
"""Seconds. Somebody has pressed a key and waits."""
FILE_VALUES = ("FILE", "file", "folder")
DEVICES = ("DEV", "PHYS_DEV")


def complete(words: Sequence[str]) -> list[str]:
    """The words that the last one of `words`, which may be empty, can become. `words` begin behind `xfrmi`."""
    *before, begun = words or [""]
    while before and before[0].startswith("-"):
        if name := front.name_with_value(before.pop(0)):
            if not before:
                return [FILES] if name == "batch" else []
            before.pop(0)
    if before[:1] == ["xfrm"]:
        before.pop(0)
    return sorted(word for word in dict.fromkeys(_next(before, begun)) if word.startswith((begun, ":")))


def _next(before: list[str], begun: str) -> Iterable[str]:
    if not before:
        return front.SPELLINGS if begun.startswith("-") else (*OBJECTS, *PROGRAMS, "help")
    if before[0] == "help":
        return (*OBJECTS, *PROGRAMS) if len(before) == 1 else _verbs(before[1]) if len(before) == 2 else ()
    if before[0] in PROGRAMS:
        return _of_program(before, begun)
    name = next((name for name in OBJECTS if matches(before[0], name)), "")
    return _of_object(name, before[1:]) if name else ()


def _verbs(name: str) -> list[str]:
    return [verb for verb in clauses(OBJECTS[name]) if verb] if name in OBJECTS else []


def _of_object(name: str, before: list[str]) -> Iterable[str]:
    """The words behind an object: a verb, then words with values in any order."""
    known = clauses(OBJECTS[name])
    if "" in known:
        clause = known[""]
    elif not before:
        return (*_verbs(name), "help")
    else:
        verb = next((verb for verb in known if matches(before[0], verb)), "")
        if not verb:
            return ()
        clause = known[verb]
        before = before[1:]
    slots: list[Slot] = []
    for at, word in enumerate(before):
        if slots:
            slots.pop(0)
        elif at == 0 and clause.first and word in clause.first[0].choices:
            slots = [Slot(value=clause.first[0].value)]
        else:
            slots = list(clause.words.get(word, ()))
    if slots:
        return (*slots[0].choices, *_values(slots[0].value, name))
    first = clause.first[0] if clause.first and not before else Slot()
    return (*clause.words, *first.choices, *_values(first.value, name))


def _of_program(before: list[str], begun: str) -> Iterable[str]:
    parser = parser_of(before[0])
    before = before[1:]
    for at, word in enumerate(before):
        if word in (commands := subcommands(parser)):
            parser, before = commands[word], before[at + 1 :]
            break
    known = actions(parser)
    for action in known:
        if before and before[-1] in action.option_strings and action.nargs != 0:
            return _of_action(action)
    if "--" in before:
        return [COMMANDS] if before[-1] == "--" else [FILES]
    if begun.startswith("-"):
        return [word for action in known for word in action.option_strings] + ["--"]
    found: list[str] = []
    places = [action for action in known if not action.option_strings]
    given = sum(1 for word in before if not word.startswith("-"))
    for action in places[given : given + 1] or places[-1:]:
        found += _of_action(action)
    return found


def _of_action(action: argparse.Action) -> list[str]:
    """Values of an option, or of an argument in its place."""
    if isinstance(action, argparse._SubParsersAction):
        return list(action.choices)
    if action.choices is not None:
        return [str(choice) for choice in action.choices]
    name = str(action.metavar or action.dest)
    if name in FILE_VALUES:
        return [FILES]
    if name == "-- COMMAND":
        return ["--"]
    if name in ("NAME", "name"):
        return _labs()
    if name in ("node", "NODE:DEVICE", "LINK"):
        return _nodes()
    if name == "CHANGE":
        from xfrmi.lab.link_change import WORDS

        return WORDS
    found = [word for word in ("in", "out") if word in name]
    return found + (_interfaces() if "DEV" in name else [])


def _values(kind: str, name: str) -> list[str]:
    """Names that there are for a value of the grammar."""
    if kind in DEVICES:
        return _devices()
    if kind == "NAME" and name == "link":
        return _interfaces()
    if kind in ("IF_ID", "IF-ID"):
        return [hex(link.if_id) for link in _links() if link.if_id]
    return []


def _devices() -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir("/sys/class/net")
    return []


def _interfaces() -> list[str]:
    return [link.name for link in _links()]


def _links() -> list[LinkInfo]:
    """Those of the daemon here, if there is one that answers."""
    from xfrmi.client import Client

    with contextlib.suppress(XfrmError, OSError), Client(timeout=TIMEOUT) as client:
        return client.links()
    return []


def _labs() -> list[str]:
    with contextlib.suppress(OSError):
        from xfrmi.lab import registry

        return [folder.name for folder in registry.folders()]
    return []


def _nodes() -> list[str]:
    with contextlib.suppress(OSError):
        from xfrmi.lab import registry

        records = [registry.read_record(folder) for folder in registry.folders()]
        return [node for record in records if record is not None for node in record.nodes]
    return []
