"""core.rows: whoever holds a packet of a burst, or a piece of one, in whatever form, finds in it what he was given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.core.test_burst import GOOD, NOW, ipv4, make, seal_all, seal_super, super_packet
from xfrmi.core import rows
from xfrmi.core.burst import open_burst, seal_burst
from xfrmi.wire.ip import split_outer
from xfrmi.wire.vnet import GSO_TCPV4, SuperPacket

PIECES: dict[str, Callable[[Any], Any]] = {
    "the packet": lambda packet: packet,
    "a slice": lambda packet: packet[20:],
    "a slice of a slice": lambda packet: packet[20:][5:][:30],
    "another view": memoryview,
    "read-only": lambda packet: memoryview(packet).toreadonly(),
    "cast": lambda packet: memoryview(packet).cast("b"),
    "an array": lambda packet: np.frombuffer(packet, np.uint8),
    "part of an array": lambda packet: np.frombuffer(packet, np.uint8)[3:9],
    "split": lambda packet: split_outer(packet)[1] if packet[9] == 50 else packet[1:],
    "super-packet": lambda packet: SuperPacket(memoryview(packet)[2:], GSO_TCPV4, 40, 20, 20, 16).data,
}


def fill(source: Callable[[int], Any], piece: Callable[[Any], Any]) -> None:
    """Many bursts of one shape; of each a single packet, or a piece of it, is kept."""
    kept = []
    for turn in range(3 * rows.SHELF):
        packets = source(turn)
        kept.append((piece(packets[turn]), bytes(piece(packets[turn]))))
        del packets
        assert all(bytes(view) == content for view, content in kept)


@pytest.mark.parametrize("piece", PIECES.values(), ids=PIECES)
def test_sealed_packets_stay_what_they_are(piece: Callable[[Any], Any]) -> None:
    state = make()
    fill(lambda turn: seal_burst(state, [ipv4(100)] * 40, NOW)[0], piece)


@pytest.mark.parametrize("piece", PIECES.values(), ids=PIECES)
def test_segments_stay_what_they_are(piece: Callable[[Any], Any]) -> None:
    state = make()
    fill(lambda turn: seal_super(state, super_packet(60 * 40, 60))[0], piece)


@pytest.mark.parametrize("piece", PIECES.values(), ids=PIECES)
def test_opened_packets_stay_what_they_are(piece: Callable[[Any], Any]) -> None:
    bursts = [seal_all({}, [ipv4(100, ident=turn)] * 40, 0) for turn in range(3 * rows.SHELF)]
    fill(lambda turn: open_burst(make(), bursts[turn], NOW)[0], piece)


def test_a_tunnel_in_a_tunnel_is_not_opened_onto_itself() -> None:
    """What came out of one state, cut into header and ESP, goes into another that makes rows of the same shape."""
    inner, outer = {"dst": "198.51.100.2"}, {}
    packets = [ipv4(100, ident=at) for at in range(40)]
    sealed = [bytes(header) + bytes(packet) for header, packet in seal_all(inner, packets, 0)]
    pieces = []
    for _ in range(3):
        opened, _ = open_burst(make(), seal_all(outer, sealed, 0), NOW)
        pieces.append([split_outer(packet) for packet in opened])
        del opened
    for datagrams in pieces:
        again, drops = open_burst(make(), datagrams, NOW)
        assert [bytes(packet) for packet in again] == packets and not drops


def test_memory_nobody_holds_is_used_again() -> None:
    state = make()
    first = id(seal_burst(state, [ipv4(100)] * 40, NOW)[0][0])
    assert any(id(seal_burst(state, [ipv4(100)] * 40, NOW)[0][0]) == first for _ in range(rows.SHELF))
    first = id(open_burst(make(), GOOD, NOW)[0][0])
    assert any(id(open_burst(make(), GOOD, NOW)[0][0]) == first for _ in range(rows.SHELF))
