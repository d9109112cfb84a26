"""Counters for Prometheus: names, labels, and that the dashboard asks for nothing that is not there."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.core.pair import OUTER, tunnel_state
from xfrmi.formats.metrics import exposition, link_metrics, stat_metrics, state_metrics
from xfrmi.wire.link_types import LinkInfo, LinkStats
from xfrmi.wire.xfrm_const import XfrmStat
from xfrmi.wire.xfrm_types import Current, StateStats

COUNTERS = {stat.label: int(stat) for stat in XfrmStat}
LINKS = [LinkInfo('odd"name\\', if_id=42, stats=LinkStats(rx_bytes=7, tx_carrier_errors=3)), LinkInfo("x", if_id=1)]
STATES = [
    tunnel_state(*OUTER[4], spi, current=Current(bytes=spi, packets=1), stats=StateStats(1, 2, 3))
    for spi in (0x1000, 0x1001)
]  # fmt: skip
NODE_EXPORTER = """
    in_error in_buffer_error in_hdr_error in_no_states in_state_proto_error in_state_mode_error in_state_seq_error
    in_state_expired in_state_mismatch in_state_invalid in_tmpl_mismatch in_no_pols in_pol_block in_pol_error out_error
    out_bundle_gen_error out_bundle_check_error out_no_states out_state_proto_error out_state_mode_error
    out_state_seq_error out_state_expired out_pol_block out_pol_dead out_pol_error fwd_hdr_error out_state_invalid
    acquire_error
"""
"""What its collector "xfrm" knows (collector/xfrm.go), between node_xfrm_ and _packets_total."""
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


def test_names_are_those_of_node_exporter() -> None:
    """And kernels count a few things by now that it does not ask for."""
    names = {metric.name for metric in stat_metrics(COUNTERS)}
    theirs = {f"node_xfrm_{name}_packets_total" for name in NODE_EXPORTER.split()}
    newer = {"out_state_dir_error", "in_state_dir_error", "in_iptfs_error", "out_no_queue_space"}
    assert names - theirs == {f"node_xfrm_{name}_packets_total" for name in newer}
    assert theirs <= names


def test_prometheus_reads_it() -> None:
    """With its own parser: names, types, labels and their escapes, and no series twice."""
    families = list(text_string_to_metric_families(text(with_spi=True)))
    assert len({family.name for family in families}) == len(families)
    assert {family.type for family in families} == {"counter", "gauge"} and all(f.documentation for f in families)
    samples = [sample for family in families for sample in family.samples]
    assert len({(sample.name, *sorted(sample.labels.items())) for sample in samples}) == len(samples)
    (odd,) = (one for one in samples if one.name == "xfrmi_network_receive_bytes_total")
    assert odd.labels == {"device": 'odd"name\\', "if_id": "0x2a"} and odd.value == 7
    key = STATES[0].aead
    assert key is not None and key.key.hex() not in text(with_spi=True)


def test_the_dashboard_draws_what_there_is() -> None:
    known = {line.split()[2] for line in text().splitlines() if line.startswith("# TYPE")}
    dashboard = json.loads(DASHBOARD.read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    used = set(re.findall(r"\b(?:xfrmi|node_xfrm)_[a-z_]+\b", " ".join(asked))) - {"node_xfrm_"}
    assert used <= known
    for expression in asked:  # a rate has no name any more: of several metrics, none would be told from the others
        assert not re.search(r"rate\(\{", expression), expression
    assert len(used) > 8
