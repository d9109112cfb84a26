"""The options in front of the object, as ip(8) has them: `xfrmi -s -d state list`.

ip has its own idea of options (one dash, any abbreviation, -s counts), so this is read by hand rather than by
argparse, which would also cost the better part of the time `xfrmi state list` takes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from xfrmi.formats.tokens import USAGE, GrammarError
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6, AF_UNSPEC


class Options(NamedTuple):
    """What was asked for in front of the object."""

    family: int = AF_UNSPEC
    stats: int = 0
    details: bool = False
    json: bool = False
    pretty: bool = False
    oneline: bool = False
    netns: str | None = None
    batch: str | None = None
    force: bool = False
    """In a batch: go on after a line that failed."""
    version: bool = False
    help: bool = False


_NAMES = (
    "json", "pretty", "stats", "statistics", "details", "oneline", "netns", "batch", "force", "Version", "version",
    "help", "family", "color",
)  # fmt: skip
_WITH_ARGUMENT = ("netns", "batch", "family")
_SHORT = {"4": "4", "6": "6", "j": "json", "p": "pretty", "s": "stats", "d": "details", "o": "oneline", "n": "netns",
          "b": "batch", "V": "Version", "h": "help", "f": "family", "c": "color"}  # fmt: skip

SPELLINGS = (*(f"-{letter}" for letter in _SHORT), *(f"-{name}" for name in _NAMES))


def name_with_value(word: str) -> str:
    """The full name of this option if the next word belongs to it, else empty."""
    try:
        name = _full_name(word, 0)
    except GrammarError:
        return ""
    return name if name in _WITH_ARGUMENT else ""


def read_options(words: list[str]) -> tuple[Options, list[str]]:
    """(options, the words from the object on). Raises GrammarError."""
    options = Options()
    at = 0
    while at < len(words) and words[at].startswith("-") and words[at] != "-":
        word = words[at]
        name = _full_name(word, at)
        at += 1
        argument = ""
        if name in _WITH_ARGUMENT:
            if at == len(words):
                raise GrammarError(
                    'Command line is not complete. Try option "help"', USAGE, position=at, hint=f"{word} takes a value."
                )
            argument = words[at]
            at += 1
        options = _with(options, name, argument, at - 1)
    return options, words[at:]


def _full_name(word: str, position: int) -> str:
    bare = word.lstrip("-")
    if bare in _SHORT:
        return _SHORT[bare]
    if bare == "iec":
        return "iec"
    found = [name for name in _NAMES if bare and name.startswith(bare.partition("=")[0])]
    if not found:
        text = f'Option "{word}" is unknown, try "xfrmi -help".'
        raise GrammarError(text, USAGE, position=position, hint="-4 -6 -s -d -o -j -p -n NETNS -b FILE -V are known.")
    return found[0]


def _with(options: Options, name: str, argument: str, position: int) -> Options:
    match name:
        case "4":
            return options._replace(family=AF_INET)
        case "6":
            return options._replace(family=AF_INET6)
        case "family":
            families = {"inet": AF_INET, "inet6": AF_INET6}
            if argument not in families:
                text = f'Error: argument "{argument}" is wrong: invalid protocol family'
                raise GrammarError(text, USAGE, position=position, hint="inet or inet6 goes here.")
            return options._replace(family=families[argument])
        case "stats" | "statistics":
            return options._replace(stats=options.stats + 1)
        case "netns":
            return options._replace(netns=argument)
        case "batch":
            return options._replace(batch=argument)
    name = name.lower()
    return options._replace(**dict[str, Any]({name: True})) if name in Options._fields else options
