"""Counters and defaults: /proc/net/xfrm_stat, `count` of states and policies, `policy getdefault`."""

from __future__ import annotations

from collections.abc import Sequence

from xfrmi.formats import words
from xfrmi.formats.show import PLAIN, Show
from xfrmi.wire.xfrm_const import XfrmStat
from xfrmi.wire.xfrm_info_msg import Defaults, SadInfo, SpdInfo

_NAME_WIDTH = 24


def print_stat(stats: Sequence[int]) -> str:
    """As the kernel's file (section 6): `stats` is indexed by XfrmStat; a kernel that lacks the last ones has fewer."""
    return "".join(f"{stat.label:<{_NAME_WIDTH}}\t{stats[stat]}\n" for stat in XfrmStat if stat < len(stats))


def print_state_count(info: SadInfo, show: Show = PLAIN) -> str:
    """`state count`; the hash sizes come with -s."""
    hashing = f" (buckets count {info.buckets} Max {info.max_buckets})" if show.stats else ""
    return f"\t SAD count {info.count}{hashing}\n"


def print_policy_count(info: SpdInfo, show: Show = PLAIN) -> str:
    """`policy count`: socket policies with -s, hash sizes and thresholds with -s -s."""
    text = f"\t SPD IN  {info.count_in} OUT {info.count_out} FWD {info.count_fwd}"
    if show.stats:
        text += f" (Sock: IN {info.socket_in} OUT {info.socket_out} FWD {info.socket_fwd})"
    text += "\n"
    if show.stats > 1:
        text += f"\t SPD buckets: count {info.buckets} Max {info.max_buckets}\n"
        for name, (local, remote) in (("IPv4", info.ipv4), ("IPv6", info.ipv6)):
            text += f"\t SPD {name} thresholds: local {local} remote {remote}\n"
    return text


def print_defaults(defaults: Defaults) -> str:
    """`policy getdefault`, and the event of a change."""
    text = "Default policies:\n"
    for name, value in (("in: ", defaults.input), ("fwd:", defaults.fwd), ("out:", defaults.output)):
        text += f" {name} {words.DEFAULTS.get(value, 'unknown' if value else 'unspec')}\n"
    return text
