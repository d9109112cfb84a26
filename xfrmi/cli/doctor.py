"""`xfrmi doctor`: what this machine lacks for xfrmi, or puts in its way. Exit status 1 if it cannot work here."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from xfrmi.cli.options import Options
from xfrmi.cli.output import Output
from xfrmi.doctor.examine import examine
from xfrmi.doctor.finding import Level
from xfrmi.doctor.machine import Machine
from xfrmi.formats.tokens import USAGE

if TYPE_CHECKING:
    from xfrmi.doctor.finding import Finding

MARKS = {Level.LACK: "✗", Level.WARNING: "!", Level.OK: "✓"}
NAMES = {Level.LACK: "lack", Level.WARNING: "warning", Level.OK: "ok"}


def doctor(options: Options, words: list[str]) -> int:
    """The words after `doctor`."""
    if words and words != ["-j"]:
        print(f"xfrmi: doctor takes no words, and not {words[0]!r}; -j is for JSON", file=sys.stderr)
        return USAGE
    machine = Machine()
    try:
        findings = examine(machine)
    finally:
        machine.close()
    if options.json or words:
        Output(options).print_json([_entry(finding) for finding in findings])
    else:
        for finding in findings:
            print(_line(finding))
    return int(any(finding.level == Level.LACK for finding in findings))


def _line(finding: Finding) -> str:
    cure = f": {finding.cure}" if finding.cure else ""
    return f"{MARKS[finding.level]} {finding.check:<10} {finding.text}{cure}"


def _entry(finding: Finding) -> dict[str, str]:
    return {
        "check": finding.check, "status": NAMES[finding.level], "text": finding.text, "cure": finding.cure
    }  # fmt: skip
