"""One command line in ip(8)'s grammar -> one request. The parts: grammar_state, _policy, _link, _monitor.

    parse(["state", "add", "src", "192.0.2.1", ...]) -> AddState(info=StateInfo(...))
    parse(split_line("ip xfrm policy list dir out")) -> ListPolicies(...)

What cannot be a request raises GrammarError with the text and exit code of ip(8). Each part is imported when a line
needs it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from xfrmi.formats.tokens import INCOMPLETE, USAGE, GrammarError, Tokens, matches
from xfrmi.wire.xfrm_const import AF_UNSPEC

if TYPE_CHECKING:
    from xfrmi.formats.requests import Request

MAX_LINE = 1 << 14
"""Characters of a line. It takes shlex a time that grows with the square of the length of a word."""

OBJECTS = ("state", "sa", "policy", "monitor", "link")


def parse(
    words: Sequence[str], *, family: int = AF_UNSPEC, ifindex_of: Callable[[str], int] | None = None
) -> Request:
    """OBJECT COMMAND ...; `ip`, `xfrmi` and `xfrm` in front are skipped.

    `family` is AF_INET or AF_INET6 after -4 or -6. `ifindex_of` turns a device name into its index, 0 for no such
    device; without it no device exists.
    """
    tokens = Tokens(words, family=family, ifindex_of=ifindex_of)
    match take_object(tokens):
        case "state":
            from xfrmi.formats.grammar_state import parse_state

            return parse_state(tokens)
        case "policy":
            from xfrmi.formats.grammar_policy import parse_policy

            return parse_policy(tokens)
        case "link":
            from xfrmi.formats.grammar_link import parse_link

            return parse_link(tokens)
    from xfrmi.formats.grammar_monitor import parse_monitor

    return parse_monitor(tokens)


def take_object(tokens: Tokens) -> str:
    """Take the words up to the object, which is returned under its full name. Raises GrammarError."""
    tokens.accept("ip", "xfrmi")
    if (first := tokens.peek()) is not None and matches(first, "xfrm"):
        tokens.at += 1
    word = tokens.take(f"one of {', '.join(OBJECTS)}")
    for name in ("state", "policy", "link", "monitor"):
        if matches(word, name):
            return name
    if word == "sa":
        return "state"
    text = f'Object "{word}" is unknown, try "xfrmi help".'
    raise tokens.error(text, USAGE, f"one of {', '.join(OBJECTS)} goes here.")


def has_no_comment(line: str) -> bool:
    return not re.search(r"(^|\s)#", line)


def logical_lines(text: str, may_go_on: Callable[[str], bool] = has_no_comment) -> Iterator[tuple[int, int, str]]:
    """(number of its first line, of its last, line) of commands in a file. A line that ends in a backslash goes on in
    the next, if it `may_go_on`: a comment does not. Where there is no next line the backslash stays, and `split_line`
    complains."""
    pending, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        first = first or number
        pending += line
        if line.endswith("\\") and len(pending) <= MAX_LINE and may_go_on(pending):
            pending = pending[:-1]
            continue
        yield first, number, pending
        pending, first = "", 0
    if first:
        yield first, number, f"{pending}\\"


def split_line(line: str) -> list[str]:
    """A line of a batch file as the words a shell would make of it; what follows a # is a comment."""
    from shlex import split

    if len(line) > MAX_LINE:
        hint = f"No command has more than {MAX_LINE} characters."
        raise GrammarError("Cannot read this line: too long", INCOMPLETE, position=0, hint=hint)
    if line.endswith("\\") and has_no_comment(line):
        hint = "It ends in a backslash: the next line belongs to it, and there is none."
        raise GrammarError("Missing continuation line", INCOMPLETE, position=0, hint=hint)
    try:
        return split(line, comments=True)
    except ValueError as error:
        hint = "Close the quotes."
        raise GrammarError(f"Cannot read this line: {error}", INCOMPLETE, position=0, hint=hint) from None
