"""Every example runs as a newcomer would run it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.lab.test_demo import unusable

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.name)
def test_example_runs(path: Path) -> None:
    if path.name.startswith("lab_") and (why := unusable()):
        pytest.skip(f"NO LABS ON THIS MACHINE, {path.name} NOT TESTED: {why}")
    with tempfile.TemporaryDirectory(prefix="xfrmi-", dir="/tmp") as runtime:
        _runs(path, {**os.environ, "PYTHONPATH": str(ROOT), "XFRMI_RUNTIME_DIR": runtime})


def _runs(path: Path, env: dict[str, str]) -> None:
    result = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=60, env=env)
    assert result.returncode == 0, result.stderr
    assert result.stdout
