"""Counters and defaults: /proc/net/xfrm_stat, `count` of states and policies, `policy getdefault`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xfrmi.formats import words
from xfrmi.formats.show import PLAIN, Show
from xfrmi.wire.xfrm_const import Default, XfrmStat

_NAME_WIDTH = 24


def print_stat(stats: Sequence[int]) -> str:
    """As the kernel's file (section 6): `stats` is indexed by XfrmStat; a kernel that lacks the last ones has fewer."""
    return "".join(f"{stat.label:<{_NAME_WIDTH}}\t{stats[stat]}\n" for stat in XfrmStat if stat < len(stats))


def print_state_count(count: int, *, buckets: int = 8, buckets_max: int = 1048576, show: Show = PLAIN) -> str:
    """`state count`; the hash sizes come with -s."""
    hashing = f" (buckets count {buckets} Max {buckets_max})" if show.stats else ""
    return f"\t SAD count {count}{hashing}\n"


@dataclass(frozen=True, slots=True)
class PolicyCounts:
    """XFRMA_SPD_INFO, SPD_HINFO and the two SPD_*_HTHRESH."""

    in_: int = 0
    out: int = 0
    fwd: int = 0
    socket_in: int = 0
    socket_out: int = 0
    socket_fwd: int = 0
    buckets: int = 7
    buckets_max: int = 1048576
    ipv4_thresholds: tuple[int, int] = (32, 32)
    """Prefix lengths (local, remote) from which policies are hashed."""
    ipv6_thresholds: tuple[int, int] = (128, 128)


def print_policy_count(counts: PolicyCounts, show: Show = PLAIN) -> str:
    """`policy count`: socket policies with -s, hash sizes and thresholds with -s -s."""
    text = f"\t SPD IN  {counts.in_} OUT {counts.out} FWD {counts.fwd}"
    if show.stats:
        text += f" (Sock: IN {counts.socket_in} OUT {counts.socket_out} FWD {counts.socket_fwd})"
    text = show.record(f"{text}\n")
    if show.stats > 1:
        more = f"\t SPD buckets: count {counts.buckets} Max {counts.buckets_max}\n"
        for name, (local, remote) in (("IPv4", counts.ipv4_thresholds), ("IPv6", counts.ipv6_thresholds)):
            more += f"\t SPD {name} thresholds: local {local} remote {remote}\n"
        text += show.record(more)
    return text


def print_defaults(in_: int, fwd: int, out: int) -> str:
    """`policy getdefault`, and the event of a change: Default values."""
    text = "Default policies:\n"
    for name, value in (("in: ", in_), ("fwd:", fwd), ("out:", out)):
        # ip knows block; everything else is accept.
        text += f" {name} {words.DEFAULTS[Default.BLOCK if value == Default.BLOCK else Default.ACCEPT]}\n"
    return text
