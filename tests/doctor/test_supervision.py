"""What exec needs."""

from __future__ import annotations

import os
import sys

import pytest

from tests.interpose.supervised import daemon, run
from tests.netns import in_netns
from xfrmi.doctor.finding import Level
from xfrmi.doctor.machine import Machine
from xfrmi.doctor.supervision import supervision
from xfrmi.interpose import bpf, seccomp


def look() -> tuple[Level, str]:
    machine = Machine()
    try:
        finding = supervision(machine)
    finally:
        machine.close()
    return finding.level, finding.text


@pytest.mark.skipif(bpf.this_machine() is None, reason="NO exec ON THIS MACHINE, NOT TESTED")
def test_it_is_tried() -> None:
    assert look() == (Level.OK, "seccomp user notification")


def test_other_machines_and_old_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    class Uname:
        machine = "riscv64"
        release = "5.15.0-91-generic"

    monkeypatch.setattr(seccomp, "this_machine", lambda: None)
    monkeypatch.setattr(os, "uname", lambda: Uname)
    level, text = look()
    assert level == Level.WARNING and "and this is riscv64" in text
    monkeypatch.setattr(seccomp, "this_machine", lambda: bpf.MACHINES["x86_64"])
    level, text = look()
    assert level == Level.WARNING and "Linux 5.19 or newer, and this is 5.15.0" in text


@in_netns
def test_somebody_else_supervises() -> None:
    """As some containers are: only one can."""
    machine = bpf.this_machine()
    if machine is None:
        pytest.skip("NO exec ON THIS MACHINE, NOT TESTED")
    seccomp.install(machine, bpf.assemble(machine, 1 << 20, (1 << 20) + 1))
    # From here on nobody answers what the filter stops for: opening files for reading, netlink sockets.
    with pytest.raises(Exception, match="another program supervises this one"):
        seccomp.install(machine, bpf.assemble(machine, 1 << 20, (1 << 20) + 1))


@in_netns
def test_under_exec() -> None:
    with daemon():
        lines = run(f"{sys.executable} -m xfrmi doctor").stdout.splitlines()
        assert "✓ exec       we are run by it" in lines
