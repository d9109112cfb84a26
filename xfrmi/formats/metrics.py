"""Counters in Prometheus's exposition format (text, version 0.0.4).

What /proc/net/xfrm_stat counts has the names of node_exporter's xfrm collector, so that what draws a kernel draws this:
node_xfrm_in_no_states_packets_total. Interfaces have the words of its netdev collector, states their own words. An SPI
is a label only where it is asked for: with each rekeying there would be another time series.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from xfrmi.wire.address import format_address
from xfrmi.wire.link_types import LinkInfo
from xfrmi.wire.xfrm_const import XfrmStat
from xfrmi.wire.xfrm_types import StateInfo

Labels = tuple[tuple[str, str], ...]

_DEVICE = {
    "receive_bytes": "rx_bytes", "receive_packets": "rx_packets", "receive_errs": "rx_errors",
    "receive_drop": "rx_dropped", "transmit_bytes": "tx_bytes", "transmit_packets": "tx_packets",
    "transmit_errs": "tx_errors", "transmit_drop": "tx_dropped", "transmit_carrier": "tx_carrier_errors",
    "transmit_colls": "collisions",
}  # fmt: skip
"""Metric, and the field of LinkStats."""


class Metric(NamedTuple):
    name: str
    kind: str
    """counter or gauge."""
    help: str
    values: Sequence[tuple[Labels, int]]


def exposition(metrics: Iterable[Metric]) -> str:
    """The whole text; metrics without a value are left out."""
    lines: list[str] = []
    for metric in metrics:
        if metric.values:
            lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]
            lines += [f"{metric.name}{_labels(labels)} {value}" for labels, value in metric.values]
    return "".join(f"{line}\n" for line in lines)


def stat_metrics(counters: Mapping[str, int]) -> list[Metric]:
    """By the names of /proc/net/xfrm_stat."""
    return [
        Metric(
            f"node_xfrm_{stat.name.lower()}_packets_total", "counter", f"Packets counted as {stat.label}.",
            [((), counters[stat.label])],
        )
        for stat in XfrmStat
        if stat.label in counters
    ]  # fmt: skip


def link_metrics(links: Sequence[LinkInfo]) -> list[Metric]:
    """Of the xfrm interfaces."""
    return [
        Metric(
            f"xfrmi_network_{name}_total", "counter", f"The device's {field}.",
            [(_of_link(link), getattr(link.stats, field)) for link in links if link.stats is not None],
        )
        for name, field in _DEVICE.items()
    ]  # fmt: skip


def state_metrics(states: Sequence[StateInfo], with_spi: bool = False) -> list[Metric]:
    """Of the states; those with equal labels are added up."""
    def total(name: str, help: str, field: str, part: str) -> Metric:
        sums: dict[Labels, int] = {}
        for state in states:
            labels = _of_state(state, with_spi)
            sums[labels] = sums.get(labels, 0) + getattr(getattr(state, part), field)
        return Metric(f"xfrmi_state_{name}_total", "counter", help, list(sums.items()))

    counts: dict[Labels, int] = {}
    for state in states:
        labels = (("if_id", f"{state.if_id:#x}"),)
        counts[labels] = counts.get(labels, 0) + 1
    return [
        Metric("xfrmi_states", "gauge", "States there are.", list(counts.items())),
        total("bytes", "Payload protected or verified.", "bytes", "current"),
        total("packets", "Packets protected or verified.", "packets", "current"),
        total("replayed_packets", "Packets dropped as seen before.", "replay", "stats"),
        total("late_packets", "Packets dropped as behind the replay window.", "replay_window", "stats"),
        total("unauthentic_packets", "Packets dropped for a wrong ICV.", "integrity_failed", "stats"),
    ]


def _of_link(link: LinkInfo) -> Labels:
    return ("device", link.name), ("if_id", f"{link.if_id or 0:#x}")


def _of_state(state: StateInfo, with_spi: bool) -> Labels:
    ends = ("src", format_address(state.src)), ("dst", format_address(state.dst))
    labels = (*ends, ("if_id", f"{state.if_id:#x}"), ("reqid", str(state.reqid)))
    return (*labels, ("spi", f"{state.spi:#010x}")) if with_spi else labels


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
