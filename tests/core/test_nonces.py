"""No AEAD nonce is used twice under one key, by whichever way of sealing and whatever is done to the state in between.

A nonce is the salt, which is part of the key, and the IV: so an audit of SPI, key and IV of everything that leaves. The
steps come in any order, and so do lone packets, bursts and trains.

Elsewhere: workers, whose numbers outlive them, in tests/daemon/test_workers.py and test_worker_marks.py; IVs on a real
wire over a hand-over in tests/system/test_replace.py; after a restart keys are gone (tests/system/test_fail_closed.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.packets import udp
from tests.core.pair import INNER, NOW, OUTER, Pair, policies, tunnel_state, wire
from tests.core.trains import super_packet
from tests.examples import examples
from xfrmi.core import Algorithm, Engine
from xfrmi.core.router import StaticRouter
from xfrmi.core.saved import add_saved_policy, add_saved_state, save_policy, save_rest, save_state
from xfrmi.core.state import State
from xfrmi.wire.address import pack_address
from xfrmi.wire.ip import split_outer
from xfrmi.wire.xfrm_const import SA_XFLAG_OSEQ_MAY_WRAP, STATE_AF_UNSPEC, STATE_ESN, Dir
from xfrmi.wire.xfrm_migrate_msg import Migration, Move
from xfrmi.wire.xfrm_types import Limits, Replay, ReplayEsn, Selector, StateId

LAST = 0xFFFFFFFF
SPI = 0x1000
STEPS = st.lists(
    st.sampled_from(
        [
            "lone", "burst", "train", "udp train", "update", "rewind", "migrate", "re-add", "hand over",
            "fail to hand over",
        ]
    ),
    min_size=2,
    max_size=12,
)
ALGORITHMS = {
    "rfc4106(gcm(aes))": 20,
    "rfc4309(ccm(aes))": 19,
    "rfc4543(gcm(aes))": 20,
    "rfc7539esp(chacha20,poly1305)": 36,
}
NUMBERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "near the end, may wrap": {"extra_flags": SA_XFLAG_OSEQ_MAY_WRAP, "replay": Replay(oseq=LAST - 40)},
    "near the end": {"replay": Replay(oseq=LAST - 40)},
    "ESN": {
        "replay_window": 0,
        "flags": STATE_AF_UNSPEC | STATE_ESN,
        "replay_esn": ReplayEsn((0,), oseq=LAST - 40, replay_window=32),
    },
}


class Sender:
    """left of a Pair, as many engines after each other as it takes, and everything that has left."""

    def __init__(self, algorithm: str, numbers: str) -> None:
        aead = Algorithm(algorithm, bytes(range(ALGORITHMS[algorithm])), 128)
        pair = Pair(aead=aead, **NUMBERS[numbers])
        self.engine, self.interface = pair.left.engine, pair.xfrm_left
        self.info = tunnel_state(*OUTER[4], SPI, aead=aead, **NUMBERS[numbers])
        self.there = False
        self.seen: set[bytes] = set()
        self.sent = 0

    @property
    def state(self) -> State:
        return next(state for state in self.engine.states() if state.spi == SPI)

    def emit(self, *packets: Any) -> None:
        outgoing, _ = self.engine.output(self.interface, packets, NOW)
        for outer in wire(outgoing):
            _, esp = split_outer(outer)
            assert int.from_bytes(esp[:4], "big") == SPI
            iv = bytes(esp[8:16])
            assert iv not in self.seen, "an IV is used twice under one key"
            self.seen.add(iv)
            self.sent += 1

    def hand_over(self, done: bool) -> None:
        """To another engine. If it is not done, the other has everything but never seals."""
        successor = Engine(StaticRouter(1500, {pack_address(INNER[v][0]) for v in INNER}))
        interface = successor.add_interface("xfrm0", if_id=42)
        for state in reversed(list(self.engine.states())):
            add_saved_state(successor, save_state(self.engine, state), bytes)
        for policy in reversed(list(self.engine.policies())):
            add_saved_policy(successor, save_policy(self.engine, policy))
        assert save_rest(self.engine) is not None
        if done:
            self.engine, self.interface = successor, interface

    def migrate(self) -> None:
        """There, or back; the same key all the time."""
        home, away = OUTER[4], ("203.0.113.1", "203.0.113.2")
        old, new = (away, home) if self.there else (home, away)
        self.there = not self.there
        move = Move(*(pack_address(address) for address in (*old, *new)))
        moves = (replace(move, mode=self.info.mode, reqid=self.info.reqid),)
        self.engine.migrate(Migration(selector=Selector.parse("0.0.0.0/0"), moves=moves, dir=Dir.OUT, if_id=42), NOW)
        for policy in policies(*new, out=True):
            self.engine.update_policy(policy, NOW)

    def re_add(self) -> None:
        """Deleted, and added with the same key and the numbers it had, as IKE daemons do where they cannot migrate."""
        state = self.state
        info = state.snapshot()
        self.engine.delete_state(StateId(state.dst, state.spi, state.proto), NOW)
        self.engine.add_state(info, NOW)

    def rewind(self) -> None:
        """NEWAE: the sequence number is set back. The IVs are not."""
        state = self.state
        state_id = StateId(state.dst, state.spi, state.proto)
        if (esn := state.info.replay_esn) is not None:
            self.engine.sad.set_replay(state_id, replay_esn=replace_numbers(esn))
        else:
            self.engine.sad.set_replay(state_id, Replay(oseq=0))

    def step(self, name: str) -> None:
        packet = udp(INNER[4][0], INNER[4][1], b"x" * 400)
        match name:
            case "lone":
                self.emit(packet)
            case "burst":
                self.emit(*[packet] * 23)
            case "train" | "udp train":
                self.emit(super_packet(1200, 24000, udp=name != "train"))
            case "update":
                self.engine.update_state(replace(self.state.info, limits=Limits(hard_packets=1 << 40)), NOW)
            case "rewind":
                self.rewind()
            case "migrate":
                self.migrate()
            case "re-add":
                self.re_add()
            case _:
                self.hand_over(done=name == "hand over")


def replace_numbers(esn: ReplayEsn) -> ReplayEsn:
    return esn._replace(oseq=0, oseq_hi=0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("numbers", NUMBERS)
@given(STEPS)
@settings(max_examples=examples(8), deadline=None)
def test_no_nonce_is_used_twice(algorithm: str, numbers: str, steps: list[str]) -> None:
    sender = Sender(algorithm, numbers)
    for step in steps:
        sender.step(step)
    sender.step("burst")
    assert numbers == "near the end" or sender.sent >= 23


def test_the_audit_finds_one() -> None:
    """Two engines with one state: what a hand-over must never leave behind."""
    sender = Sender("rfc4106(gcm(aes))", "plain")
    before = sender.engine, sender.interface
    sender.hand_over(done=True)
    sender.step("lone")
    sender.engine, sender.interface = before
    with pytest.raises(AssertionError, match="twice"):
        sender.step("lone")
