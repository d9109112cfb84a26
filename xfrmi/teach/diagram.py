"""A packet as rows of 32 bits, the figure of RFC 4303 with the bytes of this one in it. Text and HTML draw it alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from xfrmi.teach.layout import Field, Layout

ROW = 4
"""Bytes."""
HEAD_ROWS, TAIL_ROWS = 4, 2
"""Of a long field so many rows are drawn at its two ends."""


class Cell(NamedTuple):
    byte: int
    field: Field
    plain: int | None
    """The byte before it was encrypted, or after it was decrypted."""
    begins: bool
    """Is it the first of its field?"""


class Row(NamedTuple):
    offset: int
    cells: tuple[Cell, ...]
    """Fewer than four at the end."""

    @property
    def begun(self) -> list[Field]:
        """Fields that begin in this row."""
        return [cell.field for cell in self.cells if cell.begins]


class Gap(NamedTuple):
    """Rows left out."""

    rows: int
    field: Field


def rows_of(layout: Layout, whole: bool = False) -> Iterator[Row | Gap]:
    """All rows, or without the middle of long fields."""
    cells = list(_cells(layout))
    rows = [Row(at, tuple(cells[at : at + ROW])) for at in range(0, len(cells), ROW)]
    at = 0
    while at < len(rows):
        run = _run(rows, at)
        if whole or run <= HEAD_ROWS + TAIL_ROWS + 1:
            yield from rows[at : at + run]
        else:
            yield from rows[at : at + HEAD_ROWS]
            yield Gap(run - HEAD_ROWS - TAIL_ROWS, rows[at + HEAD_ROWS].cells[0].field)
            yield from rows[at + run - TAIL_ROWS : at + run]
        at += run


def _run(rows: list[Row], start: int) -> int:
    """How many rows from `start` on hold one field and nothing else; 1 at least."""
    first = rows[start].cells[0].field
    count = 0
    for row in rows[start:]:
        if any(cell.field is not first for cell in row.cells):
            break
        count += 1
    return max(count, 1)


def _cells(layout: Layout) -> Iterator[Cell]:
    for field in layout.fields:
        for offset in range(field.start, field.end):
            inside = offset - layout.plain_at
            known = field.encrypted and 0 <= inside < len(layout.plain)
            yield Cell(layout.data[offset], field, layout.plain[inside] if known else None, offset == field.start)


def printable(byte: int) -> str:
    return chr(byte) if 32 <= byte < 127 else "."
