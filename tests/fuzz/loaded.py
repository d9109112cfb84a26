"""A target, with the code that it tries.

Guided, all of xfrmi is instrumented as it is imported, so nothing of it may have been imported before, and all of it
has to be now: much is imported only when it is needed. Unguided, it runs as it is: libFuzzer changes the inputs of the
corpus at random and learns nothing, at several times the rate.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

import atheris  # type: ignore[import-not-found]

if TYPE_CHECKING:
    from tests.fuzz.registry import One, Target


def loaded(name: str, guided: bool) -> tuple[Target, One]:
    with atheris.instrument_imports(include=["xfrmi"] if guided else ["nothing"]):
        from tests.fuzz.registry import target

        chosen = target(name)
        one = chosen.make()
        if guided:
            for module in pkgutil.walk_packages(["xfrmi"], "xfrmi."):
                if not module.name.endswith("__main__"):
                    importlib.import_module(module.name)
    return chosen, one
