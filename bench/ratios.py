"""The figures of test_datapath.py on a machine that others use, too: how many times the bare cipher call, in CPU time.

    python -m bench.ratios [--size 1400] [--rounds 60]

Everything takes turns, so that what slows the machine down for a while slows all of it down. A round gives one ratio
for each row, to the bare call of the same round; printed is the median over the rounds, with the quartiles.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
from collections.abc import Callable
from functools import partial
from time import process_time
from typing import Any, NamedTuple

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bench.test_datapath import AADS, COUNT, NONCES, again, datagrams, info, inner_packets, padded, super_packet
from tests.core.pair import KEY, NOW, Pair
from xfrmi.core import esp
from xfrmi.core.burst import open_burst, seal_burst
from xfrmi.core.gso import segment
from xfrmi.core.lone import opener, sealer
from xfrmi.core.seal_train import seal_train
from xfrmi.core.state import State
from xfrmi.core.train import Arrived, Block
from xfrmi.wire.ip import split_outer
from xfrmi.wire.vnet import GSO_TCPV4


class Row(NamedTuple):
    work: Callable[[], Any]
    packets: int = COUNT
    setup: Callable[[], None] = lambda: None


class Cost(NamedTuple):
    """CPU time of one row: microseconds a packet, and how many times the bare call of the same round."""

    name: str
    microseconds: float
    low: float
    times: float
    """Median over the rounds; low and high are the quartiles."""
    high: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1400, help="of inner packets, IP header included")
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    print(f"{'CPU time, inner packets of ' + str(options.size) + ' bytes':44}{'us':>8}{'x bare':>9}{'quartiles':>16}")
    for cost in costs(options.size, options.rounds):
        quartiles = f"{cost.low:.2f} - {cost.high:.2f}"
        print(f"{cost.name:44}{cost.microseconds:8.2f}{cost.times:9.2f}{quartiles:>16}")
    return 0


def costs(size: int, rounds: int, after_round: Callable[[], None] = lambda: None) -> list[Cost]:
    """All rows, in turns."""
    rows = {**sealing(size), **opening(size)}
    times: dict[str, list[float]] = {name: [] for name in rows}
    gc.disable()
    try:
        for _ in range(rounds):
            for name, row in rows.items():
                times[name].append(timed(row))
            after_round()
    finally:
        gc.enable()
    found = []
    floor = ""
    for name, spent in times.items():
        floor = name if name.startswith("AESGCM") else floor
        ratios = [mine / bare for mine, bare in zip(spent, times[floor], strict=True)]
        low, middle, high = statistics.quantiles(ratios)
        found.append(Cost(name, statistics.median(spent), low, middle, high))
    return found


def timed(row: Row) -> float:
    """Microseconds a packet."""
    repeats = 3 if row.packets > 1 else 40
    total = 0.0
    for _ in range(repeats):
        row.setup()
        start = process_time()
        row.work()
        total += process_time() - start
    return total / repeats / row.packets * 1e6


def sealing(size: int) -> dict[str, Row]:
    cipher, plaintexts = AESGCM(KEY[:16]), padded(size)
    packets, packet = inner_packets(size), super_packet(size)
    state, pair = State(info()), Pair()
    output = pair.left.engine.output
    return {
        "AESGCM.encrypt": Row(lambda: list(map(cipher.encrypt, NONCES, plaintexts, AADS))),
        "esp.seal": Row(lambda: [esp.seal(state, packet, NOW) for packet in packets]),
        "lone.sealer": Row(lambda: [sealer(state)(state, packet, NOW) for packet in packets]),
        "burst.seal_burst": Row(lambda: seal_burst(state, packets, NOW)),
        "seal_train, a super-packet": Row(lambda: seal_train(state, [packet], NOW)),
        "seal_train, four super-packets": Row(lambda: seal_train(state, [packet] * 4, NOW), 4 * COUNT),
        "the engine's output": Row(lambda: output(pair.xfrm_left, packets, NOW)),
        "the engine's output, super-packet": Row(lambda: output(pair.xfrm_left, [packet], NOW)),
        "the engine's output, four super-packets": Row(lambda: output(pair.xfrm_left, [packet] * 4, NOW), 4 * COUNT),
        "the engine's output, a lone packet": Row(lambda: output(pair.xfrm_left, packets[:1], NOW), 1),
    }


def opening(size: int) -> dict[str, Row]:
    cipher = AESGCM(KEY[:16])
    ciphertexts = list(map(cipher.encrypt, NONCES, padded(size), AADS))
    state, sealed = State(info()), datagrams(size)
    mixed, of_mixed, came = receiver(inner_packets(size))
    stream, of_stream, together = receiver(segment(super_packet(size)), frozenset((GSO_TCPV4,)))
    trains = {}
    for word, count in (("a train", 1), ("four runs in one train", 4)):
        there, of_train, train = receiver([super_packet(size)] * count, frozenset((GSO_TCPV4,)))
        arrived, refill = as_arrived(train)
        trains[word] = there, arrived, count * COUNT, partial(both, again(of_train), refill)
    return {
        "AESGCM.decrypt": Row(lambda: list(map(cipher.decrypt, NONCES, ciphertexts, AADS))),
        "esp.open": Row(lambda: [esp.open(state, *datagram, NOW) for datagram in sealed], setup=again(state)),
        "lone.opener": Row(lambda: [opener(state)(state, *datagram, NOW) for datagram in sealed], setup=again(state)),
        "burst.open_burst": Row(lambda: open_burst(state, sealed, NOW), setup=again(state)),
        "the engine's input": Row(lambda: mixed.right.engine.input(came, NOW), setup=again(of_mixed)),
        "the engine's input, a stream put together": Row(
            lambda: stream.right.engine.input(together, NOW), setup=again(of_stream)
        ),
        **{
            f"the engine's input, {word}": Row(partial(there.right.engine.input, [arrived], NOW), count, setup)
            for word, (there, arrived, count, setup) in trains.items()
        },
        "the engine's input, a lone packet": Row(
            lambda: mixed.right.engine.input(came[:1], NOW), 1, setup=again(of_mixed)
        ),
    }


def as_arrived(came: list[Any]) -> tuple[Arrived, Callable[[], None]]:
    """These datagrams as a socket receives them together, and what puts them there again: they are opened in place."""
    header, size = came[0][0], len(came[0][1])
    whole = np.frombuffer(b"".join(esp for _, esp in came), np.uint8).reshape(len(came), size)
    memory = whole.copy()
    flat = memory.reshape(-1).data
    rows = [flat[at : at + size] for at in range(0, len(flat), size)]
    return Arrived(bytes(header), Block(memory, rows), 0, len(came)), partial(np.copyto, memory, whole)


def both(*steps: Callable[[], None]) -> None:
    for step in steps:
        step()


def receiver(packets: list[Any], takes: frozenset[int] = frozenset()) -> tuple[Pair, State, list[Any]]:
    """(two engines, the state that receives, what it receives)."""
    pair = Pair()
    pair.xfrm_right.takes = takes
    came = [split_outer(packet) for packet in pair.emit(*packets)]
    state = pair.right.engine.sad.lookup_input(came[0][0][16:20], 0x1000, 50, 0)
    assert state is not None
    return pair, state, came


if __name__ == "__main__":
    sys.exit(main())
