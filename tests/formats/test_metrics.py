"""Counters for Prometheus: names, labels, and that the dashboard asks for nothing that is not there."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.core.pair import OUTER, tunnel_state
from xfrmi.formats.metrics import exposition, link_metrics, stat_metrics, state_metrics
from xfrmi.wire.link_types import LinkInfo, LinkStats
from xfrmi.wire.xfrm_const import XfrmStat
from xfrmi.wire.xfrm_types import Current, StateStats

LINE = re.compile(r'[a-z_]+(\{[a-z_]+="(?:[^"\\\n]|\\[\\"n])*"(,[a-z_]+="(?:[^"\\\n]|\\[\\"n])*")*\})? [0-9]+')
COUNTERS = {stat.label: int(stat) for stat in XfrmStat}
LINKS = [LinkInfo('odd"name\\', if_id=42, stats=LinkStats(rx_bytes=7, tx_carrier_errors=3)), LinkInfo("x", if_id=1)]
STATES = [
    tunnel_state(*OUTER[4], spi, current=Current(bytes=spi, packets=1), stats=StateStats(1, 2, 3))
    for spi in (0x1000, 0x1001)
]  # fmt: skip
DASHBOARD = Path(__file__).parents[2] / "examples" / "grafana.json"


def text(with_spi: bool = False) -> str:
    return exposition(stat_metrics(COUNTERS) + link_metrics(LINKS) + state_metrics(STATES, with_spi))


def test_names_and_values() -> None:
    lines = text().splitlines()
    assert "node_xfrm_in_no_states_packets_total 3" in lines
    assert "node_xfrm_acquire_error_packets_total 27" in lines
    assert 'xfrmi_network_receive_bytes_total{device="odd\\"name\\\\",if_id="0x2a"} 7' in lines
    ends = 'src="192.0.2.1",dst="192.0.2.2",if_id="0x2a",reqid="1"'
    assert f"xfrmi_state_bytes_total{{{ends}}} {0x2001}" in lines, "the two are added up"
    assert 'xfrmi_states{if_id="0x2a"} 2' in lines
    assert f'xfrmi_state_replayed_packets_total{{{ends},spi="0x00001000"}} 2' in text(with_spi=True).splitlines()


def test_every_line_is_one() -> None:
    for line in text(with_spi=True).splitlines():
        assert line.startswith(("# HELP ", "# TYPE ")) or LINE.fullmatch(line), line
    names = [line.split()[2] for line in text().splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
    key = STATES[0].aead
    assert key is not None and key.key.hex() not in text(with_spi=True)


def test_the_dashboard_draws_what_there_is() -> None:
    known = {line.split()[2] for line in text().splitlines() if line.startswith("# TYPE")}
    dashboard = json.loads(DASHBOARD.read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    used = set(re.findall(r"\b(?:xfrmi|node_xfrm)_[a-z_]+\b", " ".join(asked))) - {"node_xfrm_"}
    assert used <= known
    assert len(used) > 8
