"""core.noting: whatever packets, requests and time do to a state, it has been noted; by that a hand-over tells it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.packets import udp
from tests.core.pair import INNER, NOW, OUTER, Pair, receive, wire
from tests.core.trains import arrived, super_packet
from tests.examples import examples
from xfrmi.core import Algorithm, Engine
from xfrmi.core.noting import note_states
from xfrmi.core.saved import SavedState, save_state
from xfrmi.core.state import State
from xfrmi.wire.ip import split_outer
from xfrmi.wire.xfrm_const import STATE_AF_UNSPEC, STATE_ESN
from xfrmi.wire.xfrm_types import Encap, Limits, Replay, ReplayEsn, StateId

STATES: dict[str, dict[str, Any]] = {
    "plain": {},
    "ESN": {
        "replay_window": 0, "flags": STATE_AF_UNSPEC | STATE_ESN, "replay_esn": ReplayEsn((0,) * 2, replay_window=64),
    },
    "near the end": {"replay": Replay(oseq=0xFFFFFFFF - 30, seq=0xFFFFFFFF - 60)},
    "limited": {"limits": Limits(soft_packets=20, hard_packets=60)},
    "in UDP": {"encap": Encap()},
    "no rows": {
        "aead": None, "crypt": Algorithm("cbc(aes)", bytes(16)), "auth": Algorithm("hmac(sha1)", bytes(20)),
        "tfcpad": 200,
    },
}  # fmt: skip
PACKET = udp(INNER[4][0], INNER[4][1], b"x" * 400)
SENT: dict[str, tuple[Any, ...]] = {
    "lone": (PACKET,),
    "few": (PACKET,) * 3,
    "burst": (PACKET,) * 24,
    "unequal": tuple(udp(INNER[4][0], INNER[4][1], b"x" * (100 + size % 9)) for size in range(24)),
    "train": (super_packet(1200, 24000),),
    "udp train": (super_packet(1200, 24000, udp=True), PACKET),
    "too big": (udp(INNER[4][0], INNER[4][1], b"x" * 1600),),
    "nonsense": (b"\x45",),
}
STEPS = st.lists(
    st.tuples(
        st.sampled_from([*SENT, "update", "NEWAE", "delete", "time"]),
        st.sampled_from(["as it is", "as a train", "backwards", "twice", "damaged", "cut", "from elsewhere"]),
    ),
    max_size=6,
)


class Watched:
    """An engine, and what it has noted."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._noting = note_states(engine)
        self._saved = self._all()

    def _all(self) -> dict[State, SavedState]:
        """But what is found anew."""
        saved = {state: save_state(self.engine, state) for state in self.engine.states()}
        for one in saved.values():
            del one.fields["ttl"], one.fields["path_mtu"]
        return saved

    def check(self) -> int:
        before, self._saved = self._saved, self._all()
        changed = {state for state in before.keys() | self._saved if before.get(state) != self._saved.get(state)}
        assert changed <= self._noting.take()
        return len(changed)


def deliver(engine: Engine, outer: list[bytes], how: str) -> None:
    match how:
        case "as a train":
            header, _ = split_outer(outer[0])
            if len({len(packet) for packet in outer}) == 1:
                engine.input([arrived(header, [split_outer(packet)[1] for packet in outer])], NOW)
        case "backwards":
            receive(engine, outer[::-1])
        case "twice":
            receive(engine, outer + outer[:3])
        case "damaged":
            receive(engine, [*outer[1:], outer[0][:-1] + bytes([outer[0][-1] ^ 1])])
        case "cut":
            engine.input([(header, esp[:20]) for header, esp in map(split_outer, outer)], NOW)
        case "from elsewhere":
            receive(engine, [packet[:15] + b"\x09" + packet[16:] for packet in outer])
        case _:
            receive(engine, outer)


@pytest.mark.parametrize("fields", STATES.values(), ids=list(STATES))
@pytest.mark.parametrize("listeners", [0, 1])
@given(STEPS)
@settings(max_examples=examples(10), deadline=None)
def test_what_changes_is_noted(fields: dict[str, Any], listeners: int, steps: list[tuple[str, str]]) -> None:
    pair = Pair(**fields)
    watched = [Watched(host.engine) for host in (pair.left, pair.right)]
    out = StateId(OUTER[4][1], 0x1000)
    for number, (step, how) in enumerate(steps):
        for host in (pair.left, pair.right):
            host.engine.sad.aevents.listeners = listeners
            there = [state for state in host.engine.states() if state.spi == 0x1000]
            if step == "time":
                host.engine.tick(NOW + 1 + number)
            elif there and step == "update":
                host.engine.update_state(replace(there[0].info, limits=Limits(soft_add=3, hard_packets=1 << 40)), NOW)
            elif there and step == "NEWAE":
                host.engine.sad.set_replay(out, Replay(oseq=7, seq=9))
            elif there and step == "delete":
                host.engine.delete_state(out, NOW)
        if step in SENT:
            outer = wire(pair.left.engine.output(pair.xfrm_left, SENT[step], NOW)[0])
            if outer:
                deliver(pair.right.engine, outer, how)
        for one in watched:
            one.check()


def test_what_is_used_has_changed() -> None:
    pair = Pair()
    left, right = Watched(pair.left.engine), Watched(pair.right.engine)
    deliver(pair.right.engine, pair.emit(PACKET), "as it is")
    assert (left.check(), right.check()) == (1, 1)
    assert (left.check(), right.check()) == (0, 0)
    assert pair.left.engine.sad.aevents.wanted
    left._noting.end()
    assert not pair.left.engine.sad.aevents.wanted
