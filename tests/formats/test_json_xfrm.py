"""JSON of states and policies: the documented keys, complete and stable."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings

from tests.examples import examples
from tests.formats.test_listing import NAMES, policies, states
from xfrmi.formats.json_xfrm import (
    defaults_json,
    policy_count_json,
    policy_json,
    stat_json,
    state_count_json,
    state_json,
)
from xfrmi.formats.print_policy import print_policy
from xfrmi.formats.print_state import print_state
from xfrmi.formats.show import Show
from xfrmi.wire.xfrm_const import Default, Dir, Mode, SaDir
from xfrmi.wire.xfrm_info_msg import Defaults, SadInfo, SpdInfo
from xfrmi.wire.xfrm_types import (
    Algorithm,
    Current,
    Limits,
    Mark,
    PolicyInfo,
    Replay,
    Selector,
    StateInfo,
    Template,
)

KEY = bytes(range(20))
STATE = StateInfo(
    src="192.0.2.1", dst="192.0.2.2", spi=0x1000, mode=Mode.TUNNEL, reqid=7, if_id=42, flags=0x80, dir=SaDir.OUT,
    aead=Algorithm("rfc4106(gcm(aes))", KEY, 128), replay=Replay(3, 4, 0xFF), mark=Mark(1, 0xFF),
    limits=Limits(hard_packets=9, soft_add=60), current=Current(100, 2, 1700000000),
)  # fmt: skip
SHOW = Show(ifname=NAMES.__getitem__)


def test_a_state() -> None:
    assert state_json(STATE) == {
        "src": "192.0.2.1",
        "dst": "192.0.2.2",
        "proto": "esp",
        "spi": "0x00001000",
        "reqid": 7,
        "mode": "tunnel",
        "replay_window": 0,
        "flags": ["esn"],
        "extra_flags": [],
        "mark": {"value": "0x1", "mask": "0xff"},
        "aead": {"name": "rfc4106(gcm(aes))", "key": f"0x{KEY.hex()}", "bits": 128},
        "anti_replay": {"seq": 4, "oseq": 3, "bitmap": "0x000000ff"},
        "dir": "out",
        "if_id": "0x2a",
        "sel": {"src": "0.0.0.0/0", "dst": "0.0.0.0/0"},
        "seq": 0,
        "lifetime_config": {"packet_hard": 9, "time_soft": 60},
        "lifetime_current": {"bytes": 100, "packets": 2, "add_time": 1700000000},
        "stats": {"replay_window": 0, "replay": 0, "failed": 0},
    }


def test_a_policy() -> None:
    info = PolicyInfo(
        Selector.parse("10.0.0.0/8", "10.1.0.0/16", proto=6, dport=80), Dir.IN, 42,
        (Template("192.0.2.1", "192.0.2.2", reqid=7),), priority=5, index=8,
    )  # fmt: skip
    assert policy_json(info) == {
        "sel": {"src": "10.0.0.0/8", "dst": "10.1.0.0/16", "proto": "tcp", "dport": 80},
        "dir": "in",
        "action": "allow",
        "index": 8,
        "priority": 5,
        "ptype": "main",
        "share": "any",
        "flags": [],
        "tmpl": [
            {
                "src": "192.0.2.1",
                "dst": "192.0.2.2",
                "proto": "esp",
                "spi": "0x00000000",
                "reqid": 7,
                "mode": "tunnel",
                "level": "required",
                "share": "any",
                "enc_mask": "0xffffffff",
                "auth_mask": "0xffffffff",
                "comp_mask": "0xffffffff",
            }
        ],
        "if_id": "0x2a",
        "lifetime_config": {},
        "lifetime_current": {"bytes": 0, "packets": 0},
    }


def test_hidden_keys() -> None:
    shown = state_json(STATE, Show(nokeys=True))
    assert shown["aead"] == {"name": "rfc4106(gcm(aes))", "bits": 128}
    assert KEY.hex() not in json.dumps(shown)


def strings(value: Any) -> set[str]:
    """Every text in a JSON value."""
    if isinstance(value, dict):
        return set().union(*(strings(item) for item in value.values()))
    if isinstance(value, list):
        return set().union(*(strings(item) for item in value))
    return {value} if isinstance(value, str) else set()


@settings(max_examples=examples(40))
@given(states())
def test_every_text_of_a_state_is_in_its_listing(info: StateInfo) -> None:
    shown = state_json(info, SHOW)
    json.dumps(shown)
    listing = print_state(info, Show(stats=1, ifname=NAMES.__getitem__))
    missing = {text for text in strings(shown) if text not in listing} - {"crypto"}
    # A bitmap has no 0x in a listing, an empty key and a mark of 0 no digits.
    assert all(text in ("0x", "0x0") or text[2:] in listing for text in missing)


@settings(max_examples=examples(40))
@given(policies())
def test_every_text_of_a_policy_is_in_its_listing(info: PolicyInfo) -> None:
    shown = policy_json(info, SHOW)
    json.dumps(shown)
    listing = print_policy(info, Show(stats=1, ifname=NAMES.__getitem__))
    missing = {text for text in strings(shown) if text not in listing}
    assert all(text == "0x0" or text[2:] in listing for text in missing)


def test_counts_and_defaults() -> None:
    assert stat_json([1, 2]) == {"XfrmInError": 1, "XfrmInBufferError": 2}
    assert len(stat_json([0] * 32)) == 32
    assert state_count_json(SadInfo(3)) == {"count": 3, "buckets": 8, "max_buckets": 1048576}
    assert policy_count_json(SpdInfo(count_out=2, ipv4=(24, 16))) == {
        "in": 0,
        "out": 2,
        "fwd": 0,
        "socket": {"in": 0, "out": 0, "fwd": 0},
        "buckets": 7,
        "max_buckets": 1048576,
        "hthresh4": {"local": 24, "remote": 16},
        "hthresh6": {"local": 128, "remote": 128},
    }
    assert defaults_json(Defaults(Default.BLOCK, Default.ACCEPT, Default.UNSPEC)) == {
        "in": "block",
        "fwd": "accept",
        "out": "accept",
    }
