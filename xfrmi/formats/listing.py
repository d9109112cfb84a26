"""`ip xfrm state` and `ip xfrm policy` listings -> values, so that a real gateway's tables can be replayed.

    parse_states(text) == infos     where text is the listing of infos

With -s a listing holds all there is but: nat_keepalive_interval, mtimer_thresh (ip prints neither); masks of ports
(a port shown counts as matched whole); whether an absent mask was zero. Without -s these fields are missing too, and
come back as their defaults: of a state extra_flags, seq, limits, current and stats; of a policy index, share, limits
and current; of a template share and algorithm masks; of any selector user.

A listing whose keys are hidden (nokeys) is refused: an empty key is a key. All functions raise ListingError.
"""

from __future__ import annotations

from collections.abc import Callable

from xfrmi.formats.listing_parts import ListingError, Outside, local_timestamp, records
from xfrmi.formats.listing_policy import read_policy
from xfrmi.formats.listing_state import read_state
from xfrmi.wire.xfrm_const import XfrmStat
from xfrmi.wire.xfrm_types import PolicyInfo, StateInfo

__all__ = ["ListingError", "parse_policies", "parse_stat", "parse_states"]


def parse_states(
    text: str,
    *,
    timestamp: Callable[[str], int] = local_timestamp,
    ifindex_of: Callable[[str], int] | None = None,
) -> list[StateInfo]:
    """`timestamp` reads the listing's dates, `ifindex_of` its device names (without it none exists)."""
    return [read_state(record) for record in records(text, Outside(timestamp, ifindex_of))]


def parse_policies(
    text: str,
    *,
    timestamp: Callable[[str], int] = local_timestamp,
    ifindex_of: Callable[[str], int] | None = None,
) -> list[PolicyInfo]:
    """As parse_states."""
    return [read_policy(record) for record in records(text, Outside(timestamp, ifindex_of))]


def parse_stat(text: str) -> list[int]:
    """/proc/net/xfrm_stat -> counters by XfrmStat, as many as the kernel has."""
    counters: list[int] = []
    for number, line in enumerate(text.splitlines(), 1):
        name, _, count = line.partition("\t")
        if number > len(XfrmStat) or name.rstrip() != XfrmStat(number - 1).label:
            raise ListingError(number, f'"{name.rstrip()}" is no counter of this place')
        if not count.isascii() or not count.isdigit():
            raise ListingError(number, f'"{count}" is not a count')
        counters.append(int(count))
    return counters
