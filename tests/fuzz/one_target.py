"""The process that fuzzes: `python -m tests.fuzz.one_target NAME guided|unguided LIBFUZZER-ARGUMENTS`. Started by
tests.fuzz.
"""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-not-found]

from tests.fuzz.loaded import loaded

name, guided, *arguments = sys.argv[1:]
chosen, one = loaded(name, guided == "guided")
atheris.Setup([sys.argv[0], f"-max_len={chosen.MAX_LEN}", *arguments], one)
atheris.Fuzz()
