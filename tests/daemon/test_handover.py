"""What a daemon tells its successor is what there is: tables, numbers, windows, timers, to the bit; and who is told."""

from __future__ import annotations

import errno
import os
import pickle
import socket
from contextlib import suppress
from dataclasses import dataclass, make_dataclass, replace
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.samples import NOW, policy_info, state_info
from tests.core.test_tables_model import POLICY_STEPS, STATE_STEPS, run
from tests.examples import examples
from xfrmi.core.engine import Engine
from xfrmi.core.sad import Sad
from xfrmi.core.saved import restore_rest, save_rest
from xfrmi.core.state import KM_VALID, State
from xfrmi.daemon import handover, handover_tables
from xfrmi.daemon import handover_format as told
from xfrmi.daemon.handover_tables import TablesHeard, TablesTold
from xfrmi.daemon.self_describing import Kinds
from xfrmi.errors import Drop, XfrmError
from xfrmi.wire.xfrm_const import SA_XFLAG_OSEQ_MAY_WRAP, STATE_ESN, SaDir, XfrmStat
from xfrmi.wire.xfrm_policy_msg import encode_policy
from xfrmi.wire.xfrm_sa_msg import encode_state
from xfrmi.wire.xfrm_types import Algorithm, Encap, Limits, Mark, PolicyId, Replay, ReplayEsn

KINDS = st.lists(
    st.sampled_from(
        [
            {"flags": STATE_ESN, "replay_esn": ReplayEsn((0,) * 4, replay_window=100)},
            {"replay_esn": ReplayEsn((0,) * 3, replay_window=70), "extra_flags": SA_XFLAG_OSEQ_MAY_WRAP},
            {"flags": STATE_ESN, "replay_esn": ReplayEsn((0,) * 2, 5, (1 << 32) - 9, 0, 3, 64)},
            {"replay": Replay(oseq=(1 << 32) - 50, seq=77, bitmap=5), "replay_window": 32},
            {"encap": Encap(), "dir": SaDir.OUT, "nat_keepalive_interval": 20},
            {"limits": Limits(soft_add=3, hard_add=9, soft_use=2, hard_packets=100)},
            {"aead": None, "crypt": Algorithm("cbc(aes)", bytes(16)), "auth": Algorithm("hmac(sha1)", bytes(20))},
            {"replay_thresh": 3, "etimer_thresh": 7, "mark": Mark(3, 0xFF), "set_mark": Mark(9, 15), "tfcpad": 64},
        ]
    ),
    max_size=4,
)
"""States that are more than the usual ones."""
TRAFFIC = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 90), st.integers(0, 5000)), max_size=12)
"""Which SPI, how many are sent, and a number that is received."""


def over_the_socket(message: told.Message) -> told.Message:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    buffer = bytearray(told.MAX_MESSAGE)
    with here, there:
        told.send(here, message)
        received, _ = told.receive(there, buffer)
    assert not any(buffer), "keys stay in the buffer"
    return received


def carry(sad: Sad, traffic: list[tuple[int, int, int]]) -> None:
    for spi, count, number in traffic:
        for state in sad.dump():
            if state.spi == spi and state.km == KM_VALID:
                state.sequence.reserve(count)
                state.reserve_ivs(count)
                state.count(count, count * 100, NOW)
                with suppress(Drop):
                    state.window.commit(number, state.window.check(number))
                with suppress(Drop):
                    state.check_limits(NOW, XfrmStat.OUT_STATE_EXPIRED)
                if sad.aevents.wanted:
                    sad.aevents.moved([state], NOW)


def told_of(engine: Engine, state: State) -> object:
    """What aevents remember of it."""
    aevents = engine.sad.aevents
    one = aevents.told.get(state)
    return one and (one.position, one.idle, aevents.timers.deadline_of(state))


