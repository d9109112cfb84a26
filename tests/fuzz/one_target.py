"""The process that fuzzes: `python -m tests.fuzz.one_target NAME guided|unguided LIBFUZZER-ARGUMENTS`. Started by
tests.fuzz.

Guided, all of xfrmi is instrumented as it is imported, so nothing of it may have been imported before, and all of it
has to be now: much is imported only when it is needed. Unguided, it runs as it is: libFuzzer changes the inputs of the
corpus at random and learns nothing, at several times the rate.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

import atheris  # type: ignore[import-not-found]

name, guided, *arguments = sys.argv[1:]
with atheris.instrument_imports(include=["xfrmi"] if guided == "guided" else ["nothing"]):
    from tests.fuzz.registry import target

    chosen = target(name)
    one = chosen.make()
    if guided == "guided":
        for module in pkgutil.walk_packages(["xfrmi"], "xfrmi."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)

atheris.Setup([sys.argv[0], f"-max_len={chosen.MAX_LEN}", *arguments], one)
atheris.Fuzz()
