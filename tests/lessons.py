"""Lessons that can be run: README files whose ```console blocks hold commands behind "$ " and what they print.

Every line shown must appear in what the command prints now, in the order shown; "..." stands for lines left out. Times
and other numbers with a decimal point may differ, everything else may not. A command that fails fails the lesson,
unless the line below it says so: "[exit status 1]".

    python -m tests.lessons examples/01-two-hosts      fills in what the commands without output print
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
LESSONS = sorted(path.parent for path in (ROOT / "examples").glob("*/README.md") if (path.parent / "lab.toml").exists())
NEEDS = re.compile(r"^Needs: (.*)$", re.MULTILINE)
STATUS = re.compile(r"\[exit status (\d+)\]")
SECONDS = 60
VOLATILE = re.compile(r"(?<![.\d])\d+\.\d+(?![.\d])|(?<=time )\d+(?=ms)|(?<=keeper )\d+|(?<=seq )\d+|\d\d:\d\d:\d\d")
"""What is another number each time."""


@dataclass
class Step:
    command: str
    line: int
    shown: list[str] = field(default_factory=list)


def steps(readme: Path) -> list[Step]:
    """The commands of a lesson in order; lines with "> " in front belong to the command above."""
    found: list[Step] = []
    inside = False
    for number, line in enumerate(readme.read_text().splitlines(), 1):
        if line.startswith("```"):
            inside = line == "```console"
        elif inside and line.startswith("$ "):
            found.append(Step(line[2:], number))
        elif inside and line.startswith("> ") and not found[-1].shown:
            found[-1].command += "\n" + line[2:]
        elif inside:
            found[-1].shown.append(line)
    return found


def needed(readme: Path) -> list[str]:
    """Programs that a lesson needs beside what every lab needs: its line "Needs: `tcpdump` (Debian: tcpdump)"."""
    return [name for line in NEEDS.findall(readme.read_text()) for name in re.findall(r"`([^`]+)`", line)]


def run(step: Step, env: dict[str, str], as_user: int | None = None) -> subprocess.CompletedProcess[str]:
    """In a shell, in the clone. Both streams come as one, as in a terminal."""
    return subprocess.run(
        ["bash", "-c", step.command], cwd=ROOT, env=env, text=True, stdin=subprocess.DEVNULL, timeout=SECONDS,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        user=as_user, group=as_user, extra_groups=None if as_user is None else [],
    )  # fmt: skip


def environment(runtime: Path) -> dict[str, str]:
    """`xfrmi` is this one, and its labs are nobody else's."""
    path = f"{Path(sys.executable).parent}:/usr/sbin:/sbin:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "XFRMI_RUNTIME_DIR": str(runtime), "COLUMNS": "120", "LC_ALL": "C.UTF-8"}


def differs(step: Step, status: int, printed: str) -> str:
    """What is not as shown; '' if all is."""
    shown = [line for line in step.shown if line.strip()]
    expected = 0
    if shown and (told := STATUS.fullmatch(shown[-1])):
        expected = int(told[1])
        shown.pop()
    if status != expected:
        return f"exit status {status}, not {expected}:\n{printed}"
    rest = [line.rstrip() for line in printed.splitlines()]
    for line in (line.rstrip() for line in shown if line.strip() != "..."):
        pattern = re.compile(_pattern(line))
        at = next((at for at, text in enumerate(rest) if pattern.fullmatch(text)), None)
        if at is None:
            return f'not printed (any more): "{line}"\nthis was:\n{printed}'
        del rest[: at + 1]
    return ""


def _pattern(line: str) -> str:
    parts = VOLATILE.split(line)
    holes = VOLATILE.findall(line)
    kinds = [r"\d+\.\d+" if "." in hole else r"\d\d:\d\d:\d\d" if ":" in hole else r"\d+" for hole in holes]
    pattern = "".join(re.escape(part) + kind for part, kind in zip(parts, [*kinds, ""], strict=True))
    return pattern.replace(re.escape("(as root)"), r"\((?:as root|rootless)\)")


def record(folder: Path) -> None:
    """Run a lesson, and write what commands print behind those that show nothing."""
    import tempfile

    readme = folder / "README.md"
    lines = readme.read_text().splitlines()
    added = 0
    with tempfile.TemporaryDirectory(dir="/tmp") as runtime:
        for step in steps(readme):
            done = run(step, environment(Path(runtime)))
            print(f"$ {step.command}\n{done.stdout}", flush=True)
            if step.shown:
                print(differs(step, done.returncode, done.stdout))
                continue
            printed = [line.rstrip() for line in done.stdout.splitlines()]
            printed += [f"[exit status {done.returncode}]"] if done.returncode else []
            at = step.line + step.command.count("\n") + added
            lines[at:at] = printed
            added += len(printed)
        run(Step("xfrmi lab down --all", 0), environment(Path(runtime)))  # a lesson in the making may not
    readme.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    record(Path(sys.argv[1]))
