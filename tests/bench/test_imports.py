"""Programs that only people run fall behind what they measure unseen: each has to find what it names."""

from __future__ import annotations

import importlib
import pkgutil

import bench
from tests.each import each

MODULES = [
    module.name
    for module in pkgutil.walk_packages(bench.__path__, "bench.")
    if not module.name.endswith("__main__") and not module.name.rpartition(".")[2].startswith("test_")
]


@each("name", MODULES)
def test_finds_what_it_names(name: str) -> None:
    importlib.import_module(name)
