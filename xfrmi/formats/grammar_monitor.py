"""`monitor`: which multicast groups (7.5) the words name."""

from __future__ import annotations

from typing import Final, NamedTuple

from xfrmi.formats.tokens import USAGE, Tokens, matches, suggestion
from xfrmi.formats.usage import MONITOR_USAGE

GROUPS: Final = {"acquire": 1, "expire": 2, "SA": 3, "aevent": 5, "policy": 4, "report": 6}
"""Word -> XFRMNLGRP_*, in the order in which an abbreviation is tried. MIGRATE (7) and MAPPING (8) have no word."""
ALL_GROUPS: Final = tuple(range(1, 9))


class Monitor(NamedTuple):
    groups: tuple[int, ...]
    """Multicast groups (7.5) to join."""
    nokeys: bool = False
    all_nsid: bool = False


def parse_monitor(tokens: Tokens) -> Monitor:
    """[ nokeys ] [ all-nsid ] [ all | OBJECT ... ]; no object is all of them. Raises GrammarError."""
    groups: list[int] = []
    nokeys = all_nsid = False
    while tokens.more:
        word = tokens.take("an object")
        group = next((number for name, number in GROUPS.items() if matches(word, name)), None)
        if word == "all":
            continue
        if matches(word, "nokeys"):
            nokeys = True
        elif matches(word, "all-nsid"):
            all_nsid = True
        elif group is not None:
            groups.append(group)
        elif matches(word, "help"):
            raise tokens.error(MONITOR_USAGE, USAGE, "this is all that monitor knows.")
        else:
            text = f'Argument "{word}" is unknown, try "xfrmi monitor help".'
            raise tokens.error(text, USAGE, suggestion(word, (*GROUPS, "all", "nokeys")))
    return Monitor(tuple(groups) or ALL_GROUPS, nokeys, all_nsid)
