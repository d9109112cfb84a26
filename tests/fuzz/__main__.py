"""`python -m tests.fuzz [TARGET ...] --time SECONDS --runs N`: fuzz each of them for so long, or so often, and say how
far that went.

A line for each target: executions, their rate, what of our code has been reached (edges, as libFuzzer counts them), how
many inputs that took, and by how much the processor time of an input at most grows when it becomes twice as long (see
growth.py). Whatever is found is kept in build/fuzz/TARGET/found with the traceback, and the exit status is 1.

--unguided is for a corpus that has not grown for long: its inputs are changed at random, and nothing is measured on the
way, so that there are several times as many executions in the same time. What they reach is not known then: edges is 0.

The corpus that belongs to the project is where it starts; --keep adds to it what has been learned (minimise.py).
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

from tests.fuzz import corpus, growth
from tests.fuzz.registry import TARGETS, target

WORK = Path("build/fuzz")
HANG = 10
"""Seconds: an input that takes longer hangs."""
MEMORY = 2048
"""MiB that one process may have."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all, if none is given")
    parser.add_argument("--time", type=int, default=0, metavar="SECONDS", help="for each target; 60 without --runs")
    parser.add_argument("--runs", type=int, default=0, metavar="N", help="executions of each target")
    parser.add_argument("--unguided", action="store_true", help="not guided by coverage, and quicker")
    parser.add_argument("--keep", action="store_true", help="write the corpora of the project anew")
    given = parser.parse_args()
    if unknown := set(given.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    print(f"{'target':<10}{'executions':>12}{'a second':>10}{'edges':>8}{'inputs':>8}{'growth':>8}", flush=True)
    limits = [f"-max_total_time={given.time or (0 if given.runs else 60)}"]
    if given.runs:
        limits.append(f"-runs={given.runs}")
    if given.unguided:
        limits += ["-keep_seed=1", "-len_control=0"]
    found = [name for name in given.targets or TARGETS if not fuzz(name, not given.unguided, limits, given.keep)]
    for name in found:
        print(f"FOUND by {name}: see {WORK / name}")
    return bool(found)


def fuzz(name: str, guided: bool, limits: list[str], keep: bool) -> bool:
    """True if nothing was found. `limits` are arguments of libFuzzer."""
    folder = WORK / name
    learned, kept = folder / "corpus", folder / "kept"
    (folder / "found").mkdir(parents=True, exist_ok=True)
    learned.mkdir(exist_ok=True)
    corpus.unpack(kept, [*target(name).seeds(), *corpus.load(name)])
    arguments = [
        *limits, f"-timeout={HANG}", f"-rss_limit_mb={MEMORY}", "-print_final_stats=1",
        f"-artifact_prefix={folder}/found/", str(learned), str(kept),
    ]  # fmt: skip
    log = folder / "log"
    right = _one_target(name, log, "guided" if guided else "unguided", *arguments)
    told = log.read_text(encoding="utf-8", errors="replace")
    executions = _last(r"stat::number_of_executed_units:\s+(\d+)", told) or _last(r"#(\d+)", told)
    rate = _last(r"stat::average_exec_per_sec:\s+(\d+)", told)
    edges, inputs = _last(r"cov: (\d+)", told), _last(r"corp: (\d+)", told)
    if keep and right:
        subprocess.run([sys.executable, "-m", "tests.fuzz.minimise", name], capture_output=True, check=True)
    worst = growth.worst(name, sorted(learned.iterdir())) if right else growth.Growth(0, b"")
    print(f"{name:<10}{executions:>12,}{rate:>10,}{edges:>8,}{inputs:>8,}{worst.ratio:>8.1f}", flush=True)
    if worst.ratio > growth.TOO_MUCH:
        (folder / "found" / "grows").write_bytes(worst.entry)
        right = False
    return right


def _one_target(name: str, log: Path, *arguments: str) -> bool:
    """True if it ended well. What it says can be read in `log` meanwhile."""
    command = [sys.executable, "-m", "tests.fuzz.one_target", name, *arguments]
    with log.open("wb") as file:
        return subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode == 0


def _last(pattern: str, text: str) -> int:
    found = re.findall(pattern, text)
    return int(found[-1]) if found else 0


if __name__ == "__main__":
    sys.exit(main())
