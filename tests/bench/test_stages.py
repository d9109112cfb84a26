"""Where the time goes: the clocks, and the arithmetic that takes them off again."""

from __future__ import annotations

from time import thread_time

import pytest

from bench.stage_names import BARE, PACKETS, SAMPLING, STAGES
from bench.staged import BareCalls, Clock
from bench.stages import REST, TOTAL, Sums, costs, measured, sections
from tests.netns import in_netns, need_tun


def spin(seconds: float) -> None:
    end = thread_time() + seconds
    while thread_time() < end:
        pass


def test_a_stage_inside_another_counts_once() -> None:
    clock = Clock()
    send = clock.clocked("send", lambda: spin(0.02))
    output = clock.clocked("output", lambda: (spin(0.01), send(), send()))
    output()
    assert clock.calls["output"] == 1 and clock.calls["send"] == 2
    assert clock.seconds["send"] >= 0.04
    assert 0.01 <= clock.seconds["output"] < clock.seconds["send"]
    assert clock.calls["read TUN"] == 0 and clock.seconds["read TUN"] == 0  # calibration leaves no trace


def test_a_clock_lets_results_and_exceptions_through() -> None:
    clock = Clock()
    assert clock.clocked("send", lambda one, *, two: one + two)(1, two=2) == 3
    with pytest.raises(ZeroDivisionError):
        clock.clocked("send", lambda: 1 // 0)()
    assert clock.calls["send"] == 2


def test_bare_calls_are_made_beside_the_engine() -> None:
    clock = Clock()
    call = BareCalls(clock).beside(lambda number: number)
    assert [call(n) for n in range(33)] == list(range(33))
    assert [clock.calls[name] for name in (*BARE, SAMPLING)] == [2 * PACKETS, 2 * PACKETS, 2]
    assert clock.seconds[SAMPLING] > sum(clock.seconds[name] for name in BARE) > 0


def test_what_clocks_and_bare_calls_cost_is_taken_off() -> None:
    names = [*STAGES, *BARE, SAMPLING]
    before = Sums(dict.fromkeys(names, 1.0), dict.fromkeys(names, 100), 0.001, 10.0)
    seconds, calls = dict(before.seconds), dict(before.calls)
    seconds["output"] += 0.5
    calls["output"] += 100
    seconds[BARE[0]] += 0.2
    calls[BARE[0]] += 200
    seconds[SAMPLING] += 0.4
    found = costs(before, Sums(seconds, calls, 0.001, 12.0), packets=1000)
    assert found.microseconds["output"] == pytest.approx(450)  # 0.5 s without half of 100 clocks
    assert found.microseconds["send"] == 0
    assert found.microseconds[TOTAL] == pytest.approx(1500)  # 2 s without the sampling and 100 clocks
    assert found.microseconds[REST] == pytest.approx(1050)
    assert found.microseconds[BARE[0]] == pytest.approx(1000)
    assert found.packets == {"output": 10}


@in_netns
def test_two_daemons_tell_their_stages() -> None:
    need_tun()
    found = measured(rounds=1, seconds=0.2)
    assert set(found) == {"xfrmi UDP", "xfrmi raw"}
    for ((sender, receiver),) in found.values():
        assert min(sender.microseconds[stage] for stage in ("read TUN", "output", "send")) > 0
        assert min(receiver.microseconds[stage] for stage in ("receive", "input", "write TUN")) > 0
        assert sender.microseconds[TOTAL] > sender.microseconds["output"]
    (section,) = sections(found)
    assert [row[0] for row in section.rows] == [*STAGES, REST, TOTAL, *BARE]
    assert len(section.charts) == 4
