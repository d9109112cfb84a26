"""The micro benches of `make bench`: pytest-benchmark on this folder, and its figures as sections of the report."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.chart import Bar, Chart
from bench.conftest import FLOOR
from bench.report import Section
from bench.show import Progress

USUAL = ("--benchmark-max-time=0.3",)
QUICK = ("--benchmark-max-time=0.1", "--benchmark-min-rounds=3", "-k", "not tables and not 512 and not 64")
PERCENT = re.compile(r"\[\s*(\d+)%\]\s*$")
TABLES = {
    "seal": "Bursts of 40, sealed. Times the bare call of `cryptography` of that size.",
    "open": "Bursts of 40, opened. Times the bare call that encrypts.",
    "engine": "The whole of the engine around it: flow key, decision, windows, policies, counters, merging.",
    "seal with": "Every algorithm, sealed; times AES-GCM's bare call.",
    "open with": "Every algorithm, opened; times AES-GCM's bare call.",
}


def micro(arguments: Sequence[str], quick: bool) -> tuple[list[Section], list[dict[str, Any]], list[str]]:
    """(sections, pytest-benchmark's own records without the raw data, what went wrong)."""
    with tempfile.TemporaryDirectory(prefix="xfrmi-bench-") as folder:
        path = Path(folder) / "micro.json"
        command = [sys.executable, "-m", "pytest", str(Path(__file__).parent), "-v", "--no-header", "--color=no"]
        command += [f"--benchmark-json={path}", *(QUICK if quick else USUAL), *arguments]
        status, said = followed(command)
        records = json.loads(path.read_text())["benchmarks"] if path.exists() else []
    notes = [] if status == 0 else [f"MICRO BENCHES FAILED: {last}" for last in said[-3:]]
    for record in records:
        record["stats"].pop("data", None)
    return [*datapath(records), *lookups(records)], records, notes


def followed(command: Sequence[str]) -> tuple[int, list[str]]:
    """Run pytest, show how far it is. Its exit status and its lines."""
    lines = []
    pytest = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with Progress(100) as progress, pytest as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            if match := PERCENT.search(line):
                progress.doing(f"micro: {line.split()[0].rpartition('::')[2]}")
                progress.at(float(match[1]))
        return process.wait(), lines


def datapath(records: Sequence[dict[str, Any]]) -> list[Section]:
    """Microseconds a packet, by size, beside the bare cipher call."""
    tables: dict[str, dict[str, dict[int | None, tuple[float, float, float]]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        extra, stats = record["extra_info"], record["stats"]
        if "table" in extra:
            median, low, high = (stats[name] / extra["packets"] * 1e6 for name in ("median", "q1", "q3"))
            tables[extra["table"]][record["name"]][extra["size"]] = median, low, high
    floor = {size: each[0] for size, each in tables.get(FLOOR[0], {}).get(FLOOR[1], {}).items()}
    found = []
    for table, rows in tables.items():
        sizes = sorted({size for medians in rows.values() for size in medians}, key=lambda size: size or 0)
        heads = ["", *(f"{size} B\nus, times bare" if size else "us" for size in sizes)]
        body = [[row, *(cell(medians.get(size), floor.get(size)) for size in sizes)] for row, medians in rows.items()]
        largest = sizes[-1]
        bars = [
            Bar(row, *medians[largest], f"{medians[largest][0]:.2f}", "floor" if row == FLOOR[1] else "ours")
            for row, medians in rows.items()
            if largest in medians
        ]
        text = f"{TABLES.get(table, '')} Medians; small print: quartiles.".strip()
        title = f"micro: {table}" + (f", packets of {largest} bytes" if largest else "")
        found.append(Section(f"micro: {table}", text, heads, body, [Chart(title, "us a packet", False, bars)]))
    return found


def cell(each: tuple[float, float, float] | None, floor: float | None) -> str:
    if each is None:
        return "-"
    median, low, high = each
    ratio = f" ({median / floor:.1f}x)" if floor else ""
    return f"{median:.2f}{ratio}\n{low:.2f} - {high:.2f}"


def lookups(records: Sequence[dict[str, Any]]) -> list[Section]:
    """What should not depend on the size of a table."""
    rows = []
    for record in records:
        if "table" not in record["extra_info"] and record["group"]:
            stats = record["stats"]
            median, low, high = (stats[name] * 1e6 for name in ("median", "q1", "q3"))
            number = str(record["param"] or "").strip() or "-"
            rows.append([record["group"], number, f"{median:,.2f}\n{low:,.2f} - {high:,.2f}"])
    heads = ["", "how many", "us"]
    return [Section("micro: cost against table size", "Flat is the goal.", heads, rows)] if rows else []
