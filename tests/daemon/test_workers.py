"""The tables of workers are those of their parent, whatever happens to either; without a process or a socket."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.samples import NOW, flow, policy_info, state_id, state_info, template
from tests.core.test_tables_model import STATE_STEPS, run
from tests.examples import examples
from xfrmi.core import events
from xfrmi.core.engine import Engine
from xfrmi.core.router import StaticRouter
from xfrmi.core.state import KM_ACQ, State
from xfrmi.daemon import worker_channel as channel
from xfrmi.daemon import worker_homes, workers
from xfrmi.daemon.loop import Loop
from xfrmi.daemon.worker_marks import Marks
from xfrmi.daemon.worker_replica import Replica
from xfrmi.daemon.worker_tables import ToldSad, ToldSpd, WorkerSad
from xfrmi.daemon.workers import IV_RANGE, Workers
from xfrmi.errors import XfrmError
from xfrmi.wire.xfrm_const import POLICY_CPU_ACQUIRE, Dir, SaDir, XfrmStat
from xfrmi.wire.xfrm_types import Current, Limits, PolicyId, Replay

MARKS_OF_ALL = Marks()
"""Sixteen megabytes of addresses: once is enough."""


class NoSockets:
    def __init__(self, router: object) -> None:
        self.raw_sockets: list[tuple[int, int]] = []

    def close(self) -> None: ...


class Told:
    """In place of the processes: a replica for each worker, told at once."""

    def __init__(self, parent: World, count: int) -> None:
        self.parent = parent
        self.engines: list[Engine] = []
        self.replicas: list[Replica] = []
        self.up: list[channel.Up] = []
        self.ivs: dict[int, set[int]] = {}
        for number in range(count):
            self._make(number)

    def _make(self, number: int) -> None:
        engine = Engine(cpu=number, make_sad=WorkerSad)
        assert isinstance(engine.sad, WorkerSad)
        replica = Replica(engine, engine.sad, MARKS_OF_ALL, self.up.append, lambda: self.parent.now)
        self.engines[number:] = [engine, *self.engines[number + 1 :]]
        self.replicas[number:] = [replica, *self.replicas[number + 1 :]]

    def send(self, number: int, message: channel.Down, fds: object = ()) -> None:
        if isinstance(message, channel.StateIn) and message.role == SaDir.OUT:
            given_out = self.ivs.setdefault(message.iv_salt, set())
            first, rest = divmod(message.iv_counter, IV_RANGE)
            assert not rest and first not in given_out, "a range of IVs is given out twice"
            given_out.add(first)
        self.replicas[number].apply(message)

    def send_all(self, message: channel.Down) -> None:
        for number in range(len(self.replicas)):
            self.send(number, message)

    def refresh(self) -> None:
        self.send_all(channel.Ask(1, report=True))
        self.listen()

    def listen(self) -> None:
        while self.up:
            self.parent.workers._take(self.up.pop(0))

    def replace(self, number: int) -> None:
        self._make(number)
        self.parent.workers._number_anew(number)
        for message in self.parent.workers._tables(number):
            self.send(number, message)


class World:
    """A parent and its workers."""

    def __init__(self, count: int) -> None:
        self.now: float = NOW
        self.salts = 0
        self.engine = Engine(StaticRouter(), self.random, make_sad=ToldSad, make_spd=ToldSpd)
        self.heard: list[events.Event] = []
        loop = Loop()
        weakref.finalize(self, loop.close)
        self.workers = Workers(self.engine, loop, count, print, lambda: self.now)
        self.workers._marks = MARKS_OF_ALL
        self.told = Told(self, count)
        self.workers._processes = self.told  # type: ignore[assignment]
        self.engine.subscribe(self.heard.append)

    def random(self, size: int) -> bytes:
        self.salts += 1
        return self.salts.to_bytes(size, "big")

    @property
    def sad(self) -> ToldSad:
        assert isinstance(self.engine.sad, ToldSad)
        return self.engine.sad

    def homes(self, state: State) -> list[tuple[int, int]]:
        return self.workers._known[state].homes

    def of_worker(self, number: int, spi: int = 0x1000) -> State:
        return next(state for state in self.told.engines[number].states() if state.spi == spi)

    def check(self) -> None:
        """Each worker has what it is the home of, as it is, and nothing else: valid states in the same order, for the
        newest is preferred; larval ones in any, since one that is given its SPI comes anew."""
        for number, engine in enumerate(self.told.engines):
            ours = [(s, role) for s in self.engine.states() for worker, role in self.homes(s) if worker == number]
            theirs = list(engine.states())
            mine = sorted(((_shape(s), role) for s, role in ours), key=_larval_last)
            assert mine == sorted(((_shape(s), s.dir) for s in theirs), key=_larval_last)
            assert [p.snapshot() for p in self.engine.policies()] == [p.snapshot() for p in engine.policies()]
            assert self.engine.spd.defaults == engine.spd.defaults


def _larval_last(told: tuple[Any, int]) -> str:
    (_, km, *_), _ = told
    return repr(told) if km == KM_ACQ else ""


def _shape(state: State) -> Any:
    info = replace(state.info, dir=0, current=Current(), lastused=0)
    return info, state.km, state.dying, state.if_id, state.spi, state.iv_salt if state.transform else 0, state.add_time


@pytest.fixture(autouse=True)
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(worker_homes, "Underlay", NoSockets)
    monkeypatch.setattr(workers, "Marks", lambda: MARKS_OF_ALL)
    yield


POLICY_STEPS = st.lists(
    st.tuples(st.sampled_from(["insert", "update", "delete", "flush"]), st.integers(0, 2), st.integers(0, 3)),
    max_size=8,
)
DEATHS = st.lists(st.integers(0, 2), max_size=3)


@given(STATE_STEPS, POLICY_STEPS, DEATHS)
@settings(max_examples=examples(150), deadline=None)
def test_replicas_are_what_the_tables_are(steps: list[Any], policy_steps: list[Any], deaths: list[int]) -> None:
    world = World(3)
    half = len(steps) // 2
    run(world.sad, steps[:half])
    world.told.listen()
    for verb, if_id, priority in policy_steps:
        info = policy_info("10.0.0.0/8", if_id=if_id, priority=priority, templates=(template(),))
        with suppress(XfrmError):  # there is one already, or none
            if verb == "insert":
                world.engine.add_policy(info, NOW)
            elif verb == "update":
                world.engine.update_policy(info, NOW)
            elif verb == "delete":
                world.engine.delete_policy(PolicyId(info.selector, Dir.OUT, if_id), NOW)
            else:
                world.engine.flush_policies(0, NOW)
    world.check()
    for number in deaths:
        world.told.replace(number)
        world.check()
    run(world.sad, steps[half:])
    world.told.listen()
    world.check()


def test_a_larval_state_is_given_its_spi_later() -> None:
    """Of two that ALLOCSPI has left behind when no SPI was free."""
    world = World(3)
    world.engine.add_state(state_info(1), NOW)
    for pcpu in (None, 0):
        with suppress(XfrmError):
            world.sad.alloc_spi(state_info(0, pcpu=pcpu), 1, 1, NOW)
    world.told.listen()
    assert [state.spi for state in world.engine.states()].count(0) == 2
    world.check()
    world.sad.alloc_spi(state_info(0), 2, 2, NOW)
    world.told.listen()
    assert [state.spi for state in world.engine.states()].count(0) == 1
    world.check()


def test_homes() -> None:
    world = World(3)
    out, in_ = int(SaDir.OUT), int(SaDir.IN)
    wanted = {
        1: ({}, [(0, out), (1, in_)]),
        2: ({"dir": SaDir.OUT}, [(0, out)]),
        3: ({"dir": SaDir.IN}, [(1, in_)]),
        4: ({"dir": SaDir.OUT, "pcpu": 2}, [(2, out)]),
        5: ({"dir": SaDir.IN, "pcpu": 0}, [(0, in_)]),
        6: ({"dir": SaDir.OUT, "pcpu": 7}, [(0, out)]),  # a processor without a worker: nobody finds it
        7: ({"dir": SaDir.IN, "pcpu": 7}, [(1, in_)]),
    }
    for spi, (fields, homes) in wanted.items():
        assert world.homes(world.engine.add_state(state_info(spi, **fields), NOW)) == homes
    assert world.workers.homes._pins == {5: 0}
    twin = world.engine.add_state(state_info(5, dst="203.0.113.9", dir=SaDir.IN), NOW)
    assert world.homes(twin) == [(0, in_)], "all that comes with one SPI has one home"
    world.engine.delete_state(state_id(5), NOW)
    assert world.workers.homes._pins == {5: 0}
    world.engine.flush_states(0, NOW)
    assert world.workers.homes._pins == {} and not world.workers.homes._entries


def test_counters_of_all_workers_are_added_up_and_outlive_them() -> None:
    world = World(2)
    state = world.engine.add_state(state_info(), NOW)
    seals, opens = world.of_worker(0), world.of_worker(1)
    seals.bytes, seals.packets, seals.use_time, seals.lastused = 100, 2, NOW + 1, NOW + 5
    seals.sequence.last = 2
    opens.bytes, opens.packets, opens.use_time, opens.lastused = 10, 1, NOW + 2, NOW + 3
    opens.window.remember(9)
    opens.window.late += 3
    world.told.engines[1].stats[XfrmStat.IN_STATE_SEQ_ERROR] += 3
    for _ in range(2):  # told once
        world.workers.refresh()
        shown = state.snapshot()
        assert (shown.current.bytes, shown.current.packets, shown.current.use_time) == (110, 3, NOW + 1)
        assert (shown.lastused, shown.stats.replay_window, state.oseq, state.window.top) == (NOW + 5, 3, 2, 9)
        assert world.engine.stats[XfrmStat.IN_STATE_SEQ_ERROR] == 3
    world.told.replace(0)
    assert world.of_worker(0).packets == 3 and world.of_worker(0).oseq >= 2
    world.of_worker(0).packets += 4
    world.workers.refresh()
    assert state.packets == 7


def test_a_limit_reached_in_a_worker_is_reached_everywhere() -> None:
    world = World(2)
    state = world.engine.add_state(state_info(limits=Limits(soft_packets=1, hard_packets=3)), NOW)
    sealing = world.of_worker(0)
    world.heard.clear()
    sealing.packets = 1
    sealing.check_limits(NOW, XfrmStat.OUT_STATE_EXPIRED)
    world.told.listen()
    assert state.dying and world.of_worker(1).dying and state.packets == 1
    sealing.packets = 3
    with pytest.raises(Exception, match="hard limit"):
        sealing.check_limits(NOW, XfrmStat.OUT_STATE_EXPIRED)
    assert not list(world.told.engines[0].states()), "at once where it was reached"
    world.told.listen()
    assert not list(world.engine.states()) and not list(world.told.engines[1].states())
    assert [(type(e), getattr(e, "hard", None)) for e in world.heard] == [
        (events.StateExpired, False), (events.StateExpired, True)
    ]  # fmt: skip
    assert isinstance(world.heard[-1], events.StateExpired) and world.heard[-1].info.current.packets == 3


def test_numbers_set_by_request_are_those_of_the_worker() -> None:
    world = World(2)
    state = world.engine.add_state(state_info(), NOW)
    world.of_worker(0).sequence.reserve(500)
    world.sad.set_replay(state_id(), etimer_thresh=7)
    assert world.of_worker(0).oseq == 500, "thresholds say nothing of numbers"
    world.sad.set_replay(state_id(), replay=Replay(1000, 70, 1))
    assert (world.of_worker(0).oseq, world.of_worker(1).window.top) == (1000, 70)
    world.workers.refresh()
    assert state.oseq == 1000
    world.told.replace(0)
    assert world.of_worker(0).oseq >= 1000


def test_who_only_opens_cannot_seal() -> None:
    world = World(2)
    world.engine.add_state(state_info(), NOW)
    assert world.of_worker(1).sequence.reserve(1)[1] == 0
    with pytest.raises(Exception, match="exhausted"):
        world.of_worker(1).sequence.next()


def test_one_acquire_whoever_needs_it() -> None:
    world = World(2)
    world.engine.acquire_listeners = 1
    world.workers.tell_listeners()
    policy = world.engine.add_policy(policy_info(templates=(template(),), flags=POLICY_CPU_ACQUIRE), NOW)
    world.engine.add_state(state_info(), NOW)
    sad = world.told.engines[0].sad
    world.heard.clear()
    for cpu in (0, 1, 0, 1):
        sad.cpu = cpu
        assert sad.resolve(template(), policy, flow(), NOW) is world.of_worker(0)
        world.told.listen()
    acquires = [event.state for event in world.heard if isinstance(event, events.Acquire)]
    assert [(acquire.pcpu, acquire.seq) for acquire in acquires] == [(0, 1), (1, 2)]
    assert sorted(s.info.pcpu for s in sad.dump() if not s.spi and s.info.pcpu is not None) == [0, 1]
    world.check()
    for acquire in acquires:
        world.engine.add_state(
            state_info(0x2000 + acquire.seq, seq=acquire.seq, pcpu=acquire.pcpu, dir=SaDir.OUT), NOW
        )
    world.check()
    assert all(state.spi for state in world.engine.states())


def test_so_many_workers_may_seal_with_one_key() -> None:
    world = World(2)
    state = world.engine.add_state(state_info(), NOW)
    state.iv_counter = (1 << 64) - IV_RANGE
    world.told.replace(0)
    assert world.of_worker(0).dir == SaDir.OUT
    world.told.replace(0)
    assert world.of_worker(0).dir == SaDir.IN, "none is left: nothing leaves"
