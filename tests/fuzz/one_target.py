"""The process that is fuzzed: `python -m tests.fuzz.one_target NAME LIBFUZZER-ARGUMENTS`. Started by tests.fuzz.

All of xfrmi is instrumented as it is imported, so nothing of it may have been imported before.
"""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-not-found]

with atheris.instrument_imports(include=["xfrmi"]):
    from tests.fuzz.registry import target

    chosen = target(sys.argv[1])
    one = chosen.make()

atheris.Setup([sys.argv[0], f"-max_len={chosen.MAX_LEN}", *sys.argv[2:]], one)
atheris.Fuzz()
