"""`ip xfrm state` and `ip xfrm policy` listings, and /proc/net/xfrm_stat, read back. ListingError or values; and what
has been read is printed as a listing that is read as the same.

    0 states, 1 policies, 2 counters | text
"""

from __future__ import annotations

import re

from tests.core.pair import OUTER, policies, tunnel_state
from tests.formats.captures import steps, utc_time, utc_timestamp
from tests.fuzz.registry import One
from xfrmi.formats.listing import ListingError, parse_policies, parse_stat, parse_states
from xfrmi.formats.print_policy import print_policy
from xfrmi.formats.print_stat import print_stat
from xfrmi.formats.print_state import print_state
from xfrmi.formats.show import Show
from xfrmi.wire.xfrm_const import IPPROTO_DSTOPTS, Mode, XfrmStat
from xfrmi.wire.xfrm_types import Algorithm, Encap, Limits, Mark, ReplayEsn, StateInfo

MAX_LEN = 1400
SHOW = Show(stats=1, localtime=utc_time)


RARE = StateInfo(
    *OUTER[6], 0x1001, IPPROTO_DSTOPTS, Mode.ROUTEOPTIMIZATION, mark=Mark(1, 3), set_mark=Mark(2, 15), tfcpad=64,
    crypt=Algorithm("cbc(aes)", bytes(16)), auth_trunc=Algorithm("hmac(sha256)", bytes(32), 128), encap=Encap(),
    replay_esn=ReplayEsn((1, 0), 1, 2, replay_window=64), coaddr=bytes(15) + b"\1", lastused=1_700_000_000, dir=1,
    pcpu=1, offload=(0, 1), limits=Limits(soft_packets=9),
)  # fmt: skip


def seeds() -> list[bytes]:
    listings = [step.output for step in steps() if step.rc == 0 and step.output.startswith("src ")]
    records = {record for text in listings for record in re.split(r"(?m)^(?=src )", text)}
    found = [bytes(("dir" in text,)) + text.encode() for text in sorted(records) if len(text) < MAX_LEN]
    found += [b"\0" + print_state(state, SHOW).encode() for state in (tunnel_state(*OUTER[4], 0x1000), RARE)]
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
