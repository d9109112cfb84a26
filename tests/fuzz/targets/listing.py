"""`ip xfrm state` and `ip xfrm policy` listings, and /proc/net/xfrm_stat, read back. ListingError or values; and what
has been read is printed as a listing that is read as the same.

    0 states, 1 policies, 2 counters | text
"""

from __future__ import annotations

from tests.core.pair import OUTER, policies, tunnel_state
from tests.formats.captures import steps, utc_time, utc_timestamp
from tests.fuzz.registry import One
from xfrmi.formats.listing import ListingError, parse_policies, parse_stat, parse_states
from xfrmi.formats.print_policy import print_policy
from xfrmi.formats.print_stat import print_stat
from xfrmi.formats.print_state import print_state
from xfrmi.formats.show import Show
from xfrmi.wire.xfrm_const import XfrmStat

MAX_LEN = 900
SHOW = Show(stats=1, localtime=utc_time)


def seeds() -> list[bytes]:
    listings = {step.output for step in steps() if step.rc == 0 and step.output.startswith("src ")}
    found = [bytes(("dir" in text,)) + text.encode() for text in sorted(listings) if len(text) < MAX_LEN]
    found.append(b"\0" + print_state(tunnel_state(*OUTER[4], 0x1000), SHOW).encode())
    found += [b"\1" + print_policy(policy, SHOW).encode() for policy in policies(*OUTER[6], out=True)]
    found.append(b"\2" + print_stat([0] * len(XfrmStat)).encode())
    return found


def make() -> One:
    return one


def one(data: bytes) -> None:
    if not data:
        return
    text = data[1:].decode("utf-8", "surrogateescape")
    try:
        if data[0] % 3 == 2:
            counters = parse_stat(text)
            assert parse_stat(print_stat(counters)) == counters
        elif data[0] % 3:
            read = parse_policies(text, timestamp=utc_timestamp)
            shown = "".join(print_policy(policy, SHOW) for policy in read)
            assert again(shown, parse_policies) == read
        else:
            states = parse_states(text, timestamp=utc_timestamp)
            shown = "".join(print_state(state, SHOW) for state in states)
            assert again(shown, parse_states) == states
    except ListingError as error:
        assert str(error)


def again(text: str, parse: object) -> object:
    try:
        return parse(text, timestamp=utc_timestamp)  # type: ignore[operator]
    except ListingError as error:
        raise AssertionError(f"what was printed cannot be read: {error}") from error
