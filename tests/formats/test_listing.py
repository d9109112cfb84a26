"""Listings read back: whatever a printer writes, and nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.each import each
from tests.examples import examples
from tests.formats.captures import utc_time, utc_timestamp
from tests.wire import xfrm_values as values
from xfrmi.formats.listing import ListingError, parse_policies, parse_stat, parse_states
from xfrmi.formats.listing_parts import local_timestamp
from xfrmi.formats.print_policy import print_policy
from xfrmi.formats.print_stat import print_stat
from xfrmi.formats.print_state import print_state
from xfrmi.formats.show import Show, local_time
from xfrmi.formats.words import pack_sec_ctx
from xfrmi.wire.xfrm_const import AF_INET, XFRM_INF, Mode
from xfrmi.wire.xfrm_types import (
    NO_LIMITS,
    NO_MARK,
    Algorithm,
    Current,
    Encap,
    Limits,
    Mark,
    PolicyInfo,
    Replay,
    ReplayEsn,
    Selector,
    StateInfo,
    StateStats,
    Template,
)

DEVICES = {"eth0": 2, "eth1": 3}
NAMES = {0: "*", 2: "eth0", 3: "eth1"}

u32 = values.u32
ports = st.one_of(st.just((0, 0)), st.tuples(values.u16, st.just(0xFFFF)))
times = st.just(0) | st.integers(1, 4_000_000_000)
algorithms = st.builds(Algorithm, values.names, st.binary(max_size=40), st.just(0))
algorithms_bits = st.builds(Algorithm, values.names, st.binary(max_size=40), u32)
marks = st.just(NO_MARK) | st.builds(Mark, st.integers(1, 2**32 - 1), u32)
sizes = st.just(XFRM_INF) | st.integers(0, XFRM_INF - 1)
seconds = st.integers(0, 2**64 - 1)
limits = st.builds(Limits, sizes, sizes, sizes, sizes, seconds, seconds, seconds, seconds)
currents = st.builds(Current, seconds, seconds, times, times)
contexts = st.none() | st.text("abcdefgh_:", min_size=1).map(pack_sec_ctx)


@st.composite
def selectors(draw: st.DrawFn, family: int) -> Selector:
    """What a listing can say of a selector: ports with full masks, both or none for a GRE key."""
    packed, bits = values.addresses(family), st.integers(0, 32 if family == AF_INET else 128)
    proto = draw(st.sampled_from([0, 1, 6, 17, 47, 58, 132, 135, 253]))
    sport, dport = draw(ports), draw(ports)
    if proto == 47 and sport[1] != dport[1]:
        dport = sport
    return Selector(
        family, draw(packed), draw(bits), draw(packed), draw(bits), proto, *sport, *dport,
        draw(st.sampled_from([0, 2, 3])), draw(u32),
    )  # fmt: skip


@cache
def maybe_of(family: int) -> dict[str, st.SearchStrategy[Any]]:
    """What a state may have or not."""
    packed = values.addresses(family)
    return {
        "aead": st.none() | algorithms_bits, "crypt": st.none() | algorithms, "comp": st.none() | algorithms,
        "encap": st.none() | st.builds(Encap, values.u16, values.u16, values.u16, packed),
        "set_mark": st.none() | st.builds(Mark, u32, u32), "coaddr": st.none() | packed,
        "offload": st.none() | st.tuples(st.sampled_from([0, 2, 3]), st.sampled_from([0, 2, 4, 6])),
        "pcpu": st.none() | u32, "replay": st.none() | st.builds(Replay, u32, u32, u32),
        "replay_esn": st.none()
        | st.builds(ReplayEsn, st.lists(u32, max_size=20).map(tuple), u32, u32, u32, u32, u32),
    }  # fmt: skip


AUTH = st.sampled_from(["auth", "auth_trunc", ""])
STATS = st.builds(StateStats, u32, u32, u32)
PROTOCOLS = st.sampled_from([50, 51, 108, 43, 60, 255, 99])


@st.composite
def states(draw: st.DrawFn) -> StateInfo:
    """What -s shows of a state: all but nat_keepalive_interval and mtimer_thresh."""
    family = draw(values.families)
    packed = values.addresses(family)
    auth = draw(AUTH)
    fields = {name: draw(strategy) for name, strategy in maybe_of(family).items()}
    if auth:
        fields[auth] = draw(algorithms_bits if auth == "auth_trunc" else algorithms)
    return StateInfo(
        src=draw(packed), dst=draw(packed), spi=draw(u32), proto=draw(PROTOCOLS),
        mode=draw(st.integers(0, 9)), reqid=draw(u32), if_id=draw(u32), family=family, flags=draw(values.state_flags),
        selector=draw(selectors(draw(values.families))), extra_flags=draw(u32), replay_window=draw(values.u8),
        mark=draw(marks), tfcpad=draw(u32), limits=draw(limits), current=draw(currents),
        stats=draw(STATS), seq=draw(u32), dir=draw(st.integers(0, 3)),
        lastused=draw(times), sec_ctx=draw(contexts), **fields,
    )  # fmt: skip


TEMPLATES = st.lists(values.templates, max_size=6)


@st.composite
def policies(draw: st.DrawFn) -> PolicyInfo:
    return PolicyInfo(
        draw(selectors(draw(values.families))), draw(st.integers(0, 7)), draw(u32),
        tuple(draw(TEMPLATES)), draw(st.integers(0, 5)), draw(u32), draw(marks), draw(u32),
        draw(values.u8), draw(values.u8), draw(st.integers(0, 3)), draw(limits), draw(currents), draw(contexts),
    )  # fmt: skip


@settings(max_examples=examples(60))
@given(st.lists(states(), max_size=3), st.booleans())
def test_states_come_back(infos: list[StateInfo], oneline: bool) -> None:
    show = Show(stats=1, oneline=oneline, localtime=utc_time, ifname=NAMES.__getitem__)
    text = "".join(print_state(info, show) for info in infos)
    assert parse_states(text, timestamp=utc_timestamp, ifindex_of=lambda name: DEVICES.get(name, 0)) == infos


@settings(max_examples=examples(60))
@given(st.lists(policies(), max_size=3), st.booleans())
def test_policies_come_back(infos: list[PolicyInfo], oneline: bool) -> None:
    show = Show(stats=1, oneline=oneline, localtime=utc_time, ifname=NAMES.__getitem__)
    text = "".join(print_policy(info, show) for info in infos)
    assert parse_policies(text, timestamp=utc_timestamp, ifindex_of=lambda name: DEVICES.get(name, 0)) == infos


@settings(max_examples=examples(40))
@given(states())
def test_what_is_lost_without_s(info: StateInfo) -> None:
    show = Show(localtime=utc_time, ifname=NAMES.__getitem__)
    text = print_state(info, show)
    [back] = parse_states(text, timestamp=utc_timestamp, ifindex_of=lambda name: DEVICES.get(name, 0))
    assert back == replace(
        info, extra_flags=0, seq=0, limits=NO_LIMITS, current=Current(), stats=StateStats(),
        selector=replace(info.selector, user=0, **lost_code(info.selector)),
    )  # fmt: skip


def lost_code(sel: Selector) -> dict[str, int]:
    """ip shows the code of a mobility header with -s only."""
    return {"dport": 0, "dport_mask": 0} if sel.proto == 135 else {}


@settings(max_examples=examples(40))
@given(policies())
def test_what_a_policy_loses_without_s(info: PolicyInfo) -> None:
    show = Show(localtime=utc_time, ifname=NAMES.__getitem__)
    [back] = parse_policies(print_policy(info, show), ifindex_of=lambda name: DEVICES.get(name, 0))
    every = Template()
    assert back == replace(
        info, index=0, share=0, limits=NO_LIMITS, current=Current(),
        selector=replace(info.selector, user=0, **lost_code(info.selector)),
        templates=tuple(
            replace(template, share=0, aalgos=every.aalgos, ealgos=every.ealgos, calgos=every.calgos)
            for template in info.templates
        ),
    )  # fmt: skip


def test_local_time_comes_back() -> None:
    for seconds_ in (1, 1_700_000_000, 1_783_000_000):
        assert local_timestamp(local_time(seconds_)) == seconds_


STATE = print_state(
    StateInfo(
        src="192.0.2.2", dst="192.0.2.1", spi=0x3001, mode=Mode.TUNNEL, reqid=7, if_id=42,
        aead=Algorithm("rfc4106(gcm(aes))", bytes.fromhex("01080f161d242b323940474e555c636a71787f86"), 128),
        replay_esn=ReplayEsn((1, 0), replay_window=64),
    )
)  # fmt: skip


def test_a_listing_may_have_blank_lines_around_it() -> None:
    [info] = parse_states(f"\n{STATE}\n\n")
    assert (info.mode, info.if_id) == (Mode.TUNNEL, 42)
    assert info.replay_esn == ReplayEsn((1, 0), replay_window=64)
    assert parse_states("") == parse_policies("") == []


@each(
    ("old", "new", "why"),
    [
        ("src 192.0.2.2", "from 192.0.2.2", 'line 1: a record begins with "src", not "from"'),
        ("dst 192.0.2.1\n", "dst 192.0.2.256\n", 'line 1: "192.0.2.256" is not an IP address'),
        ("dst 192.0.2.1\n", "dst ::1\n", "line 1: source and destination are of one family"),
        ("spi 0x00003001", "spi 0x100003001", 'line 2: "0x100003001" is not a number of 32 bits'),
        ("mode tunnel", "mode tunel", 'line 2: "tunel" is not a number of 32 bits'),
        ("mode tunnel", "mode", 'line 2: something is missing after "mode"'),
        ("mode tunnel", "mode tunnel x", 'line 2: "x" has no meaning here'),
        ("86 128", "86 x", 'line 4: "x" is not a number of 32 bits'),
        ("7f86 128", "7fzz 128", "line 4: the key is not in hex"),
        ("0x01080f161d242b323940474e555c636a71787f86", "<<Keys hidden>>", "line 4: the keys are hidden; take the"),
        ("\t 00000000 00000001 \n", "", 'line 8: "0xif_id" is not a number'),
        ("00000000 00000001", "00000000 00000001 2", "line 8: the bitmap has more than 2 words"),
        ("bitmap-length 2", "bitmap-length 129", "line 7: a bitmap of 129 words is longer than 128"),
        ("seq-hi 0x0, seq", "seq-hi 0x0, sqe", 'line 6: "seq" is expected rather than "sqe"'),
        ("if_id 0x2a", "ifid 0x2a", 'line 9: "ifid" begins no line of this listing'),
        ("if_id 0x2a", "lifetime config:", 'line 10: "expire" is expected rather than "sel"'),
        ("if_id 0x2a", "lastused tomorrow at noon", "line 9: "),
        ("if_id 0x2a", "lastused 99999999999-11-23 23:43:43", "line 9: "),
        ("sel src 0.0.0.0/0", "sel src 0.0.0.0/33", 'line 10: prefix length "33"'),
        ("dst 0.0.0.0/0 ", "dst 0.0.0.0/0 dev eth9", 'line 10: there is no device "eth9"'),
        ("dst 0.0.0.0/0 ", "dst 0.0.0.0/0 color red", 'line 10: "color" is no part of a selector'),
        ("replay-window", f"security context {'x' * 256}\n\treplay-window", "line 3: a security context has at most"),
        ("dst 0.0.0.0/0 ", "dst ::/0", "line 10: source and destination of a selector"),
        ("\n\tproto", "\nsrc", "line 1: the line that belongs to this one is missing"),
    ],
)
def test_what_is_no_listing(old: str, new: str, why: str) -> None:
    assert old in STATE
    with pytest.raises(ListingError, match=f"^{re.escape(why)}"):
        parse_states(STATE.replace(old, new, 1))


def test_a_wrong_key_is_not_shown() -> None:
    with pytest.raises(ListingError) as refused:
        parse_states(STATE.replace("7f86 128", "7f8 128"))
    assert "71787f8" not in repr(refused.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("src 0.0.0.0/0 dst 0.0.0.0/0\n\tpriority 0\n", 'line 2: "priority" begins no line'),
        ("src 0.0.0.0/0 dst 0.0.0.0/0\n\tif_id 0x1\n", 'line 2: the line with "dir" is missing'),
        ("src 0.0.0.0/0 dst 0.0.0.0/0\n\tdir out colour 1\n", 'line 2: "colour" is no part of a policy'),
        ("src 0.0.0.0/0 dst 0.0.0.0/0\n\tdir out priority 0\n\tlevel use\n", "line 3: there is no tmpl above"),
    ],
)
def test_what_is_no_listing_of_policies(text: str, why: str) -> None:
    with pytest.raises(ListingError, match=f"^{why}"):
        parse_policies(text)


PIECES = [*STATE.split(), "\n", "\n\t", "src", "\\", "mark", "0x1/0x2", "(INF)", "stats:", "flag", "esn", "tmpl", ","]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=40))
def test_nonsense_is_refused_or_read(pieces: list[str]) -> None:
    for parse in (parse_states, parse_policies):
        for text in (" ".join(pieces), STATE + "\t" + " ".join(pieces)):
            try:
                infos = parse(text)
            except ListingError as error:
                assert str(error).startswith(f"line {error.number}: ")
            else:
                assert isinstance(infos, list)


def test_xfrm_stat() -> None:
    counters = list(range(32))
    assert parse_stat(print_stat(counters)) == counters
    with pytest.raises(ListingError, match='line 1: "XfrmOutError" is no counter of this place'):
        parse_stat("XfrmOutError            \t0\n")
    with pytest.raises(ListingError, match='line 1: "-1" is not a count'):
        parse_stat("XfrmInError             \t-1\n")
    with pytest.raises(ListingError, match="line 33: "):
        parse_stat(print_stat(counters) + "XfrmNew\t1\n")
