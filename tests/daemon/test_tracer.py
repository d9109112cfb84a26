"""Who listens to packets hears of each once; who does not read loses records and is told how many."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

import pytest

from tests.core.packets import udp
from tests.core.pair import INNER, NOW, Pair, wire
from xfrmi.daemon import tracer as tracing
from xfrmi.daemon.tracer import Stream, Tracer
from xfrmi.errors import XfrmError
from xfrmi.wire.ip import split_outer
from xfrmi.wire.link_types import POLICY_BASED
from xfrmi.wire.xfrm_const import Action, Dir
from xfrmi.wire.xfrm_types import PolicyInfo, Selector

PACKET = udp(*INNER[4])


class World:
    def __init__(self) -> None:
        self.pair = Pair()
        self.switched: list[bool] = []
        self.woken = 0
        self.tracer = Tracer(
            self.pair.left.engine, lambda tracer: self.switched.append(True), lambda: self.switched.append(False)
        )

    def wake(self) -> None:
        self.woken += 1

    def listen(self, **request: Any) -> Stream:
        return self.tracer.subscribe(request, self.wake)

    def send(self, *packets: bytes) -> list[bytes]:
        return wire(self.tracer.output(self.pair.xfrm_left, packets, NOW)[0])


def lines(stream: Stream) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while piece := stream.take():
        found += map(json.loads, piece.splitlines())
    return found


def test_only_while_somebody_listens() -> None:
    world = World()
    assert world.switched == []
    one, other = world.listen(), world.listen()
    assert world.switched == [True]
    one.close()
    assert world.switched == [True]
    other.close()
    other.close()
    assert world.switched == [True, False]


def test_one_wake_a_burst() -> None:
    world = World()
    stream = world.listen()
    assert len(world.send(*[PACKET] * 40)) == 40
    assert world.woken == 1
    assert len(lines(stream)) == 40
    assert stream.take() == b""


def test_who_does_not_read_is_told_what_he_has_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    stream = world.listen()
    world.send(PACKET)
    size = len(stream.take())
    monkeypatch.setattr(tracing, "MAX_QUEUED", size * 9 + 1)
    for _ in range(10):
        world.send(*[PACKET] * 5)
    told = lines(stream)
    assert len([line for line in told if "lost" not in line]) == 10
    assert [line["lost"] for line in told if "lost" in line] == [40]
    world.send(PACKET)
    assert [line["interface"] for line in lines(stream)] == ["xfrm0"], "and then it goes on"


def test_what_is_lost_stands_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    stream = world.listen()
    world.send(PACKET)
    monkeypatch.setattr(tracing, "MAX_QUEUED", 2 * len(stream.take()) - 1)
    monkeypatch.setattr(tracing, "AT_ONCE", 1)
    world.send(*[PACKET] * 3)
    assert stream.take()
    world.send(PACKET)
    assert ["lost" in line for line in lines(stream)] == [False, True, False]


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        ({}, 3), ({"dir": "out"}, 3), ({"dir": "in"}, 0), ({"interface": "xfrm0"}, 3), ({"dropped": True}, 1),
        ({"spi": 0x1000}, 2), ({"spi": 0x1001}, 0),
    ],
)  # fmt: skip
def test_what_is_wanted(wanted: dict[str, Any], count: int) -> None:
    world = World()
    stream = world.listen(**wanted)
    world.send(PACKET, PACKET, b"\x10")
    assert len(lines(stream)) == count


def test_what_comes_in_is_told_one_by_one() -> None:
    world = World()
    outer = world.pair.emit(*[PACKET] * 40)
    right = Tracer(world.pair.right.engine, lambda tracer: None, lambda: None)
    stream = right.subscribe({}, world.wake)
    broken = bytearray(outer[20])
    broken[-1] ^= 1
    outer[20] = bytes(broken)
    delivered = right.input([split_outer(packet) for packet in outer], NOW)
    assert [len(packets) for _, packets in delivered] == [39]
    told = lines(stream)
    assert [line["reason"] for line in told] == [""] * 20 + ["wrong ICV"] + [""] * 19
    assert told[20]["counter"] == "XfrmInStateProtoError"


def test_what_comes_in_the_clear_and_meets_a_policy_is_told() -> None:
    """Let in or not; asked for by the name that stands for all devices."""
    world = World()
    engine = world.pair.left.engine
    engine.interfaces.add_policy_based()
    engine.add_policy(PolicyInfo(Selector.parse("0.0.0.0/0"), Dir.IN, action=Action.BLOCK), NOW)
    engine.add_policy(PolicyInfo(Selector.parse("0.0.0.0/0"), Dir.FWD, action=Action.BLOCK), NOW)
    stream, elsewhere = world.listen(interface=POLICY_BASED), world.listen(interface="xfrm0")
    to_v6 = udp(*INNER[6])
    assert world.tracer.admit([PACKET, to_v6, b"\x10"], NOW) == [to_v6]
    told = [(line["dir"], b64decode(line["inner"]), line["outer"], line["counter"]) for line in lines(stream)]
    assert told == [("in", to_v6, "", ""), ("in", PACKET, "", "XfrmInPolBlock"), ("in", b"\x10", "", "")]
    assert lines(elsewhere) == [] and world.woken == 2


@pytest.mark.parametrize(("wanted", "bursts"), [("out", [40]), ("in", [1] * 40), (None, [1] * 40)])
def test_what_nobody_wants_is_not_taken_apart(
    wanted: str | None, bursts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    arrived = [split_outer(packet) for packet in world.pair.emit(*[PACKET] * 40)]
    engine = world.pair.right.engine
    right = Tracer(engine, lambda tracer: None, lambda: None)
    stream = right.subscribe({"dir": wanted}, world.wake)
    seen: list[int] = []
    receive = engine.input
    monkeypatch.setattr(engine, "input", lambda burst, now: (seen.append(len(burst)), receive(burst, now))[1])
    ((interface, packets),) = right.input(arrived, NOW)
    assert interface is world.pair.xfrm_right and len(packets) == 40
    assert seen == bursts and len(lines(stream)) == (0 if wanted == "out" else 40)


@pytest.mark.parametrize(
    ("request_", "words"),
    [({"interface": "eth9"}, "no xfrm interface"), ({"dir": "up"}, '"in" or "out"'), ({"spi": -1}, "32 bits")],
)
def test_what_cannot_be_wanted(request_: dict[str, Any], words: str) -> None:
    world = World()
    with pytest.raises(XfrmError, match=words):
        world.listen(**request_)
    assert world.switched == []


def test_keys_are_in_no_record() -> None:
    world = World()
    stream = world.listen()
    world.send(PACKET)
    (state,) = (one for one in world.pair.left.engine.states() if one.spi == 0x1000)
    assert state.info.aead is not None
    text = json.dumps(lines(stream))
    assert state.info.aead.key.hex() not in text


