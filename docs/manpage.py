"""The manual page, out of what the command line says of itself.

    python -m docs.manpage > docs/xfrmi.8        (`make man`)

The grammar is that of `xfrmi help`, options are those of the argparse parsers. What is written here is what neither
says. The site has the same as Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import NamedTuple

import xfrmi
from xfrmi.cli.commands import OBJECTS, PROGRAMS, actions, parser_of, subcommands
from xfrmi.cli.help import EXAMPLES, OVERVIEW

FRONT = {
    "-4": "IPv4 only. Short for -family inet.",
    "-6": "IPv6 only. Short for -family inet6.",
    "-f, -family FAMILY": "inet or inet6.",
    "-s, -stats, -statistics": "Counters, too.",
    "-d, -details": "Details, too.",
    "-o, -oneline": "Each thing in one line.",
    "-j, -json": "JSON.",
    "-p, -pretty": "JSON for people.",
    "-n, -netns NETNS": "The daemon of this network namespace: a name of ip netns, a pid, or a path.",
    "-b, -batch FILE": "Commands out of a file, one a line; - is standard input.",
    "-force": "In a batch: go on after a line that failed.",
    "-c, -color": "Accepted, as ip has it, and without effect.",
    "-V, -Version, -version": "Print the version.",
    "-h, -help": "What xfrmi help prints.",
}
"""The options in front of an object. As ip's, they have one dash, and may be shortened."""

DESCRIPTION = (
    "xfrmi is Linux's xfrm interfaces (route-based IPsec ESP) in userspace. A daemon stands for the kernel: it holds "
    "states, policies and interfaces of one network namespace, and carries their packets over TUN devices. The other "
    "commands speak to it in the words of ip-xfrm(8) and ip-link(8)."
)

STATUS = {
    "0": "Done.",
    "1": "A command that lacks something, or a machine that does; a program (not an object) that failed.",
    "2": "Refused by the daemon, with errno and words of the kernel, or no daemon is there; an option that a program "
    "does not know.",
    "255": "A word that cannot be used.",
}

PLACES = {
    "XFRMI_RUNTIME_DIR": "Where the sockets of daemons and the records of labs are. Without it: the first that may be "
    "written of /run/xfrmi, $XDG_RUNTIME_DIR/xfrmi, and /tmp/xfrmi-UID.",
    "/proc/net/xfrm_stat": "What xfrmi stat prints, for the daemon. Programs under xfrmi exec find it there, too.",
}


class Block(NamedTuple):
    kind: str
    """section, part, text, literal; or item, with its term."""
    text: str
    term: str = ""


def page() -> Iterator[Block]:
    yield Block("section", "NAME")
    yield Block("text", "xfrmi - Linux xfrm interfaces (route-based IPsec ESP) in userspace")
    yield Block("section", "SYNOPSIS")
    usage, _, _ = OVERVIEW.partition("\n\n")
    yield Block("literal", usage)
    yield Block("section", "DESCRIPTION")
    yield Block("text", DESCRIPTION)
    yield Block("section", "OPTIONS")
    for term, text in FRONT.items():
        yield Block("item", text, term)
    yield Block("section", "OBJECTS")
    for name, grammar in OBJECTS.items():
        yield Block("part", f"xfrmi {name}")
        yield Block("literal", grammar.expandtabs())
        for (thing, verb), example in EXAMPLES.items():
            if thing == name:
                yield Block("part", f"xfrmi {name} {verb}, an example")
                yield Block("literal", example)
    yield Block("section", "PROGRAMS")
    for name in PROGRAMS:
        yield from _program(parser_of(name))
    yield Block("section", "EXIT STATUS")
    yield Block("text", "As ip(8). xfrmi exec, lab exec and lab shell leave with that of their program.")
    for term, text in STATUS.items():
        yield Block("item", text, term)
    yield Block("section", "ENVIRONMENT AND FILES")
    for term, text in PLACES.items():
        yield Block("item", text, term)
    yield Block("section", "SEE ALSO")
    yield Block("text", "ip-xfrm(8), ip-link(8), systemd.netdev(5), ip-netns(8)")


def _program(parser: argparse.ArgumentParser) -> Iterator[Block]:
    yield Block("part", parser.prog)
    yield Block("text", parser.description or "")
    inner = subcommands(parser)
    for action in actions(parser):
        if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            yield Block("item", action.help or "", _term(action))
    for command in inner.values():
        yield from _program(command)
    if parser.epilog:
        yield Block("literal" if "\n" in parser.epilog else "text", parser.epilog)


def _term(action: argparse.Action) -> str:
    value = str(action.metavar or action.dest.upper())
    if action.choices is not None and action.metavar is None:
        value = "{" + ", ".join(map(str, action.choices)) + "}"
    if not action.option_strings:
        return value
    return ", ".join(action.option_strings) + (f" {value}" if action.nargs != 0 else "")


def roff() -> str:
    """For man(1)."""
    lines = [f'.TH XFRMI 8 "" "xfrmi {xfrmi.__version__}" "System administration"']
    for block in page():
        text = _roff(block.text)
        match block.kind:
            case "section":
                lines.append(f'.SH "{text}"')
            case "part":
                lines.append(f'.SS "{text}"')
            case "text":
                lines += [".PP", text]
            case "literal":
                lines += [".PP", ".nf", text, ".fi"]
            case _:
                lines += [".TP", f".B {_roff(block.term)}", text]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in escaped.split("\n"))


def markdown() -> str:
    """For the site."""
    parts = ["# xfrmi(8)", "The manual page: `man xfrmi` behind `pip install .`, or `man docs/xfrmi.8`."]
    for block in page():
        match block.kind:
            case "section":
                parts.append(f"## {block.text.capitalize()}")
            case "part":
                parts.append(f"### {block.text}")
            case "text":
                parts.append(block.text)
            case "literal":
                parts.append(f"```none\n{block.text}\n```")
            case _:
                parts.append(f"`{block.term}`\n: {block.text}")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(roff(), end="")
