"""The last thing `make bench` prints: microseconds a packet, and how many times the bare cipher call of that size."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

FLOOR = ("seal", "AESGCM alone")


@pytest.hookimpl(trylast=True)  # after pytest-benchmark's own tables
def pytest_terminal_summary(terminalreporter: Any, config: Any) -> None:
    session = getattr(config, "_benchmarksession", None)
    tables: dict[str, dict[str, dict[int | None, float]]] = defaultdict(lambda: defaultdict(dict))
    for result in session.benchmarks if session else ():
        extra = result.extra_info
        if "table" in extra and result.stats.rounds:
            tables[extra["table"]][result.name][extra["size"]] = result.stats.median / extra["packets"] * 1e6
    if not tables:
        return
    floor = tables[FLOOR[0]].get(FLOOR[1], {})
    sizes = sorted({size for rows in tables.values() for medians in rows.values() for size in medians if size})
    line = terminalreporter.write_line
    terminalreporter.write_sep("=", "microseconds a packet (median)")
    line(f"{'':38}" + "".join(f"{f'{size} B':>16}" for size in sizes))
    for table, rows in tables.items():
        for row, medians in rows.items():
            cells = [cell(medians, size, floor) for size in (None, *sizes)]
            line(f"{f'{table}: {row}':38}{''.join(cells)}".rstrip())
    line("x: compared with sealing by `cryptography` alone, in this run")


def cell(medians: dict[int | None, float], size: int | None, floor: dict[int | None, float]) -> str:
    if size not in medians:
        return "" if size is None else " " * 16
    ratio = f"{medians[size] / floor[size]:6.1f} x" if size in floor else ""
    return f"{medians[size]:7.2f} {ratio:8}"
