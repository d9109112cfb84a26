"""Cost against table size: with 100,000 states a packet costs what it costs with one; so with policies, if_ids, flows.

    make bench BENCHARGS="micro --pytest '-k tables'"

First the lookups by themselves, then the whole of output and input among large tables, for a packet of a known flow and
for the first packet of a flow. The last test prints resident memory per state. Nothing here asserts a time.
"""

from __future__ import annotations

import functools
import gc
import os
import struct
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from xfrmi.core import Engine, esp
from xfrmi.core.interface import Interface
from xfrmi.core.state import State
from xfrmi.wire.flow import flow_of
from xfrmi.wire.ip import ipv4_header_checksum, split_outer
from xfrmi.wire.xfrm_const import IPPROTO_ESP, Dir, Mode
from xfrmi.wire.xfrm_types import Algorithm, PolicyInfo, Selector, StateInfo, Template

KEY = bytes(range(20))
PACKET = bytes.fromhex("450000540000400040010000 0a000001 0a000002 0800000000000000") + bytes(56)
NOW = 1_700_000_000.0
BURST = 40
MANY = 1 << 14
"""Packets made in advance, of a flow each: more than an interface remembers, so that each is the first of its flow."""
STATES = [1, 100, 10_000, 100_000]
IF_IDS = [1, 100, 10_000]
FLOWS = [1, 100, 1_000]


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


def policy_info(if_id: int, number: int, direction: Dir = Dir.OUT, destination: str = "0.0.0.0/0") -> PolicyInfo:
    template = Template(b"\xc0\x00\x02\x01", struct.pack("!I", 0x0A000000 + number % 250), reqid=1)
    return PolicyInfo(Selector.parse(dst=destination), direction, if_id, (template,))


def engine_with(states: int, policies: int = 1) -> Engine:
    """State and policy number n have if_id n + 1; states beyond the policies begin at 1 again."""
    engine = Engine()
    for number in range(states):
        engine.add_state(state_info(number, number % policies + 1), NOW)
    for number in range(policies):
        engine.add_policy(policy_info(number + 1, number), NOW)
    return engine


@functools.cache
def crowded(states: int, if_ids: int) -> tuple[Engine, Interface, State]:
    """An engine with so many, policies for both directions and a device for each if_id; the device and a state of the
    middle one. Made once: to make the largest takes longer than all that is measured with it."""
    engine = engine_with(states, if_ids)
    for number in range(if_ids):
        engine.add_policy(policy_info(number + 1, number, Dir.FWD), NOW)
        engine.add_interface(f"xfrm{number}", if_id=number + 1)
    middle = if_ids // 2
    state = engine.sad.lookup_input(state_info(middle, 1).dst, state_info(middle, 1).spi, IPPROTO_ESP, 0)
    assert state is not None and state.if_id == middle + 1
    return engine, engine.interfaces[f"xfrm{middle}"], state


@functools.cache
def packets_of(flows: int) -> list[bytes]:
    """One of each."""
    heads = (PACKET[:16] + struct.pack("!I", 0x0B000000 + n) + PACKET[20:] for n in range(flows))
    return [head[:10] + struct.pack("!H", ipv4_header_checksum(head)) + head[12:] for head in heads]


def sealed(state: State, flows: int) -> list[Any]:
    """Their datagrams, by a state like this one: there is no replay window, so they may come again and again."""
    twin = State(state.info)
    return [split_outer(bytes(esp.seal(twin, packet, NOW))) for packet in packets_of(flows)]


def aligned(number: int) -> str:
    """So that rows sort by size."""
    return f"{number:7,}"


