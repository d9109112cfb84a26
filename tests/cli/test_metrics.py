"""`xfrmi metrics`: to standard output, and into a file that others read."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.daemon.messages import STATE
from tests.daemon.server import runtime_directory, serving
from xfrmi.cli.main import main
from xfrmi.client import Client
from xfrmi.wire.link_types import LinkInfo


def test_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving():
        with Client() as client:
            client.add_state(STATE)
            client.add_link(LinkInfo(name="ipsec0", if_id=42))
        assert main(["metrics"]) == 0
        printed = capsys.readouterr().out
        assert "node_xfrm_in_no_states_packets_total 0\n" in printed
        assert "xfrmi_states{" in printed
        path = tmp_path / "xfrmi.prom"
        path.write_text("old")
        assert main(["metrics", "-w", str(path)]) == 0
        assert path.read_text() == printed
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert list(tmp_path.iterdir()) == [path]
        assert main(["metrics", "-w", "/nowhere/x.prom"]) == 1
        assert capsys.readouterr().err == "xfrmi: cannot write /nowhere/x.prom: No such file or directory\n"


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    with runtime_directory():
        assert main(["metrics"]) == 1
    assert "no xfrmi daemon" in capsys.readouterr().err
