"""JSON of events: every message that iproute2 prints has one, with the same words in it."""

from __future__ import annotations

import json

import pytest

from tests.each import each
from tests.formats.captures import load
from xfrmi.formats.json_event import notice_json
from xfrmi.formats.json_xfrm import policy_json, state_json
from xfrmi.wire.netlink import Message
from xfrmi.wire.xfrm_event_msg import Acquire, Mapping, StateExpiry
from xfrmi.wire.xfrm_msg import KmAddress, Migration, Move, XfrmMsg, decode_notice
from xfrmi.wire.xfrm_types import Encap, PolicyInfo, Selector, StateId, StateInfo, Template

NOTICES = load("iproute2/notices.json")["notices"]
STATE = StateInfo(src="192.0.2.1", dst="192.0.2.2", spi=1)
POLICY = PolicyInfo(Selector.parse("::/0"), templates=(Template("192.0.2.1", "192.0.2.2"),))


@each("number", range(len(NOTICES)))
def test_every_event_has_its_json(number: int) -> None:
    case = NOTICES[number]
    message = Message(case["type"], 0, 0, 0, memoryview(bytes.fromhex(case["body"])))
    shown = notice_json(message.type, decode_notice(message))
    json.dumps(shown)
    words = {"updated": "Updated ", "deleted": "Deleted ", "expired": "Expired ", "flushed": "Flushed "}
    first = words.get(shown["event"]) or {
        "new": "src ", "acquire": "acquire ", "mapping": "Mapping ", "aevent": "Async ", "defaults": "Default ",
    }[shown["event"]]  # fmt: skip
    assert case["plain"].startswith(first)


def test_states_and_policies() -> None:
    assert notice_json(XfrmMsg.UPDSA, STATE) == {"event": "updated", "state": state_json(STATE)}
    assert notice_json(XfrmMsg.DELPOLICY, POLICY) == {"event": "deleted", "policy": policy_json(POLICY)}
    assert notice_json(XfrmMsg.EXPIRE, StateExpiry(STATE, True)) == {
        "event": "expired",
        "state": state_json(STATE),
        "hard": True,
    }
    assert notice_json(XfrmMsg.FLUSHSA, 0) == {"event": "flushed", "proto": "0"}


def test_acquire() -> None:
    """The outer family is the template's, not the flow's (5.6)."""
    flow = Selector.parse("2001:db8::1/128", "2001:db8::2/128", proto=6, dport=80)
    shown = notice_json(XfrmMsg.ACQUIRE, Acquire(STATE.src, STATE.dst, flow, POLICY, seq=9))
    assert shown == {
        "event": "acquire",
        "src": "192.0.2.1",
        "dst": "192.0.2.2",
        "proto": "esp",
        "spi": "0x00000000",
        "seq": 9,
        "sel": {"src": "2001:db8::1/128", "dst": "2001:db8::2/128", "proto": "tcp", "dport": 80},
        "policy": policy_json(POLICY),
    }


def test_mapping() -> None:
    shown = notice_json(XfrmMsg.MAPPING, Mapping(StateId(STATE.dst, 1), 7, STATE.src, 4500, b"\x0a\0\0\1", 1024))
    assert shown == {
        "event": "mapping",
        "id": {"dst": "192.0.2.2", "proto": "esp", "spi": "0x00000001"},
        "reqid": 7,
        "old": {"addr": "192.0.2.1", "port": 4500},
        "new": {"addr": "10.0.0.1", "port": 1024},
    }


def test_migration() -> None:
    move = Move(STATE.src, STATE.dst, bytes(15) + b"\1", bytes(15) + b"\2", reqid=7, new_family=10)
    km = KmAddress(b"\x0a\0\0\1", b"\x0a\0\0\2")
    told = Migration(POLICY.selector, POLICY.dir, (move,), encap=Encap(oa=bytes(16)), km_address=km)
    assert notice_json(XfrmMsg.MIGRATE, told) == {
        "event": "migrate",
        "sel": {"src": "::/0", "dst": "::/0"},
        "dir": "out",
        "ptype": "main",
        "moves": [{
            "old": {"src": "192.0.2.1", "dst": "192.0.2.2"},
            "new": {"src": "::1", "dst": "::2"},
            "proto": "esp", "mode": "tunnel", "reqid": 7,
        }],
        "encap": {"type": "espinudp", "sport": 4500, "dport": 4500, "addr": "::"},
        "km": {"local": "10.0.0.1", "remote": "10.0.0.2"},
    }  # fmt: skip


def test_what_is_no_event() -> None:
    with pytest.raises(TypeError, match="no event"):
        notice_json(XfrmMsg.NEWSA, None)
