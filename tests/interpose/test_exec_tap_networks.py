"""A suite for the kernel's xfrm interfaces, with ICMP errors, rekeys and moves on networks made of TAPs, run
unmodified. What it checks is in tap_networks.py."""

from __future__ import annotations

import subprocess
import sys

from tests.interpose.supervised import EXEC, daemon
from tests.netns import in_netns

CHECKS = 4 * 8 + 4


@in_netns
def test_a_suite_for_xfrm_interfaces_over_tap_networks() -> None:
    with daemon():
        command = [*EXEC, "--", sys.executable, "-m", "tests.interpose.tap_networks"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=50)
        lines = done.stdout.splitlines()
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert "FAILED" not in done.stdout, done.stdout
        assert len([line for line in lines if line.startswith("ok ")]) == len(lines) == CHECKS
