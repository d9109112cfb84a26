"""Lines of Wireshark's table of ESP keys: tshark decrypts with them, whatever algorithm it knows."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.core.algorithms import ALL
from tests.core.packets import udp
from tests.core.pair import INNER, NOW, OUTER, tunnel_state
from xfrmi.core import esp
from xfrmi.core.state import State
from xfrmi.formats import pcapng
from xfrmi.formats.esp_sa import esp_sa_line, esp_sa_lines
from xfrmi.wire.xfrm_const import STATE_ESN
from xfrmi.wire.xfrm_types import ReplayEsn

TSHARK = shutil.which("tshark")
UNKNOWN = ("ccm", "gmac", "chacha", "camellia", "sm4")
"""Wireshark decrypts none of these."""


def lines_of(name: str) -> State:
    return State(tunnel_state(*OUTER[4], 0x1000, **{"aead": None, **ALL[name]}))


@pytest.mark.parametrize("name", ALL)
def test_each_algorithm(name: str) -> None:
    line = esp_sa_line(lines_of(name).info)
    if name.startswith(UNKNOWN):
        assert line is None
    elif line is not None:
        assert line.count('","') == 7
        assert line.startswith('"IPv4","192.0.2.1","192.0.2.2","0x00001000"')


def test_columns_for_a_secrets_block_and_for_esn() -> None:
    assert str(esp_sa_line(lines_of("gcm128-icv128").info, whole=True)).endswith('"NULL","","32-bit","0x00000000"')
    esn = ReplayEsn((0,), 5, 0, 7, 0, 32)
    state = State(tunnel_state(*OUTER[4], 1, flags=STATE_ESN, replay_esn=esn, replay_window=0))
    assert str(esp_sa_line(state.info)).endswith('"64-bit","0x00000007"')
    infos = [lines_of(name).info for name in ("gcm128-icv128", "chacha20poly1305")]
    text, strange = esp_sa_lines(infos)
    assert (text.count("\n"), strange) == (1, 1)


@pytest.mark.skipif(TSHARK is None, reason="TSHARK IS NOT INSTALLED, NOT TESTED")
def test_tshark_decrypts_with_them(tmp_path: Path) -> None:
    names = [name for name in ALL if not name.startswith(UNKNOWN) and esp_sa_line(lines_of(name).info) is not None]
    data, table = [pcapng.section("test"), pcapng.interface("wire")], []
    for spi, name in enumerate(names, 0x1000):
        state = State(tunnel_state(*OUTER[4], spi, **{"aead": None, **ALL[name]}))
        packet = bytes(esp.seal(state, udp(*INNER[4], b"hello", dport=40001), NOW))
        data.append(pcapng.packet(0, 0, packet, pcapng.OUTBOUND))
        table.append(f"{esp_sa_line(state.info)}\n")
    (tmp_path / "it.pcapng").write_bytes(b"".join(data))
    (tmp_path / "esp_sa").write_text("".join(table))
    (tmp_path / "preferences").write_text("esp.enable_encryption_decode: TRUE\nesp.enable_authentication_check: TRUE\n")
    assert TSHARK is not None
    path, fields = str(tmp_path / "it.pcapng"), ["-T", "fields", "-e", "udp.dstport", "-e", "esp.icv_bad"]
    command = [TSHARK, "-n", "-r", path, *fields]
    env = {**os.environ, "WIRESHARK_CONFIG_DIR": str(tmp_path), "LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    shown = dict(zip(names, (line.split("\t") for line in done.stdout.splitlines()), strict=True))
    assert {name for name, (port, _) in shown.items() if port != "40001"} == set()
    assert all(bad in ("0", "False", "") for _, bad in shown.values())
    assert len(shown) > 20
