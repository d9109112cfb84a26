"""What a person sees: where the run is, and tables at its end."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from bench.figures import Figure

WIDTH = 160
"""Of tables that go into a file."""


class Progress:
    """A bar on standard error, on a terminal only."""

    def __init__(self, steps: float) -> None:
        terminal = Console(stderr=True)
        columns = BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
        self._bar = Bar(*columns, console=terminal, disable=not terminal.is_terminal, transient=True)
        self._task = self._bar.add_task("", total=steps)

    def doing(self, text: str) -> None:
        self._bar.update(self._task, description=text)

    def advance(self) -> None:
        self._bar.advance(self._task)

    def at(self, steps: float) -> None:
        self._bar.update(self._task, completed=steps)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


def cell(figure: Figure[Any], results: Sequence[Any]) -> str:
    """The median; in a second line the smallest and the largest, if there are several."""
    median, low, high = map(figure.text, figure.spread(results))
    return median if len(results) == 1 or median == "-" else f"{median}\n{low} - {high}"


def times(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def show_rows(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], text: str = "") -> None:
    """The first column is text, the others are numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, head in enumerate(heads):
        table.add_column(head, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    out = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    out.print(f"\n[bold]{title}[/]")
    if text:
        out.print(text)
    out.print(table)
