"""Asking the doctor as a program would: `xfrmi -j doctor` in this very process."""

from __future__ import annotations

import contextlib
import io
import json

from xfrmi.cli.main import main

Entry = dict[str, str]


def asked() -> tuple[int, dict[str, Entry]]:
    """Exit status, and what was found by the name of the check."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        status = main(["-j", "doctor"])
    return status, by_check(out.getvalue())


def by_check(text: str) -> dict[str, Entry]:
    return {entry["check"]: entry for entry in json.loads(text)}


def found(check: str) -> tuple[str, str, str]:
    """(status, text, cure) of one check."""
    entry = asked()[1][check]
    return entry["status"], entry["text"], entry["cure"]
