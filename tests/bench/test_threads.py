"""No program of the bench has threads when it asks for a user namespace: the kernel would refuse."""

from __future__ import annotations

import subprocess
import sys

import pytest

COUNT = "import {}, pathlib; print(len(list(pathlib.Path('/proc/self/task').iterdir())))"


@pytest.mark.parametrize("module", ["throughput", "latency", "datagrams", "algorithms", "stages", "memory", "__main__"])
def test_one_thread_after_imports(module: str) -> None:
    done = subprocess.run([sys.executable, "-c", COUNT.format(f"bench.{module}")], capture_output=True, text=True)
    assert done.stdout.strip() == "1", done.stderr
