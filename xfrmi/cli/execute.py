"""A command line for the daemon: which object it is about, and the module that carries it out.

Each object has a module of its own that reads the words, asks the daemon and prints as ip prints: a command loads what
it needs and nothing else.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from xfrmi.cli.options import Options
from xfrmi.cli.output import Output, ifindex_of
from xfrmi.formats.grammar import take_object
from xfrmi.formats.tokens import Tokens, matches

if TYPE_CHECKING:
    from xfrmi.client import Client


def execute(client: Client, options: Options, words: list[str]) -> None:
    """Raises GrammarError, XfrmError."""
    output = Output(options)
    rest = words[1:] if matches(words[0], "xfrm") and len(words) > 1 else words
    if rest[0] == "stat":
        from xfrmi.cli.stat import print_counters

        print_counters(client, output)
        return
    if _wants_listing(options, rest) and ((text := sys.stdin.read()).strip() or rest[-1] == "-"):
        from xfrmi.cli.replay import add_listed

        add_listed(client, rest[0], text)
        return
    tokens = Tokens(words, family=options.family, ifindex_of=ifindex_of)
    match take_object(tokens):
        case "state":
            from xfrmi.cli.states import run
        case "policy":
            from xfrmi.cli.policies import run
        case "link":
            from xfrmi.cli.links import run
        case _:
            from xfrmi.cli.monitor import run
    run(client, tokens, output)


def _wants_listing(options: Options, words: list[str]) -> bool:
    """`state add -`, `policy add -`; the dash may be left out where standard input is a file or a pipe."""
    if len(words) not in (2, 3) or not matches(words[1], "add"):
        return False
    if not (matches(words[0], "state") or matches(words[0], "policy") or words[0] == "sa"):
        return False
    if len(words) == 3:
        return words[2] == "-"
    return options.batch is None and sys.stdin is not None and not sys.stdin.isatty()
