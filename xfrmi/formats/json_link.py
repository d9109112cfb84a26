"""xfrm devices as `ip [-d] [-s [-s]] -j link show` writes them: the same keys in the same order (iproute2 6.1)."""

from __future__ import annotations

from typing import Any

from xfrmi.formats.print_link import (
    DETAILS,
    OPERSTATES,
    addrgenmode,
    flag_names,
    lower_name,
    mtu,
    operstate,
    qdisc,
    txqlen,
)
from xfrmi.formats.show import PLAIN, Show
from xfrmi.wire.link_types import XFRM_LINK_MAX_MTU, XFRM_LINK_MIN_MTU, LinkInfo, LinkStats

_DETAIL_KEYS = {"numtxqueues": "num_tx_queues", "numrxqueues": "num_rx_queues"}


def link_json(info: LinkInfo, show: Show = PLAIN) -> dict[str, Any]:
    """One element of the list that `ip -j link` writes."""
    result: dict[str, Any] = {
        "ifindex": info.ifindex,
        "link": lower_name(info, show) or None,
        "ifname": info.name,
        "flags": flag_names(info, show),
        "mtu": mtu(info),
        "qdisc": qdisc(info),
        "operstate": OPERSTATES[operstate(info)],
        "linkmode": "DEFAULT",
        "group": "default",
        "txqlen": txqlen(info),
        "link_type": "none",
    }
    if show.details:
        result |= {"promiscuity": 0, "allmulti": 0, "min_mtu": XFRM_LINK_MIN_MTU, "max_mtu": XFRM_LINK_MAX_MTU}
        data = {"external": True} if info.external else {"if_id": f"{info.if_id or 0:#x}"}
        result["linkinfo"] = {"info_kind": info.kind, "info_data": data}
        result["inet6_addr_gen_mode"] = addrgenmode(info)
        result |= {_DETAIL_KEYS.get(name, name): value for name, value in DETAILS.items()}
    if info.alias:
        result["ifalias"] = info.alias
    if show.stats:
        result["stats64"] = _stats(info.stats or LinkStats(), show)
    return result


def _stats(stats: LinkStats, show: Show) -> dict[str, dict[str, int]]:
    rx = {
        "bytes": stats.rx_bytes,
        "packets": stats.rx_packets,
        "errors": stats.rx_errors,
        "dropped": stats.rx_dropped,
        "over_errors": stats.rx_over_errors,
        "multicast": stats.multicast,
    }
    tx = {
        "bytes": stats.tx_bytes,
        "packets": stats.tx_packets,
        "errors": stats.tx_errors,
        "dropped": stats.tx_dropped,
        "carrier_errors": stats.tx_carrier_errors,
        "collisions": stats.collisions,
    }
    if stats.rx_compressed:
        rx["compressed"] = stats.rx_compressed
    if stats.tx_compressed:
        tx["compressed"] = stats.tx_compressed
    if show.stats > 1:
        rx |= {
            "length_errors": stats.rx_length_errors,
            "crc_errors": stats.rx_crc_errors,
            "frame_errors": stats.rx_frame_errors,
            "fifo_errors": stats.rx_fifo_errors,
            "missed_errors": stats.rx_missed_errors,
        }
        if stats.rx_nohandler:
            rx["nohandler"] = stats.rx_nohandler
        if stats.rx_otherhost_dropped:
            rx["otherhost"] = stats.rx_otherhost_dropped
        tx |= {
            "aborted_errors": stats.tx_aborted_errors,
            "fifo_errors": stats.tx_fifo_errors,
            "window_errors": stats.tx_window_errors,
            "heartbeat_errors": stats.tx_heartbeat_errors,
            "carrier_changes": 0,
        }
    return {"rx": rx, "tx": tx}
