"""Lines of Wireshark's table of ESP keys. What tshark makes of them: tests/cli/test_capture.py."""

from __future__ import annotations

from tests.core.algorithms import ALL
from tests.core.pair import OUTER, tunnel_state
from tests.each import each
from xfrmi.core.state import State
from xfrmi.formats.esp_sa import esp_sa_line, esp_sa_lines
from xfrmi.wire.xfrm_const import STATE_ESN
from xfrmi.wire.xfrm_types import ReplayEsn

UNKNOWN = ("ccm", "gmac", "chacha", "camellia", "sm4")
"""Wireshark decrypts none of these."""


def lines_of(name: str) -> State:
    return State(tunnel_state(*OUTER[4], 0x1000, **{"aead": None, **ALL[name]}))


@each("name", ALL)
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
