"""No program of the bench has threads when it asks for a user namespace: the kernel would refuse."""

from __future__ import annotations

import subprocess
import sys

MODULES = "throughput", "latency", "datagrams", "algorithms", "stages", "memory", "__main__"
COUNT = "import pathlib, {}; print(len(list(pathlib.Path('/proc/self/task').iterdir())))"


def test_one_thread_after_imports() -> None:
    command = COUNT.format(", ".join(f"bench.{module}" for module in MODULES))
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.stdout.strip() == "1", done.stderr
