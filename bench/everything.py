"""`make bench`: everything in one run, as tables, as JSON, and as one HTML page with charts.

    python -m bench [part ...] [--quick] [--rounds 3] [--only xfrmi ...] [--out FOLDER] [--pytest "-k seal"]

Parts, all if none is named:
    cost           CPU time of a packet in the core, against the bare cipher call of the same round
    micro          the micro benches
    stages         where the time goes, stage by stage, in two daemons at work
    end-to-end     through two namespaces, beside the bare cable and other tunnels; or one of it:
    throughput, latency, datagrams, algorithms
    memory         of a daemon, before and after a while of traffic
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import memory, stages
from bench.algorithms import KINDS, algorithms, tunnels
from bench.chart import Bar, Chart
from bench.contenders import CONTENDERS, Contender
from bench.datagrams import datagrams
from bench.latency import latency
from bench.micro import micro
from bench.program import weather
from bench.ratios import Cost, costs
from bench.report import Section, page, sections, show
from bench.rounds import Measurement, plain_results, run, simplest
from bench.show import Progress
from bench.throughput import throughput

COMPARED = ("throughput", "latency", "datagrams")
END_TO_END = (*COMPARED, "algorithms")
PARTS = ("cost", "micro", "stages", "end-to-end", *END_TO_END, "memory")
FILES = "bench-report.html", "bench-report.json"
HOW = {
    "throughput": "TCP streams. CPU is that of the tunnel's daemon at each end.",
    "latency": "ICMP echoes; a lost one is infinitely late. Loaded: beside one TCP stream through the same tunnel.",
    "algorithms": "One TCP stream through xfrmi in UDP each. A cipher is with hmac(sha256), what authenticates with "
    "cbc(aes).",
    "datagrams": "The highest rate that loses nothing, and what arrives of far too many.",
}


DIFFERENCES = (
    ("seal: the cipher", "AESGCM.encrypt", ""),
    ("seal: ESP, headers, checksums of a train", "seal_train, four super-packets", "AESGCM.encrypt"),
    ("output: flow, decision, counters", "the engine's output, four super-packets", "seal_train, four super-packets"),
    ("open: the cipher", "AESGCM.decrypt", ""),
    ("input: all but the cipher, for a train", "the engine's input, four runs in one train", "AESGCM.decrypt"),
    ("seal: ESP around other packets of one length", "burst.seal_burst", "AESGCM.encrypt"),
    ("open: ESP around them, replay window", "burst.open_burst", "AESGCM.decrypt"),
    ("input: state, policy, counters", "the engine's input", "burst.open_burst"),
    ("input: put a stream together", "the engine's input, a stream put together", "the engine's input"),
)
"""(what it is, a row of ratios.py, the row that does all of it but that)."""


class Report:
    """What has been found so far."""

    def __init__(self) -> None:
        self.sections: list[Section] = []
        self.notes: list[str] = []
        self.failed: list[str] = []
        self.raw: dict[str, Any] = {}

    def add(self, found: list[Section]) -> None:
        """Shown at once, kept for the page."""
        show(found)
        self.sections += found

    def write(self, folder: Path) -> None:
        html, data = (folder / name for name in FILES)
        html.write_text(page("xfrmi: what it costs, and how fast it is", self.sections, self.notes + self.failed))
        data.write_text(json.dumps({"notes": self.notes, "failed": self.failed, **self.raw}, indent=1, allow_nan=False))
        print(f"\n{html} has this with charts, {data} every single result.")


def main(lack: str) -> int:
    """`lack`: why there are no network namespaces, if there are none. Exit status."""
    told = arguments()
    parts = {part for name in told.parts or PARTS for part in (END_TO_END if name == "end-to-end" else (name,))}
    report = Report()
    began = time.monotonic()
    if "cost" in parts:
        report.add(cost(report, told))
    if "micro" in parts:
        found, report.raw["micro"], failed = micro(shlex.split(told.pytest), told.quick)
        report.failed += failed
        report.add(found)
    if lack and parts - {"cost", "micro"}:
        report.failed.append(f"ONLY THE CORE WAS MEASURED: {lack}")
        parts &= {"cost", "micro"}
    if "stages" in parts:
        where_time_goes(report, told.quick)
    if parts & set(END_TO_END):
        end_to_end(report, told, parts)
    if "memory" in parts:
        resident(report, *((5.0, 200) if told.quick else (20.0, 1000)))
    print()
    for note in report.notes + report.failed:
        print(note)
    print(f"{time.monotonic() - began:.0f} seconds in all")
    report.write(told.out)
    return 1 if report.failed else 0


def arguments() -> argparse.Namespace:
    assert __doc__ is not None
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("make bench", description=__doc__, formatter_class=form)
    parser.add_argument("parts", nargs="*", metavar="part", choices=[*PARTS, []], help="see above")
    parser.add_argument("--quick", action="store_true", help="two minutes: one round, IPv4 outside, no large tables")
    parser.add_argument("--rounds", type=int, help="of the end-to-end measurements; 3, with --quick 1")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="start no others")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the report; this one")
    parser.add_argument("--pytest", default="", help="more words for pytest, which runs the micro benches")
    parser.set_defaults(usual=(1, 3), names=[])
    told = parser.parse_args()
    told.out.mkdir(parents=True, exist_ok=True)
    for path in (told.out, *(told.out / name for name in FILES)):
        if path.exists() and not os.access(path, os.W_OK):  # better now than in ten minutes
            parser.error(f"{path} is not to be written by you: name another folder with --out")
    return told


def cost(report: Report, told: argparse.Namespace) -> list[Section]:
    found = []
    for size in (1400,) if told.quick else (1400, 64):
        rounds = 15 if told.quick else 60
        with Progress(rounds) as progress:
            progress.doing(f"cost of a packet of {size} bytes")
            rows = costs(size, rounds, progress.advance)
        report.raw[f"cost of {size} bytes"] = [row._asdict() for row in rows]
        bars = [
            Bar(row.name, row.times, row.low, row.high, f"{row.times:.2f}", floor_or_ours(row.name)) for row in rows
        ]
        found.append(Section(
            f"cost of a packet of {size} bytes in the core",
            "CPU time, AES-GCM-128, everything in turns: times the bare call, in the same round, of `encrypt` for what "
            "seals and of `decrypt` for what opens. Goals: 1.4 in a burst, 4 alone.",
            ["", "us", "times bare", "quartiles"],
            [[row.name, f"{row.microseconds:.2f}", f"{row.times:.2f}", f"{row.low:.2f} - {row.high:.2f}"]
             for row in rows],
            [Chart(f"a packet of {size} bytes in the core", "times the bare cipher call", False, bars)],
        ))  # fmt: skip
        found.append(inside(rows, size))
    return found


def inside(rows: list[Cost], size: int) -> Section:
    """What lies between one row and another that does less, in calls of the cipher."""
    by_name = {row.name: row.times for row in rows}
    parts = [
        [label, f"{by_name[more] - (by_name[less] if less else 0):.2f}", f"{more}{f' - {less}' if less else ''}"]
        for label, more, less in DIFFERENCES
    ]
    text = "By differences between rows of the table above, in bare calls of the cipher for a packet."
    return Section(f"inside the core, {size} bytes", text, ["", "times bare", "from"], parts)


def floor_or_ours(name: str) -> str:
    return "floor" if name.startswith("AESGCM") else "ours"


def where_time_goes(report: Report, quick: bool) -> None:
    try:
        found = stages.measured(*((1, 0.8) if quick else (3, 1.2)))
    except RuntimeError as error:
        report.failed.append(f"NOT MEASURED: stages: {error}")
        return
    report.raw["stages"] = stages.plain(found)
    report.add(stages.sections(found))


def resident(report: Report, seconds: float, flows: int) -> None:
    try:
        found = memory.measured(seconds, flows)
    except RuntimeError as error:
        report.failed.append(f"NOT MEASURED: memory: {error}")
        return
    report.raw["memory"] = found._asdict()
    report.add(memory.sections(found, seconds, flows))


def end_to_end(report: Report, told: argparse.Namespace, parts: set[str]) -> None:
    plan = [(part, measurement) for part, measurement in measurements(told.quick) if part in parts]
    if plan:
        measured(report, told, plan)
    if "algorithms" in parts:
        kinds = KINDS[:: 3 if told.quick else 1]
        measured(report, told, [("algorithms", algorithms(0.4 if told.quick else 0.6))], tunnels(kinds))


def measured(
    report: Report,
    told: argparse.Namespace,
    plan: list[tuple[str, Measurement[Any]]],
    contenders: Mapping[str, Contender] | None = None,
) -> None:
    done = run(told, [measurement for _, measurement in plan], contenders)
    for (part, measurement), results in zip(plan, done.results, strict=True):
        report.raw[measurement.title] = plain_results(results)
        report.add(sections(measurement, results, HOW[part]))
    names = " and ".join(dict.fromkeys(part for part, _ in plan))
    report.raw[f"machine during {names}"] = done.machine
    report.notes += [f"{names}: {weather(done.machine)}", *done.absent]
    report.failed += done.failed


def measurements(quick: bool) -> list[tuple[str, Measurement[Any]]]:
    """With the part that each belongs to. Times are chosen so that all of it fits into some ten minutes, or two."""
    stream, echoes, trial = (0.6, 0.6, 0.2) if quick else (0.8, 1.0, 0.25)
    sizes = (64,) if quick else (64, 512)
    return [
        ("throughput", throughput(stream)),
        ("latency", latency(echoes, simplest)),
        *(("datagrams", datagrams(size, trial, simplest)) for size in sizes),
    ]
