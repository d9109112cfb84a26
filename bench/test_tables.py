"""Cost against table size: a lookup among 100,000 states costs what a lookup among one does; so do policies and if_ids.

    make bench BENCHARGS="bench/test_tables.py"

The last test prints resident memory per state. Nothing here asserts a time.
"""

from __future__ import annotations

import gc
import os
import struct
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from xfrmi.core import Engine
from xfrmi.wire.flow import flow_of
from xfrmi.wire.xfrm_const import IPPROTO_ESP, Dir, Mode
from xfrmi.wire.xfrm_types import Algorithm, PolicyInfo, Selector, StateInfo, Template

KEY = bytes(range(20))
PACKET = bytes.fromhex("450000540000400040010000" "0a000001" "0a000002" "0800000000000000") + bytes(56)
NOW = 1_700_000_000.0


def state_info(number: int, if_id: int) -> StateInfo:
    return StateInfo(
        src=b"\xc0\x00\x02\x01",
        dst=struct.pack("!I", 0x0A000000 + number % 250),
        spi=0x1000 + number,
        mode=Mode.TUNNEL,
        reqid=1,
        if_id=if_id,
        aead=Algorithm("rfc4106(gcm(aes))", KEY, 128),
    )


def policy_info(if_id: int, number: int) -> PolicyInfo:
    template = Template(b"\xc0\x00\x02\x01", struct.pack("!I", 0x0A000000 + number % 250), reqid=1)
    return PolicyInfo(Selector.parse("0.0.0.0/0"), Dir.OUT, if_id, (template,))


def engine_with(states: int, policies: int = 1) -> Engine:
    engine = Engine()
    for number in range(states):
        engine.add_state(state_info(number, number % policies + 1), NOW)
    for number in range(policies):
        engine.add_policy(policy_info(number + 1, number), NOW)
    return engine


def aligned(number: int) -> str:
    """So that rows sort by size."""
    return f"{number:7,}"


@pytest.mark.benchmark(group="state of an arriving packet, among so many states")
@pytest.mark.parametrize("states", [1, 100, 10_000, 100_000], ids=aligned)
def test_input_lookup(benchmark: Any, states: int) -> None:
    engine = engine_with(states)
    wanted = state_info(states // 2, 1)
    found = benchmark(engine.sad.lookup_input, wanted.dst, wanted.spi, IPPROTO_ESP, 0)
    assert found is not None and found.spi == wanted.spi


@pytest.mark.benchmark(group="state for a template, among so many states")
@pytest.mark.parametrize("states", [1, 100, 10_000, 100_000], ids=aligned)
def test_output_resolve(benchmark: Any, states: int) -> None:
    """Template to state, the flow cache left aside. Every state has its own if_id and policy, up to 10,000."""
    engine = engine_with(states, policies=min(states, 10_000))
    flow = flow_of(PACKET)
    policy = engine.spd.lookup_all(Dir.OUT, 1, flow, 0, 0)[0]
    state = benchmark(engine.sad.resolve, policy.templates[0], policy, flow, NOW)
    assert state is not None and state.if_id == 1


@pytest.mark.benchmark(group="policy of a flow, among so many if_ids")
@pytest.mark.parametrize("if_ids", [1, 100, 10_000], ids=aligned)
def test_policy_lookup(benchmark: Any, if_ids: int) -> None:
    engine = engine_with(0, policies=if_ids)
    flow = flow_of(PACKET)
    found = benchmark(engine.spd.lookup_all, Dir.OUT, if_ids // 2 + 1, flow, 0, 0)
    assert found and found[0].if_id == if_ids // 2 + 1


@pytest.mark.benchmark(group="output of a lone packet, among so many flows")
@pytest.mark.parametrize("flows", [1, 100, 1_000], ids=aligned)
def test_output_of_cached_flows(benchmark: Any, flows: int) -> None:
    """One packet through the whole of output, its flow already decided."""
    engine = engine_with(1)
    interface = engine.add_interface("xfrm0", if_id=1)
    packets = [PACKET[:16] + struct.pack("!I", 0x0B000000 + n) + PACKET[20:] for n in range(flows)]
    engine.output(interface, packets, NOW)
    turn = count()
    benchmark(lambda: engine.output(interface, [packets[next(turn) % flows]], NOW))
    assert interface.tx_errors == 0


def resident() -> int:
    """Bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.benchmark(group="adding 100,000 states")
def test_memory_of_100000_states(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    gc.collect()
    before = resident()
    engine = benchmark.pedantic(engine_with, args=(100_000,), rounds=1, iterations=1)
    gc.collect()
    each = (resident() - before) / 100_000
    with capsys.disabled():
        print(f"\n100,000 states: {each:.0f} bytes each (resident, ciphers not keyed yet)")
    assert len(engine.sad) == 100_000
