"""Drawings and status of labs in colour, where a person is looking; the text is the same without."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from xfrmi.lab.screen import is_coloured

if TYPE_CHECKING:
    from rich.text import Text

STYLES = (
    (r"^\S+(?=:)", "bold"),
    (r"^  \S+(?=  +(host|router|nat)\b)", "bold green"),
    (r"[╭╮╰╯│├┤└]|─+(?![a-z])", "bright_black"),
    (r"┄┄┄ (if_id [^┄]*) ┄┄┄", "cyan"),
    (r"(?<= )(\d+us|\d[\d.]*m?s|±\d[\d.]*m?s|\d[\d.]*[kmg]?bit)\b", "yellow"),
    (r"\b(loss|duplicate|reorder|corrupt) \d[\d.]*%|\bblackhole \d+|\bmtu \d+", "yellow"),
    (r"\b[1-9]\d* (lost|doubled|out of order|damaged|too long|overrun)\b", "yellow"),
    (r"[╌]+ pulled [╌]+|: pulled$|✗.*|: down, .*", "bold red"),
    (r"✓", "green"),
)
"""Patterns, and how what they match looks; of several the last."""


def painted(text: str, nodes: Iterable[str] = ()) -> Text:
    """In colour; names of nodes stand out. Needs rich."""
    from rich.text import Text

    found = Text(text)
    for pattern, style in STYLES:
        for match in re.finditer(pattern, text, re.MULTILINE):
            found.stylize(style, *match.span())
    for node in nodes:
        found.highlight_regex(rf"(?m)(?<=[╭─] ){node}(?= )|^{node}(?= \(|$)", "bold green")
    return found


def show(text: str, nodes: Iterable[str] = ()) -> None:
    """Print it, in colour if standard output is a terminal."""
    if not is_coloured(sys.stdout):
        print(text)
        return
    from rich.console import Console

    Console(soft_wrap=True, highlight=False).print(painted(text, nodes))
