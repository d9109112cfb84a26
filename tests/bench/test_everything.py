"""`make bench` as a command: it runs what it is asked for, and writes the page and the results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    """Where the tests run side by side, the pytest in it must not think that it is one of them."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run([sys.executable, "-m", "bench", *words], capture_output=True, text=True, env=environment)


def test_parts_of_it(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "er"
    done = bench("micro", "throughput", "--quick", "--only", "plain", "--pytest", "-k flow_key", "--out", str(out))
    if "ONLY THE CORE WAS MEASURED" in done.stdout:
        pytest.skip(f"NO NETWORK NAMESPACES HERE, NOT TESTED: {done.stdout}")
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((out / "bench-report.json").read_text())
    assert told["failed"] == [] and len(told["micro"]) == 4
    assert set(told["throughput"]) == {"plain veth, IPv4", "plain veth, IPv6"}
    page = (out / "bench-report.html").read_text()
    assert "plain veth, IPv6" in page and "IPv4 fragment" in page and page.rstrip().endswith("</html>")
    assert "plain veth, IPv6" in done.stdout and "flow key" in done.stdout


def test_what_failed_is_told_and_is_the_exit_status(tmp_path: Path) -> None:
    done = bench("micro", "--quick", "--pytest", "-k no_such_bench", "--out", str(tmp_path))
    assert done.returncode == 1
    assert "MICRO BENCHES FAILED" in done.stdout


def test_a_wrong_part_is_refused_with_those_there_are() -> None:
    done = bench("latencies")
    assert done.returncode == 2 and "latency" in done.stderr
