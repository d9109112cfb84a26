"""CPU time of a daemon is that of all its processes."""

from __future__ import annotations

import subprocess
import sys

from bench.cable import cpu_seconds

SPIN = """
import os, sys, time
if not os.fork():
    while time.process_time() < 0.3: pass
    os.write(1, b"done")
os.read(0, 1)  # the end of the test
"""


def test_children_count() -> None:
    command = [sys.executable, "-c", SPIN]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.read(4)
        spent = cpu_seconds(process.pid)
        process.stdin.close()
    assert spent >= 0.3  # of which the parent has next to nothing