def shown(engine: Engine) -> list[object]:
    """Everything that could make a difference, in the order of dumps."""
    return [
        [
            (
                encode_state(state.snapshot(), reply=True), state.snapshot(), state.km, state.dying, state.iv_counter,
                state.iv_salt, state.sequence.last, state.sequence.may_wrap, state.sequence.esn, state.spi_bytes,
                [getattr(state.window, name) for name in ("size", "top", "seen", "kept", "late", "replayed")],
                type(state.window), told_of(engine, state), engine.sad.timers.deadline_of(state), state.soft_left,
                engine.keepalives.timers.deadline_of(state), state.header_len, state.mark, state.selector, state.dir,
            )
            for state in engine.sad.dump()
        ],
        [
            (encode_policy(policy.snapshot()), policy.rank, policy.index, engine.spd.timers.deadline_of(policy))
            for policy in engine.spd.dump()
        ],
        save_rest(engine), engine.sad.counts(), engine.spd.counts(), engine.sad.next_deadline(),
        engine.spd.next_deadline(),
    ]  # fmt: skip


def change_policies(engine: Engine, steps: list[Any]) -> None:
    for verb, fields in steps:
        info = policy_info(**fields)
        with suppress(XfrmError):
            if verb == "delete":
                engine.delete_policy(PolicyId(info.selector, info.dir, info.if_id, 0, info.mark), NOW)
            else:
                (engine.add_policy if verb == "insert" else engine.update_policy)(info, NOW)


def tell(tables: TablesTold, heard: TablesHeard) -> None:
    for message in tables.everything():
        heard.take(over_the_socket(message))  # type: ignore[arg-type]


@given(KINDS, STATE_STEPS, TRAFFIC, KINDS, STATE_STEPS, TRAFFIC, POLICY_STEPS)
@settings(max_examples=examples(100), deadline=None)
def test_another_engine_goes_on_where_this_one_stops(
    kinds: list[Any],
    before: list[Any],
    early: list[Any],
    more: list[Any],
    after: list[Any],
    late: list[Any],
    policies: list[Any],
) -> None:
    """Told three times, as in a hand-over: in between states and policies come, go and change, and packets pass."""
    engine, successor = Engine(), Engine()
    tables, heard = TablesTold(engine), TablesHeard()
    engine.acquire_listeners = 1
    engine.sad.aevents.listeners = 1
    for spi, fields in enumerate(kinds, 1):
        engine.add_state(state_info(spi, **fields), NOW)
    run(engine.sad, before)
    carry(engine.sad, early)
    change_policies(engine, policies[::2])
    tell(tables, heard)
    heard.use(successor)
    carry(engine.sad, late[::-1])
    change_policies(engine, policies[1::2])
    tell(tables, heard)
    for spi, fields in enumerate(more, 3):
        with suppress(XfrmError):
            engine.add_state(state_info(spi, **fields), NOW)
    run(engine.sad, after)
    engine.tick(NOW + 2)
    carry(engine.sad, late)
    change_policies(engine, policies)
    for policy in engine.spd.dump()[::2]:
        policy.use_time = int(NOW) + 1
        engine.spd.point(policy, (*policy.templates, *policy.templates)[1:])
    engine.stats[3] = 7
    tell(tables, heard)
    restore_rest(successor, save_rest(engine))
    assert shown(successor) == shown(engine)
    assert not list(tables.everything()), "nothing is told again"


def test_an_iv_counter_is_told_whoever_has_moved_it() -> None:
    """Past all places where it is noted that a state is used."""
    engine, successor = Engine(), Engine()
    tables, heard = TablesTold(engine), TablesHeard()
    heard.use(successor)
    for spi in (1, 2):
        engine.add_state(state_info(spi), NOW)
    tell(tables, heard)
    used = engine.sad.dump()[0]
    used.reserve_ivs(7)
    (message,) = tables.everything()
    assert isinstance(message, told.StatesIn) and len(message.states) == 1
    heard.take(message)
    assert [state.iv_counter for state in successor.sad.dump()] == [used.iv_counter, engine.sad.dump()[1].iv_counter]


