"""Nothing is left in the tree but bytecode and .pytest_cache, and not even that with `-p no:cacheprovider`."""

from __future__ import annotations

import gc
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.configuration import set_hypothesis_home_dir


def pytest_configure(config: pytest.Config) -> None:
    """hypothesis remembers failing examples in pytest's cache, or for as long as this run lasts. Programs that tests
    start can be interrupted, also where a shell runs the tests with `&` and so has taught them not to be."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.pluginmanager.has_plugin("cacheprovider"):
        folder = config.cache.mkdir("plugins")
    else:
        temporary = tempfile.TemporaryDirectory(prefix="xfrmi-pytest-")
        config.add_cleanup(temporary.cleanup)
        folder = Path(temporary.name)
    # How long an example takes is no property of what is tested, and on a busy machine nobody knows it.
    settings.register_profile("xfrmi", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("xfrmi")
    set_hypothesis_home_dir(folder / "hypothesis")
    config.option.benchmark_storage = f"file://{folder}/benchmarks"  # pytest-benchmark makes it, needed or not


def pytest_collection_finish() -> None:
    """Thousands of tests stay until the end. Garbage collection need not look at them any more: in the children that
    many tests fork, looking means copying."""
    gc.collect()
    gc.freeze()
