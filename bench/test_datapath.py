"""What a packet costs, against what its encryption alone costs in the same run.

    make bench BENCHARGS="bench/test_datapath.py"

Every row does the same 40 packets a call, as much as a full TUN read holds, so the numbers in parentheses are ratios
between rows; only the rows called `lone` do a single packet. Sizes are those of the inner IP packet. Nothing here
asserts a time. The summary after the tables gives microseconds a packet (conftest.py).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.core.packets import udp
from tests.core.pair import INNER, KEY, NOW, OUTER, Pair, tunnel_state
from xfrmi.core import esp
from xfrmi.core.burst import open_burst, seal_burst
from xfrmi.core.gso import segment
from xfrmi.core.replay import make_window
from xfrmi.core.seal_train import seal_train
from xfrmi.core.state import State
from xfrmi.wire.esp import pad_length, trailer
from xfrmi.wire.flow import flow_key
from xfrmi.wire.ip import pseudo_header_sum, split_outer
from xfrmi.wire.vnet import GSO_TCPV4, NEEDS_CSUM, VNET_HDR, SuperPacket, parse
from xfrmi.wire.xfrm_const import IPPROTO_TCP, STATE_ESN
from xfrmi.wire.xfrm_types import ReplayEsn, StateInfo

COUNT = 40
SIZES = [64, 512, 1400]
sizes = pytest.mark.parametrize("size", SIZES)


def name(benchmark: Any, group: str, row: str, size: int | None = None, packets: int = COUNT) -> None:
    """Where the result goes: table, row, column, and how many packets a call does."""
    benchmark.group = group if size is None else f"{group}, {packets} x {size:4} B"
    benchmark.name = row
    benchmark.extra_info.update(table=group, size=size, packets=packets)


def inner_packets(size: int, count: int = COUNT) -> list[bytes]:
    return [udp(*INNER[4], bytes(size - 28)) for _ in range(count)]


def info() -> StateInfo:
    return tunnel_state(*OUTER[4], spi=0x1000)


def again(state: State) -> Callable[[], None]:
    """Makes the state forget what it has seen: the same packets can be opened once more."""

    def forget() -> None:
        state.window = make_window(state.info)

    return forget


def run_anew(benchmark: Any, work: Callable[[], Any], setup: Callable[[], None]) -> Any:
    """Like benchmark(work), with an untimed `setup` before every call."""
    return benchmark.pedantic(work, setup=setup, rounds=2000, warmup_rounds=20)


# ESP ---------------------------------------------------------------------------------------------------------------


NONCES = [n.to_bytes(12, "big") for n in range(COUNT)]
AADS = [n.to_bytes(8, "big") for n in range(COUNT)]


def padded(size: int) -> list[bytes]:
    return [packet + trailer(pad_length(size, 4), 4) for packet in inner_packets(size)]


@sizes
def test_cipher_seals(benchmark: Any, size: int) -> None:
    """The floor: `cryptography` alone, on plaintexts that are padded already."""
    name(benchmark, "seal", "AESGCM alone", size)
    cipher, plaintexts = AESGCM(KEY[:16]), padded(size)
    sealed = benchmark(lambda: list(map(cipher.encrypt, NONCES, plaintexts, AADS)))
    assert len(sealed) == COUNT


@sizes
def test_seal_scalar(benchmark: Any, size: int) -> None:
    name(benchmark, "seal", "scalar", size)
    state, packets = State(info()), inner_packets(size)
    sealed = benchmark(lambda: [esp.seal(state, packet, NOW) for packet in packets])
    assert len(sealed) == COUNT


@sizes
def test_seal_burst(benchmark: Any, size: int) -> None:
    name(benchmark, "seal", "burst", size)
    state, packets = State(info()), inner_packets(size)
    sealed, drops = benchmark(seal_burst, state, packets, NOW)
    assert len(sealed) == COUNT and not drops


@sizes
def test_seal_super_packet(benchmark: Any, size: int) -> None:
    name(benchmark, "seal", "super-packet", size)
    state, packet = State(info()), super_packet(size)
    sealed = benchmark(seal_train, state, [packet], NOW)
    assert len(sealed) == COUNT


@sizes
def test_cipher_opens(benchmark: Any, size: int) -> None:
    name(benchmark, "open", "AESGCM alone", size)
    cipher, plaintexts = AESGCM(KEY[:16]), padded(size)
    ciphertexts = list(map(cipher.encrypt, NONCES, plaintexts, AADS))
    opened = benchmark(lambda: list(map(cipher.decrypt, NONCES, ciphertexts, AADS)))
    assert opened == plaintexts


def datagrams(size: int) -> list[Any]:
    state = State(info())
    return [split_outer(bytes(esp.seal(state, packet, NOW))) for packet in inner_packets(size)]


@sizes
def test_open_scalar(benchmark: Any, size: int) -> None:
    name(benchmark, "open", "scalar", size)
    state, sealed = State(info()), datagrams(size)
    opened = run_anew(benchmark, lambda: [esp.open(state, *datagram, NOW) for datagram in sealed], again(state))
    assert [bytes(packet) for packet in opened] == inner_packets(size)


@sizes
def test_open_burst(benchmark: Any, size: int) -> None:
    name(benchmark, "open", "burst", size)
    state, sealed = State(info()), datagrams(size)
    opened, drops = run_anew(benchmark, lambda: open_burst(state, sealed, NOW), again(state))
    assert [bytes(packet) for packet in opened] == inner_packets(size) and not drops


# The whole engine --------------------------------------------------------------------------------------------------


def super_packet(size: int) -> SuperPacket:
    """COUNT segments of `size` bytes of one TCP flow, as the TUN hands them over."""
    payload = COUNT * (size - 40)
    src, dst = bytes([198, 51, 100, 1]), bytes([198, 51, 100, 2])
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40 + payload, 1, 0x4000, 64, IPPROTO_TCP, 0, src, dst)
    partial = pseudo_header_sum(src + dst, IPPROTO_TCP, 20 + payload) % 0xFFFF
    tcp = struct.pack("!HHIIBBHHH", 40001, 40002, 1, 1, 0x50, 0x10, 1000, partial, 0)
    head = VNET_HDR.pack(NEEDS_CSUM, GSO_TCPV4, 0, size - 40, 20, 16)
    packet = parse(memoryview(bytearray(head + ip + tcp + bytes(payload))))
    assert isinstance(packet, SuperPacket) and packet.segments == COUNT
    return packet


@sizes
def test_output_of_a_burst(benchmark: Any, size: int) -> None:
    name(benchmark, "engine", "output, burst of 40", size)
    pair, packets = Pair(), inner_packets(size)
    outgoing, replies = benchmark(pair.left.engine.output, pair.xfrm_left, packets, NOW)
    assert sum(len(group.packets) for group in outgoing) == COUNT and not replies


@sizes
def test_output_of_a_super_packet(benchmark: Any, size: int) -> None:
    """Segmentation included: headers, checksums, TCP sequence numbers."""
    name(benchmark, "engine", "output, super-packet of 40", size)
    pair, packet = Pair(), super_packet(size)
    outgoing, replies = benchmark(pair.left.engine.output, pair.xfrm_left, [packet], NOW)
    assert sum(len(group.packets) for group in outgoing) == COUNT and not replies


@sizes
def test_input_of_a_burst(benchmark: Any, size: int) -> None:
    name(benchmark, "engine", "input, burst of 40", size)
    input_of(benchmark, inner_packets(size))


@sizes
def test_input_of_a_stream(benchmark: Any, size: int) -> None:
    """What arrives is put together for a TUN that takes super-packets, checksums verified on the way."""
    name(benchmark, "engine", "input, stream of 40, together", size)
    input_of(benchmark, [bytes(piece) for piece in segment(super_packet(size))], frozenset((GSO_TCPV4,)))


def input_of(benchmark: Any, packets: list[bytes], takes: frozenset[int] = frozenset()) -> None:
    pair = Pair()
    pair.xfrm_right.takes = takes
    sealed = [split_outer(packet) for packet in pair.emit(*packets)]
    engine = pair.right.engine
    state = engine.sad.lookup_input(sealed[0][0][16:20], 0x1000, 50, 0)
    delivered = run_anew(benchmark, lambda: engine.input(sealed, NOW), again(state))
    pieces = [segment(p) if isinstance(p, SuperPacket) else [p] for _, group in delivered for p in group]
    assert [bytes(piece) for packet in pieces for piece in packet] == packets


@sizes
def test_output_of_a_lone_packet(benchmark: Any, size: int) -> None:
    name(benchmark, "engine", "output, lone", size, packets=1)
    pair, packets = Pair(), inner_packets(size, 1)
    outgoing, _ = benchmark(pair.left.engine.output, pair.xfrm_left, packets, NOW)
    assert len(outgoing[0].packets) == 1


@sizes
def test_input_of_a_lone_packet(benchmark: Any, size: int) -> None:
    name(benchmark, "engine", "input, lone", size, packets=1)
    input_of(benchmark, inner_packets(size, 1))


# Steps on the way --------------------------------------------------------------------------------------------------

FRAGMENT = bytearray(inner_packets(64, 1)[0])
FRAGMENT[6:8] = b"\x20\x10"
CHAIN = bytes([0, 0, 0, 0, 0, 0, 0, 0])
EXTENDED = bytearray(udp(*INNER[6], bytes(56)))
EXTENDED[6], EXTENDED[40:40] = 60, bytes([17, *CHAIN[1:]])
FLOWS = {
    "IPv4": inner_packets(64, 1)[0],
    "IPv4 fragment": bytes(FRAGMENT),
    "IPv6": udp(*INNER[6], bytes(56)),
    "IPv6, one extension header": bytes(EXTENDED),
}


@pytest.mark.parametrize("row", FLOWS)
def test_flow_key(benchmark: Any, row: str) -> None:
    name(benchmark, "flow key", row)
    packets = [FLOWS[row]] * COUNT
    keys = benchmark(lambda: [flow_key(packet) for packet in packets])
    assert len(set(keys)) == 1


WINDOWS = {
    "off": {},
    "legacy, 32": {"replay_window": 32},
    "bitmap, 128": {"replay_esn": ReplayEsn((0,) * 4, replay_window=128)},
    "bitmap, 4096": {"replay_esn": ReplayEsn((0,) * 128, replay_window=4096)},
    "ESN, 128": {"replay_esn": ReplayEsn((0,) * 4, replay_window=128), "flags": STATE_ESN},
}


@pytest.mark.parametrize("row", WINDOWS)
def test_replay(benchmark: Any, row: str) -> None:
    """Check and commit, numbers in order."""
    name(benchmark, "replay check", row)
    state = State(tunnel_state(*OUTER[4], spi=0x1000, **{"replay_window": 0, **WINDOWS[row]}))
    numbers = range(1000, 1000 + COUNT)

    def work() -> None:
        window = state.window
        for number in numbers:
            window.commit(number, window.check(number))

    run_anew(benchmark, work, again(state))
    assert state.window.late == state.window.replayed == 0
