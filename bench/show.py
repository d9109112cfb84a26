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

from bench.figures import Figure, Results, compare

WIDTH = 160
"""Of tables that go into a file."""


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)


class Progress:
    """A bar on standard error, on a terminal only."""

    def __init__(self, steps: int) -> None:
        terminal = Console(stderr=True)
        columns = BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
        self._bar = Bar(*columns, console=terminal, disable=not terminal.is_terminal, transient=True)
        self._task = self._bar.add_task("", total=steps)

    def doing(self, text: str) -> None:
        self._bar.update(self._task, description=text)

    def advance(self) -> None:
        self._bar.advance(self._task)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


def show_results(title: str, results: Results[Any], figures: Sequence[Figure[Any]]) -> None:
    """Medians, and below each the smallest and the largest."""
    show_rows(
        title,
        ["", *(f"{figure.title}\n{figure.unit}" for figure in figures)],
        [[way.name, *(cell(figure, each) for figure in figures)] for way, each in results.items()],
    )


def cell(figure: Figure[Any], results: Sequence[Any]) -> str:
    median, low, high = map(figure.text, figure.spread(results))
    return median if len(results) == 1 else f"{median}\n[dim]{low} - {high}[/]"


def show_comparison(results: Results[Any], figures: Sequence[Figure[Any]]) -> None:
    """How many times as good as each peer xfrmi is; nothing without peers."""
    figures = [figure for figure in figures if figure.goal]
    rows = [[row.ours, row.peer, *map(times, row.times)] for row in compare(results, figures)]
    if rows:
        show_rows("times as good as a peer, of medians", ["", "peer", *(figure.title for figure in figures)], rows)


def times(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def show_rows(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The first column is text, the others are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, head in enumerate(heads):
        table.add_column(head, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    out = console()
    out.print()
    out.print(table)
