"""`xfrmi -batch FILE`: many lines, one connection. `-` is standard input."""

from __future__ import annotations

import sys

from xfrmi.cli.main import complain, run_line
from xfrmi.cli.options import Options
from xfrmi.client import Client
from xfrmi.errors import XfrmError
from xfrmi.formats.grammar import logical_lines, split_line
from xfrmi.formats.tokens import GrammarError

FAILED = 1


def run_batch(options: Options, path: str) -> int:
    """Run each line; stop at the first that fails unless -force. Exit status 1 if one failed, as ip."""
    try:
        with open(0 if path == "-" else path, encoding="utf-8") as lines:
            text = lines.read()
    except OSError as error:
        print(f'Cannot open file "{path}" for reading: {error.strerror}', file=sys.stderr)
        return FAILED
    status = 0
    with Client() as client:
        for _, number, line in logical_lines(text):
            try:
                if words := split_line(line):
                    run_line(client, options, words)
            except (GrammarError, XfrmError) as error:
                complain(error)
                print(f"Command failed {path}:{number}", file=sys.stderr)
                status = FAILED
                if not options.force:
                    break
    return status
