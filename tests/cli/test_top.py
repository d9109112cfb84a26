"""`xfrmi top` on a terminal, without one, and without a daemon."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.daemon.messages import STATE
from tests.daemon.server import Server, runtime_directory, serving
from tests.top.terminal import top
from xfrmi.cli.main import main
from xfrmi.client import Client
from xfrmi.wire.link_types import LinkInfo


def fill(states: int = 1) -> None:
    with Client() as client:
        for number in range(states):
            client.add_state(replace(STATE, spi=0x1001 + number))
        client.add_link(LinkInfo(name="ipsec0", if_id=42))


def test_keys() -> None:
    with serving():
        fill(40)
        with top("-n", "0.5") as terminal:
            terminal.shows("STATES  1-")
            assert len(terminal.screen.split("\n")) == 24
            terminal.press("s")
            terminal.shows("sorted: bytes")
            terminal.press("s\x1b[B\x1b[B\x1b[B")
            terminal.shows("STATES  4-")
            terminal.shows("0x00001004")
            terminal.press("fnowhere\r")
            terminal.shows("STATES  none, only nowhere")
            terminal.press("f0x2a\r")
            terminal.shows("of 40, sorted: spi, only 0x2a")
            terminal.press("?")
            terminal.shows("Keys are not shown")
            terminal.press("x")
            terminal.resize(100, 30)
            terminal.shows(lambda screen: len(lines := screen.split("\n")) == 30 and len(lines[0]) == 100)
            terminal.resize(30, 8)
            terminal.shows(lambda screen: [len(line) for line in screen.split("\n")] == [30] * 8)
            terminal.press("q")
            assert terminal.ends() == 0
            assert STATE.aead is not None
            assert STATE.aead.key.hex() not in terminal.heard


@pytest.mark.parametrize(("how", "status"), [("ctrl-c", 0), ("sigterm", 143)])
def test_however_it_ends_the_terminal_is_as_before(how: str, status: int) -> None:
    with serving():
        fill()
        with top() as terminal:
            terminal.shows("0x00001001")
            if how == "ctrl-c":
                terminal.press("\x03")
            else:
                terminal.process.send_signal(signal.SIGTERM)
            assert terminal.ends() == status


def test_a_daemon_that_ends_is_waited_for() -> None:
    with serving() as server:
        fill()
        with top("-n", "0.2") as terminal:
            terminal.shows("0x00001001")
            server.stop()
            terminal.shows("waiting for the next")
            assert "0x00001001" in terminal.screen
            terminal.press("s")
            terminal.shows("sorted: bytes")
            again = Server()
            again.start()
            try:
                terminal.shows("STATES  none")
                fill(2)
                terminal.shows("STATES  1-2 of 2")
                terminal.press("q")
                assert terminal.ends() == 0
            finally:
                again.stop()


def test_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with serving():
        fill(20)
        assert main(["top", "--once", "-n", "0.1", "-s", "spi"]) == 0
        printed = capsys.readouterr().out.split("\n")
        assert printed[0].startswith("xfrmi top  daemon 1")
        assert printed[2] == "ipsec0 (down)           0x2a            0        0            0        0"
        assert [line[:10] for line in printed if line.startswith("0x")] == [f"0x{0x1001 + n:08x}" for n in range(20)]
        assert main(["top", "--svg", str(tmp_path / "top.svg"), "-n", "0.1"]) == 0
        picture = (tmp_path / "top.svg").read_text()
        assert "<svg" in picture
        assert "0x00001001" in picture
        assert "font-face" not in picture
        assert stat.S_IMODE((tmp_path / "top.svg").stat().st_mode) == 0o600
        assert main(["top"]) == 1
        assert "needs a terminal" in capsys.readouterr().err


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    with serving():
        fill(1000)
        assert main(["top", "--json"]) == 0
        printed = capsys.readouterr().out
        found = json.loads(printed)
        assert [state["spi"] for state in found["states"]] == [*reversed(range(0x1001, 0x1001 + 1000))]
        one = found["states"][0]
        assert (one["src"], one["mode"], one["algorithms"]) == ("192.0.2.1", "tunnel", ["rfc4106(gcm(aes))"])
        assert set(one["limits"].values()) == {None}
        assert [(link["name"], link["if_id"]) for link in found["interfaces"]] == [("ipsec0", 42)]
        assert found["xfrm_stat"]["XfrmInError"] == 0
        assert STATE.aead is not None
        assert STATE.aead.key.hex() not in printed
        assert main(["-j", "top", "-f", "nowhere"]) == 0
        assert json.loads(capsys.readouterr().out)["states"] == []


@pytest.mark.parametrize("words", [[], ["--once"], ["--json"]])
def test_nobody_there(words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with runtime_directory():
        if not words:
            with top() as terminal:
                assert terminal.process.wait(10) == 1
                assert "no xfrmi daemon" in terminal.heard
            return
        assert main(["top", *words]) == 1
    assert "no xfrmi daemon" in capsys.readouterr().err


def test_without_rich() -> None:
    """--json does without."""
    with serving():
        fill()
        program = (
            "import sys; sys.modules['rich'] = None; from xfrmi.cli.main import main; sys.exit(main(sys.argv[1:]))"
        )
        done = subprocess.run([sys.executable, "-c", program, "top", "--once"], capture_output=True, text=True)
        sentence = "xfrmi: to draw it rich is needed: pip install 'xfrmi[teach]'; --json does without\n"
        assert (done.returncode, done.stdout, done.stderr) == (1, "", sentence)
        done = subprocess.run([sys.executable, "-c", program, "top", "--json"], capture_output=True, text=True)
        assert (done.returncode, len(json.loads(done.stdout)["states"])) == (0, 1)
