"""docs/coverage.md says what the tests do now."""

from __future__ import annotations

from pathlib import Path

from tests.coverage import COLUMNS, UNJUDGED, cell, document, verdicts
from tests.oracle.kernelpeer.case import MODES

DOCUMENT = Path(__file__).parents[1] / "docs" / "coverage.md"


def test_the_table_is_that_of_today() -> None:
    assert DOCUMENT.read_text() == document(), "run `make coverage`"


def test_every_empty_cell_is_explained() -> None:
    empty = {
        part.name
        for part, ways in verdicts().items()
        for mode in MODES
        for column in COLUMNS
        if cell(ways, mode, *column) == "-"
    }
    assert empty == UNJUDGED
