"""Nothing is left in the tree but bytecode and .pytest_cache, and not even that with `-p no:cacheprovider`."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.configuration import set_hypothesis_home_dir

from tests.examples import examples


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
    settings.register_profile(
        "xfrmi", max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("xfrmi")
    set_hypothesis_home_dir(folder / "hypothesis")
    config.option.benchmark_storage = f"file://{folder}/benchmarks"  # pytest-benchmark makes it, needed or not


LONG_ONES = (
    "lab/test_demo", "lab/test_up_down", "system/test_workers", "interpose/", "oracle/",
    "system/", "lab/", "core/test_train", "bench/", "cli/", "daemon/", "noleak/", "dev/", "doctor/",
)  # fmt: skip
"""Where tests take longest, below tests/: they begin first, or at the end one process would be at them alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `--dist loadfile --no-loadscope-reorder` processes take the files in this order."""

    def rank(item: pytest.Item) -> int:
        path = item.nodeid.removeprefix("tests/")
        return next((at for at, start in enumerate(LONG_ONES) if path.startswith(start)), len(LONG_ONES))

    items.sort(key=rank)


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's
def pytest_xdist_auto_num_workers() -> int:
    """One more than processors: what speaks with daemons mostly waits for them."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_finish() -> None:
    """Thousands of tests stay until the end. Garbage collection need not look at them any more: in the children that
    many tests fork, looking means copying."""
    gc.collect()
    gc.freeze()
