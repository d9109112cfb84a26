"""Bad networks and bad sockets between two engines: each loss is counted once, the rest arrives, and it goes on."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

import pytest

from tests.core.packets import udp
from tests.core.pair import INNER, NOW, Pair, raised
from tests.each import each
from xfrmi.core.outgoing import Outgoing
from xfrmi.dev.device import Arrival, Device, Failure
from xfrmi.dev.fault import Fault
from xfrmi.dev.loopback import wire_pair
from xfrmi.wire.xfrm_types import Encap

COUNT, BURST = 600, 16


class Tired:
    """A socket that takes the first few packets of a burst, and nothing more of it (EAGAIN)."""

    def __init__(self, device: Device[Arrival, Outgoing]) -> None:
        self._device = device
        self.turn = 0
        self.failures: list[Failure] = []

    def send_burst(self, burst: Sequence[Outgoing]) -> int:
        self.failures = []
        sent = 0
        for outgoing in burst:
            self.turn += 1
            took = self.turn % (len(outgoing.packets) + 1)
            sent += self._device.send_burst([Outgoing(outgoing.path, list(outgoing.packets[:took]))])
            if took < len(outgoing.packets):
                self.failures.append(Failure(outgoing, range(took, len(outgoing.packets)), errno.EAGAIN))
        return sent


class Refusing:
    """A socket that does not take every third packet of a burst, for the same reason, as long as `number` is set."""

    def __init__(self, device: Device[Arrival, Outgoing], number: int) -> None:
        self._device = device
        self.number = number
        self.failures: list[Failure] = []

    def send_burst(self, burst: Sequence[Outgoing]) -> int:
        self.failures = []
        sent = 0
        for outgoing in burst:
            dead = range(1, len(outgoing.packets), 3) if self.number else range(0)
            alive = [packet for at, packet in enumerate(outgoing.packets) if at not in dead]
            self.failures += [Failure(outgoing, range(at, at + 1), self.number) for at in dead]
            sent += self._device.send_burst([Outgoing(outgoing.path, alive)])
        return sent


def numbered(number: int) -> bytes:
    return udp(*INNER[4], number.to_bytes(8), sport=1 + number % 7)


def arrived(pair: Pair, wire: Device[Arrival, Outgoing]) -> list[bytes]:
    return [
        bytes(packet) for _, packets in pair.right.engine.input(wire.recv_burst(), NOW) for packet in packets
    ]  # fmt: skip


FAULTS: dict[str, dict[str, float]] = {
    "loss": {"loss": 0.1},
    "duplication": {"duplicate": 0.1},
    "reordering": {"reorder": 0.3},
    "corruption": {"corrupt": 0.1},
    "cut short": {"short": 0.1},
    "all of it": {"loss": 0.05, "duplicate": 0.05, "reorder": 0.2, "corrupt": 0.05, "short": 0.05},
}


@each("encap", [{}, {"encap": Encap()}], ids=["raw", "in UDP"])
@each("fault", FAULTS)
def test_a_bad_network(fault: str, encap: dict[str, Any]) -> None:
    """Nothing is lost but what the network lost or damaged, and nothing comes twice."""
    pair = Pair(**encap)
    here, there = wire_pair()
    network = Fault(there, seed=11, **FAULTS[fault])
    found: list[bytes] = []
    for start in range(0, COUNT, BURST):
        packets = [numbered(number) for number in range(start, min(start + BURST, COUNT))]
        here.send_burst(pair.left.engine.output(pair.xfrm_left, packets, NOW)[0])
        found += arrived(pair, network)
    held = network._held is not None
    counts, moved = raised(pair.xfrm_right), pair.right.moved()
    assert len(set(found)) == len(found) == counts["rx_packets"]
    assert set(found) <= {numbered(number) for number in range(COUNT)}
    came = COUNT - network.lost - held + network.duplicated
    assert came == counts["rx_packets"] + sum(moved.values()), moved
    spoiled = network.corrupted + network.shortened
    assert set(moved) <= {"XfrmInStateSeqError", "XfrmInStateProtoError", "XfrmInNoStates", "XfrmInHdrError"}
    if not spoiled:  # what is damaged may be the SPI or the number; a copy of it dies of the same
        assert moved.get("XfrmInStateSeqError", 0) == network.duplicated
        assert len(found) == COUNT - network.lost - held
    else:
        assert sum(moved.values()) <= spoiled + network.duplicated
        assert len(found) >= COUNT - network.lost - held - spoiled
    network._chances = 0.0, 0.0, 0.0, 0.0, 0.0  # and it is good again
    here.send_burst(pair.left.engine.output(pair.xfrm_left, [numbered(COUNT + n) for n in range(50)], NOW)[0])
    assert set(arrived(pair, network)) >= {numbered(COUNT + number) for number in range(50)}


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.EPERM, errno.EMSGSIZE, errno.ENETDOWN, errno.EAGAIN])
def test_a_socket_that_refuses(number: int) -> None:
    """What did not leave counts as errors and aborted instead of packets; the others arrive; then all do again."""
    pair = Pair()
    here, there = wire_pair()
    device = Refusing(here, number)
    failed = 0
    found: list[bytes] = []
    for start in range(0, COUNT, BURST):
        packets = [numbered(start + at) for at in range(BURST)]
        outgoing, _ = pair.left.engine.output(pair.xfrm_left, packets, NOW)
        device.send_burst(outgoing)
        for failure in device.failures:
            assert failure.errno == number
            pair.left.engine.send_failed(failure.outgoing, failure.positions)
            failed += len(failure.positions)
        found += arrived(pair, there)
    counts = raised(pair.xfrm_left)
    sent = counts["tx_packets"]
    assert failed > 100 and counts["tx_errors"] == counts["tx_aborted_errors"] == failed
    assert sent == len(found) == len(set(found)) and sent + failed == -(-COUNT // BURST) * BURST
    assert counts["tx_bytes"] == sum(map(len, found))
    device.number = 0
    device.send_burst(pair.left.engine.output(pair.xfrm_left, [numbered(5000 + n) for n in range(50)], NOW)[0])
    assert len(arrived(pair, there)) == 50 and not device.failures


def test_a_socket_that_takes_only_some() -> None:
    """Of each burst another part leaves, from none to all: it arrives, and the rest is counted once."""
    pair = Pair()
    here, there = wire_pair()
    device = Tired(here)
    failed, found = 0, []
    for start in range(0, COUNT, BURST):
        outgoing, _ = pair.left.engine.output(pair.xfrm_left, [numbered(start + at) for at in range(BURST)], NOW)
        device.send_burst(outgoing)
        for failure in device.failures:
            pair.left.engine.send_failed(failure.outgoing, failure.positions)
            failed += len(failure.positions)
        found += arrived(pair, there)
    counts = raised(pair.xfrm_left)
    assert failed > 100 and counts["tx_errors"] == counts["tx_aborted_errors"] == failed
    assert counts["tx_packets"] == len(found) == len(set(found)) and len(found) + failed == -(-COUNT // BURST) * BURST
    assert pair.right.moved() == {}
