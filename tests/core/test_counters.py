"""Section 6: for each line of /proc/net/xfrm_stat the ways in which it rises here, by one and no other with it.

Which counters of the device go along is test_device_counters.py's table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.core import test_device_counters as device
from tests.core.packets import udp
from tests.core.pair import INNER, NOW, OUTER, Pair, forge, receive, tunnel_state
from tests.each import each
from xfrmi.core import PolicyInfo, Selector, Template, esp
from xfrmi.core.state import KM_ERROR, KM_EXPIRED
from xfrmi.errors import Drop
from xfrmi.wire.ip import split_outer
from xfrmi.wire.xfrm_const import IPPROTO_IPIP, Action, Default, Dir, Mode, PolicyType, SaDir, XfrmStat
from xfrmi.wire.xfrm_types import Encap, Limits, Replay, StateId

ANY, ANY6 = Selector.parse("0.0.0.0/0"), Selector.parse("::/0")
PACKET = device.PACKET
TEMPLATE = Template(*OUTER[4], reqid=1)
Event = Callable[[Pair], Any]


def of(**fields: Any) -> Callable[[Event], tuple[dict[str, Any], Event]]:
    """The states of the pair have these fields."""
    return lambda event: (fields, event)


def right_policy(dir: Dir = Dir.IN, **fields: Any) -> Event:
    """Right has this one for what then arrives."""

    def event(pair: Pair) -> None:
        pair.right.engine.update_policy(PolicyInfo(ANY, dir, 42, **fields), NOW)
        device.arrives(pair)

    return event


def forged(payload: bytes, next_header: int, **fields: Any) -> Event:
    return lambda pair: receive(pair.right.engine, [forge(payload, next_header, **fields)])


def right_state(**fields: Any) -> Event:
    """Right has another state for the packet than left."""

    def event(pair: Pair) -> None:
        pair.right.engine.delete_state(device.OUT_STATE, NOW)
        pair.right.engine.add_state(tunnel_state(*OUTER[4], 0x1000, **fields), NOW)
        device.arrives(pair)

    return event


def left_policy(**fields: Any) -> Event:
    return device.after(device.policy_of(**fields))


def no_device_but_a_policy(pair: Pair) -> None:
    pair.right.engine.add_policy(PolicyInfo(ANY, Dir.IN, 0, (TEMPLATE,)), NOW)
    device.no_device(pair)


def more_than_six_transforms(pair: Pair) -> None:
    """Six times ESP in transport mode, and what comes out is ESP still."""
    engine = pair.right.engine
    engine.delete_state(device.OUT_STATE, NOW)
    engine.add_state(tunnel_state(*OUTER[4], 0x1000, mode=Mode.TRANSPORT, flags=0), NOW)
    packet = forge(PACKET, 17, seq=99)
    for seq in range(7):
        packet = forge(packet[20:], 50, seq=seq + 1)
    receive(engine, [packet])


def too_short(pair: Pair) -> None:
    header, body = split_outer(pair.emit(PACKET)[0])
    pair.right.engine.input([(header, body[: 8 + 8 + 15])], NOW)


def larval(pair: Pair) -> None:
    pair.right.engine.alloc_spi(tunnel_state(*OUTER[4], 0), 0x7777, 0x7777, NOW)
    forged(PACKET, IPPROTO_IPIP, spi=0x7777)(pair)


def spoiled(pair: Pair, km: int, opens: bool) -> None:
    """A state that is neither valid nor larval is in no table: only who holds it still can meet it."""
    (state,) = (state for state in pair.left.engine.states() if state.spi == 0x1000)
    header, body = split_outer(pair.emit(PACKET)[0])
    state.km = km
    with pytest.raises(Drop) as caught:
        if opens:
            esp.open(state, header, body, NOW)
        else:
            esp.seal(state, PACKET, NOW)
    assert caught.value.stat is not None
    pair.left.engine.stats[caught.value.stat] += 1


def default_is_block(pair: Pair) -> None:
    pair.right.engine.flush_policies(PolicyType.MAIN, NOW)
    pair.right.engine.spd.set_default(Default.BLOCK, Default.BLOCK, Default.ACCEPT)
    device.arrives(pair)


def fragment_in_beet(pair: Pair) -> None:
    engine = pair.left.engine
    engine.flush_states(0, NOW)
    selector = Selector.parse(f"{INNER[4][0]}/32", f"{INNER[4][1]}/32")
    engine.add_state(tunnel_state(*OUTER[4], 0x1000, mode=Mode.BEET, flags=0, selector=selector), NOW)
    device.policy_of(templates=(replace(TEMPLATE, mode=Mode.BEET),))(pair)
    first = udp(*INNER[4], df=False)
    device.sends(first[:6] + b"\x20" + first[7:])(pair)


RISES: dict[XfrmStat, dict[str, Event | tuple[dict[str, Any], Event]]] = {
    XfrmStat.IN_ERROR: {"let in, and no device to go to": no_device_but_a_policy},
    XfrmStat.IN_BUFFER_ERROR: {
        "six templates": right_policy(templates=(TEMPLATE,) * 6),
        "a seventh transform": more_than_six_transforms,
    },
    XfrmStat.IN_HDR_ERROR: {"shorter than SPI and number": device.cut_short},
    XfrmStat.IN_NO_STATES: {"unknown spi": device.unknown_spi},
    XfrmStat.IN_STATE_PROTO_ERROR: {
        "ICV": device.tampered,
        "shorter than IV and ICV": too_short,
        "nothing but padding": forged(b"", IPPROTO_IPIP, pad_len=2),
        "a dummy": device.inner_of_another_mode,
    },
    XfrmStat.IN_STATE_MODE_ERROR: {
        "not IP inside a tunnel": forged(PACKET, 17),
        "inner header cut short": forged(PACKET[:19], IPPROTO_IPIP),
    },
    XfrmStat.IN_STATE_SEQ_ERROR: {
        "replayed": device.arrives_twice,
        "number 0": forged(PACKET, IPPROTO_IPIP, seq=0),
        "behind the window": of(replay=Replay(seq=100))(forged(PACKET, IPPROTO_IPIP, seq=68)),
    },
    XfrmStat.IN_STATE_EXPIRED: {
        "packets": of(limits=Limits(hard_packets=1), replay_window=0)(device.arrives_twice),
        "bytes": of(limits=Limits(hard_bytes=1), replay_window=0)(device.arrives_twice),
    },
    XfrmStat.IN_STATE_MISMATCH: {
        "UDP for a plain state": device.otherwise_encapsulated,
        "plain ESP for a state in UDP": right_state(encap=Encap()),
        "selector": right_state(flags=0, selector=Selector.parse("10.0.0.0/8")),
    },
    XfrmStat.IN_STATE_INVALID: {
        "expired": lambda pair: spoiled(pair, KM_EXPIRED, opens=True),
        "in error": lambda pair: spoiled(pair, KM_ERROR, opens=True),
    },
    XfrmStat.IN_TMPL_MISMATCH: {
        "another reqid": right_policy(templates=(replace(TEMPLATE, reqid=9),)),
        "a tunnel too many": right_policy(templates=()),
    },
    XfrmStat.IN_NO_POLS: {"no policy": device.for_no_policy, "the default is block": default_is_block},
    XfrmStat.IN_POL_BLOCK: {"block": right_policy(action=Action.BLOCK)},
    XfrmStat.OUT_BUNDLE_GEN_ERROR: {"no route": device.after(device.no_route)},
    XfrmStat.OUT_NO_STATES: {
        "no state": device.after(device.no_state),
        "of another if_id": device.after(device.state_of_another_if_id),
    },
    XfrmStat.OUT_STATE_PROTO_ERROR: {
        "longer than 65535 outside": device.sends(udp(*INNER[4], bytes(65507), df=False)),
    },
    XfrmStat.OUT_STATE_MODE_ERROR: {"a fragment in BEET": fragment_in_beet},
    XfrmStat.OUT_STATE_SEQ_ERROR: {"used up": of(replay=Replay(oseq=0xFFFFFFFF))(device.sends(PACKET))},
    XfrmStat.OUT_STATE_EXPIRED: {
        "packets": of(limits=Limits(hard_packets=0))(device.sends(PACKET)),
        "bytes": of(limits=Limits(hard_bytes=0))(device.sends(PACKET)),
    },
    XfrmStat.OUT_POL_BLOCK: {"block": left_policy(action=Action.BLOCK)},
    XfrmStat.OUT_POL_ERROR: {
        "six templates": left_policy(templates=(TEMPLATE,) * 6),
        "an spi that does not fit": left_policy(templates=(replace(TEMPLATE, reqid=9, spi=0x1000),)),
    },
    XfrmStat.OUT_STATE_INVALID: {"expired": lambda pair: spoiled(pair, KM_EXPIRED, opens=False)},
    XfrmStat.ACQUIRE_ERROR: {"larval": larval},
    XfrmStat.IN_STATE_DIR_ERROR: {"a state for output": right_state(dir=SaDir.OUT, replay_window=0)},
}

WITH_ANOTHER = {XfrmStat.OUT_STATE_DIR_ERROR: "with XfrmOutPolError, see test_decision.py"}

NEVER = {
    XfrmStat.IN_POL_ERROR: "only a security module can make a policy lookup fail",
    XfrmStat.OUT_ERROR: "memory, offload, checksums: nothing of that fails here",
    XfrmStat.OUT_BUNDLE_CHECK_ERROR: "the kernel does not raise it either",
    XfrmStat.OUT_POL_DEAD: "the kernel does not raise it either",
    XfrmStat.FWD_HDR_ERROR: "counts before a packet is routed, which is the host's to do",
    XfrmStat.IN_IPTFS_ERROR: "no IPTFS yet",
    XfrmStat.OUT_NO_QUEUE_SPACE: "no IPTFS yet",
}

WAYS = [
    pytest.param(stat, way, id=f"{stat.label}: {name}") for stat, ways in RISES.items() for name, way in ways.items()
]


@each(("stat", "way"), WAYS)
def test_6_it_rises(stat: XfrmStat, way: Any) -> None:
    fields, event = way if isinstance(way, tuple) else ({}, way)
    pair = Pair(**fields)
    event(pair)
    assert [count for count in (pair.left.moved(), pair.right.moved()) if count] == [{stat.label: 1}]


def test_6_every_counter_rises_or_has_a_reason_not_to() -> None:
    assert sorted([*RISES, *WITH_ANOTHER, *NEVER]) == sorted(XfrmStat)


def test_6_what_a_default_that_blocks_refuses_on_the_way_out_is_not_counted() -> None:
    pair = Pair()
    pair.left.engine.delete_policy(device.PolicyId(ANY, Dir.OUT, 42), NOW)
    pair.left.engine.spd.set_default(Default.BLOCK, Default.BLOCK, Default.BLOCK)
    assert pair.emit(PACKET) == [] and pair.left.moved() == {}


def test_6_counters_belong_to_the_home_namespace() -> None:
    """NS-01: wherever the device is."""
    pair = Pair()
    pair.xfrm_left.away = True
    pair.left.engine.delete_state(StateId(OUTER[4][1], 0x1000), NOW)
    assert pair.emit(PACKET) == [] and pair.left.moved() == {"XfrmOutNoStates": 1}
