"""What the command line knows, as data: for completion and for the manual page.

OBJECTS have ip's grammar, told in the notation of their usage; PROGRAMS have options, told by an argparse parser. A
test compares both with what main.py runs.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Final

from xfrmi.cli.help import STAT
from xfrmi.formats.usage import LINK_USAGE, MONITOR_USAGE, POLICY_USAGE, STATE_USAGE

OBJECTS: Final = {
    "link": LINK_USAGE,
    "state": STATE_USAGE,
    "policy": POLICY_USAGE,
    "monitor": MONITOR_USAGE,
    "stat": STAT,
}

_PARSERS: Final = {
    "daemon": ("programs", "daemon_parser"),
    "exec": ("programs", "exec_parser"),
    "lab": ("labs", "lab_parser"),
    "doctor": ("", ""),
    "explain": ("explain", "explain_parser"),
    "trace": ("trace", "trace_parser"),
    "capture": ("capture", "capture_parser"),
    "top": ("top", "top_parser"),
    "web": ("web", "web_parser"),
    "metrics": ("metrics", "metrics_parser"),
    "completion": ("completion", "completion_parser"),
}
"""Program -> its module here, and the function that makes its parser."""

PROGRAMS: Final = tuple(_PARSERS)


def parser_of(program: str) -> argparse.ArgumentParser:
    """What a program's words are read with. KeyError for a word that is no program."""
    module, function = _PARSERS[program]
    if not module:  # doctor reads its one option by hand, to start quickly
        parser = argparse.ArgumentParser(prog=f"xfrmi {program}", description="Say what this machine lacks for xfrmi.")
        parser.add_argument("-j", action="store_true", help="as JSON")
        return parser
    made = getattr(import_module(f"xfrmi.cli.{module}"), function)()
    assert isinstance(made, argparse.ArgumentParser)
    return made


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Those of `lab`; {} for a parser without."""
    for action in actions(parser):
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Options and arguments that help shows. argparse has no public way to ask for them."""
    return [action for action in parser._actions if action.help is not argparse.SUPPRESS]