def in_turn(things: list[Any], many: int = 1) -> Any:
    """A call that gives the next so many of them, round and round."""
    rounds = [(things * (many // len(things) + 2))[at : at + many] for at in range(len(things))]
    turn = count(0, many)
    return lambda: rounds[next(turn) % len(things)]


# Lookups -----------------------------------------------------------------------------------------------------------


@pytest.mark.benchmark(group="state of an arriving packet, among so many states")
@pytest.mark.parametrize("states", STATES, ids=aligned)
def test_input_lookup(benchmark: Any, states: int) -> None:
    engine, _, wanted = crowded(states, min(states, 10_000))
    found = benchmark(engine.sad.lookup_input, wanted.info.dst, wanted.info.spi, IPPROTO_ESP, 0)
    assert found is wanted


@pytest.mark.benchmark(group="state for a template, among so many states")
@pytest.mark.parametrize("states", STATES, ids=aligned)
def test_output_resolve(benchmark: Any, states: int) -> None:
    """Template to state, the flow cache left aside. Every state has its own if_id and policy, up to 10,000."""
    engine, interface, _ = crowded(states, min(states, 10_000))
    flow = flow_of(PACKET)
    policy = engine.spd.lookup_all(Dir.OUT, interface.if_id, flow, 0, 0)[0]
    state = benchmark(engine.sad.resolve, policy.templates[0], policy, flow, NOW)
    assert state is not None and state.if_id == interface.if_id


@pytest.mark.benchmark(group="policy of a flow, among so many if_ids")
@pytest.mark.parametrize("if_ids", IF_IDS, ids=aligned)
def test_policy_lookup(benchmark: Any, if_ids: int) -> None:
    engine, interface, _ = crowded(if_ids, if_ids)
    flow = flow_of(PACKET)
    found = benchmark(engine.spd.lookup_all, Dir.OUT, interface.if_id, flow, 0, 0)
    assert found and found[0].if_id == interface.if_id


@pytest.mark.benchmark(group="policy of a flow, among so many policies of one if_id")
@pytest.mark.parametrize("policies", IF_IDS, ids=aligned)
def test_policy_lookup_in_one_if_id(benchmark: Any, policies: int) -> None:
    """Each for a host of its own; the flow's is the one in the middle."""
    engine = Engine()
    for number in range(policies):
        engine.add_policy(policy_info(1, 0, destination=f"10.9.{number // 256}.{number % 256}"), NOW)
    middle = policies // 2
    flow = flow_of(PACKET[:16] + bytes((10, 9, middle // 256, middle % 256)) + PACKET[20:])
    found = benchmark(engine.spd.lookup_all, Dir.OUT, 1, flow, 0, 0)
    assert len(found) == 1


# The whole of it ---------------------------------------------------------------------------------------------------


def run_output(benchmark: Any, engine: Engine, interface: Interface, flows: int, many: int = 1) -> None:
    """Of so many flows, all decided about before."""
    following = in_turn(packets_of(flows), many)
    engine.output(interface, packets_of(flows), NOW)
    outgoing, replies = benchmark(lambda: engine.output(interface, following(), NOW))
    assert sum(len(each.packets) for each in outgoing) == many and not replies


def run_input(benchmark: Any, engine: Engine, interface: Interface, state: State, flows: int, many: int = 1) -> None:
    came = sealed(state, flows)
    following = in_turn(came, many)
    engine.input(came, NOW)
    delivered = benchmark(lambda: engine.input(following(), NOW))
    assert {device.name for device, _ in delivered} == {interface.name}
    assert sum(len(packets) for _, packets in delivered) == many


@pytest.mark.benchmark(group="output of a lone packet, among so many states")
@pytest.mark.parametrize("states", STATES, ids=aligned)
def test_output_among_states(benchmark: Any, states: int) -> None:
    """The flow is known; up to 10,000 if_ids, policies of each and devices."""
    engine, interface, _ = crowded(states, min(states, 10_000))
    run_output(benchmark, engine, interface, 1)


@pytest.mark.benchmark(group="input of a lone packet, among so many states")
@pytest.mark.parametrize("states", STATES, ids=aligned)
def test_input_among_states(benchmark: Any, states: int) -> None:
    run_input(benchmark, *crowded(states, min(states, 10_000)), flows=1)


@pytest.mark.benchmark(group="output of the first packet of a flow, among so many states")
@pytest.mark.parametrize("states", STATES, ids=aligned)
def test_first_output_among_states(benchmark: Any, states: int) -> None:
    engine, interface, _ = crowded(states, min(states, 10_000))
    following = in_turn(packets_of(MANY))
    outgoing, replies = benchmark(lambda: engine.output(interface, following(), NOW))
    assert len(outgoing) == 1 and not replies


@pytest.mark.benchmark(group="input of the first packet of a flow, among so many states")
@pytest.mark.parametrize("states", STATES, ids=aligned)
def test_first_input_among_states(benchmark: Any, states: int) -> None:
    engine, interface, state = crowded(states, min(states, 10_000))
    following = in_turn(sealed(state, MANY))
    delivered = benchmark(lambda: engine.input(following(), NOW))
    assert delivered[0][0] is interface


@pytest.mark.benchmark(group="output of a lone packet, among so many flows")
@pytest.mark.parametrize("flows", FLOWS, ids=aligned)
def test_output_of_cached_flows(benchmark: Any, flows: int) -> None:
    engine, interface, _ = crowded(1, 1)
    run_output(benchmark, engine, interface, flows)


@pytest.mark.benchmark(group="input of a lone packet, among so many flows")
@pytest.mark.parametrize("flows", FLOWS, ids=aligned)
def test_input_of_cached_flows(benchmark: Any, flows: int) -> None:
    run_input(benchmark, *crowded(1, 1), flows=flows)


@pytest.mark.benchmark(group="output of 40 packets, of so many flows in turn")
@pytest.mark.parametrize("flows", FLOWS, ids=aligned)
def test_output_burst_of_flows(benchmark: Any, flows: int) -> None:
    engine, interface, _ = crowded(1, 1)
    run_output(benchmark, engine, interface, flows, BURST)


@pytest.mark.benchmark(group="input of 40 packets, of so many flows in turn")
@pytest.mark.parametrize("flows", FLOWS, ids=aligned)
def test_input_burst_of_flows(benchmark: Any, flows: int) -> None:
    run_input(benchmark, *crowded(1, 1), flows=flows, many=BURST)


# Memory ------------------------------------------------------------------------------------------------------------


def resident() -> int:
    """Bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.benchmark(group="adding 100,000 states")
def test_memory_of_100000_states(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    crowded.cache_clear()
    gc.collect()
    before = resident()
    engine = benchmark.pedantic(engine_with, args=(100_000,), rounds=1, iterations=1)
    gc.collect()
    each = (resident() - before) / 100_000
    benchmark.extra_info["bytes a state"] = round(each)
    with capsys.disabled():
        print(f"\n100,000 states: {each:.0f} bytes each (resident, ciphers not keyed yet)")
    assert len(engine.sad) == 100_000