def test_what_many_states_leave_behind_fits_into_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush between the two times: keys of so many that they come in several messages."""
    monkeypatch.setattr(handover_tables, "KEYS_AT_ONCE", 2)
    engine, successor = Engine(), Engine()
    states, heard = TablesTold(engine), TablesHeard()
    for spi in range(1, 6):
        engine.add_state(state_info(spi), NOW)
    for message in states.everything():
        heard.take(message)
    heard.use(successor)
    assert len(successor.sad) == 5
    engine.sad.flush(0, NOW)
    last = list(states.everything())
    assert [len(message.keys) for message in last if isinstance(message, told.StatesOut)] == [2, 2, 1]
    for message in last:
        heard.take(message)
    assert len(successor.sad) == 0
    most = told.StatesOut(tuple(range(1 << 31, (1 << 31) + told.KEYS_AT_ONCE)))
    assert over_the_socket(most) == most


# Versions -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OlderEncap:
    """As a version before knew it."""

    type: int = 2
    sport: int = 4500
    dport: int = 4500


class NewerLimits(NamedTuple):
    """As one may know it some day."""

    soft_bytes: int = 7
    hard_bytes: int = 8
    a_colour: str = ""


def told_by(kinds: Kinds, value: object) -> Any:
    return told.KINDS.loads(memoryview(kinds.dumps(value)))


def as_named(kind: type, name: str) -> type:
    kind.__name__ = name
    return kind


def test_another_version_has_a_field_less_or_more() -> None:
    older, newer = Kinds([as_named(OlderEncap, "Encap")]), Kinds([as_named(NewerLimits, "Limits")])
    assert told_by(older, OlderEncap(2, 1, 2)) == Encap(2, 1, 2), "what was not told has its default"
    assert told_by(newer, NewerLimits()) == Limits(7, 8), "what is unknown and empty is left out"
    with pytest.raises(XfrmError) as refused:
        told_by(newer, NewerLimits(a_colour="red"))
    assert refused.value.errno == errno.EPROTONOSUPPORT
    assert "another version and tells Limits.a_colour, which" in refused.value.detail
    assert "red" not in refused.value.detail, "it might be a key"
    for name, why in (("SavedState", "does not tell SavedState.fields"), ("Tomorrow", "tells a Tomorrow, which")):
        kind = make_dataclass(name, ["info"])
        with pytest.raises(XfrmError, match=why):
            told_by(Kinds([kind]), kind(1))


def test_a_field_of_states_that_another_version_has() -> None:
    engine = Engine()
    engine.add_state(state_info(1), NOW)
    (message,) = TablesTold(engine).everything()
    assert isinstance(message, told.StatesIn)
    ((key, saved),) = message.states
    older = {name: value for name, value in saved.fields.items() if name not in ("mapping_time", "path_mtu")}
    for fields in (older, saved.fields | {"of_tomorrow": None}):
        successor, heard = Engine(), TablesHeard()
        heard.take(told.StatesIn(((key, replace(saved, fields=fields)),)))
        heard.use(successor)
        assert shown(successor) == shown(engine)
    with pytest.raises(XfrmError, match="of_tomorrow of a state"):
        heard.take(told.StatesIn(((key, replace(saved, fields=saved.fields | {"of_tomorrow": 1})),)))


def test_nothing_but_values_is_made_of_what_is_told() -> None:
    for nonsense in (pickle.dumps(print), pickle.dumps(os.getcwd), b"", b"\x80\x05.", pickle.dumps(Engine)):
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with here, there:
            here.send(nonsense)
            here.shutdown(socket.SHUT_WR)
            with pytest.raises(EOFError):
                told.receive(there, bytearray(told.MAX_MESSAGE))


def test_another_user_is_given_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        assert handover._vouched(theirs) == os.getpid()
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
        with pytest.raises(XfrmError, match=r"uid \d+ cannot replace a daemon of uid 4711") as refused:
            handover._vouched(theirs)
        assert refused.value.errno == errno.EPERM
