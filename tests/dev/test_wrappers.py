"""Devices in memory, and devices that wrap devices: loopback, capture, fault."""

from __future__ import annotations

import os
import select
import stat
import struct
from pathlib import Path as FilePath

import pytest

from tests.dev.wire import ESP, from_peer, ipv4, ipv6, outgoing
from xfrmi.core.outgoing import Outgoing
from xfrmi.dev import loopback
from xfrmi.dev.capture import Capture
from xfrmi.dev.device import Datagram, Device
from xfrmi.dev.fault import Fault
from xfrmi.dev.loopback import tun_pair, wire_pair
from xfrmi.wire.ip import split_outer
from xfrmi.wire.vnet import GSO_TCPV4, Packet, SuperPacket


def readable(device: Device[Packet, Packet] | Device[Datagram, Outgoing]) -> bool:
    return bool(select.select([device], [], [], 0)[0])


# Loopback


def test_a_wire_delivers_headers_and_esp() -> None:
    one, other = wire_pair()
    packets = [ipv4(ESP), ipv6(ESP)]
    assert one.send_burst([outgoing(4, packets[0]), outgoing(6, packets[1])]) == 2
    assert readable(other)
    assert not readable(one)
    assert other.recv_burst() == [split_outer(packet) for packet in packets]
    assert not readable(other)
    assert other.send_burst([outgoing(4, packets[0])]) == 1
    assert one.recv_burst() == [split_outer(packets[0])]


def test_a_tun_delivers_copies() -> None:
    """The sender's memory is its own again after send_burst."""
    device, host = tun_pair()
    memory = bytearray(ipv4(ESP))
    segments = SuperPacket(memoryview(memory), GSO_TCPV4, 40, 10, 20, 16)
    assert device.send_burst([memoryview(memory), segments]) == 2
    memory[:] = bytes(len(memory))
    plain, joined = host.recv_burst()
    assert plain == ipv4(ESP)
    assert isinstance(joined, SuperPacket)
    assert joined.data == ipv4(ESP)
    assert (joined.gso_type, joined.hdr_len, joined.gso_size, joined.csum_start) == (GSO_TCPV4, 40, 10, 20)


def test_bursts_are_bounded_and_so_is_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loopback, "QUEUE", 100)
    one, other = tun_pair()
    assert one.send_burst([bytes([number]) for number in range(110)]) == 100
    assert other.overruns == 10
    sizes = [len(other.recv_burst()) for _ in range(3)]
    assert sizes == [64, 36, 0]
    assert not readable(other)


def test_sending_to_a_closed_end_goes_nowhere() -> None:
    one, other = tun_pair()
    descriptor = other.fileno()
    other.close()
    other.close()
    assert one.send_burst([ESP]) == 0
    one.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


# Capture


def records(path: FilePath) -> list[tuple[int, bytes]]:
    """(time in nanoseconds, packet) of a pcap file, checked as it is read."""
    data = path.read_bytes()
    assert struct.unpack_from("=IHHiIII", data) == (0xA1B23C4D, 2, 4, 0, 0, 1 << 18, 101)
    found, at = [], 24
    while at < len(data):
        seconds, nanoseconds, kept, length = struct.unpack_from("=IIII", data, at)
        assert kept == length
        found.append((seconds * 10**9 + nanoseconds, data[at + 16 : at + 16 + length]))
        at += 16 + length
    return found


def test_a_capture_has_both_directions_and_changes_nothing(tmp_path: FilePath) -> None:
    one, other = wire_pair()
    ticks = iter((5_000_000_007, 6_000_000_000, 7_999_999_999))
    path = tmp_path / "wire.pcap"
    wrapped: Device[Datagram, Outgoing] = Capture(one, str(path), clock=lambda: next(ticks))
    assert wrapped.fileno() == one.fileno()
    assert wrapped.send_burst([outgoing(4, ipv4(ESP), ipv4(ESP, tos=1))]) == 2
    assert len(other.recv_burst()) == 2
    other.send_burst([outgoing(6, from_peer(6))])
    assert wrapped.recv_burst() == [split_outer(from_peer(6))]
    assert wrapped.recv_burst() == []
    assert records(path) == [
        (5_000_000_007, ipv4(ESP)), (5_000_000_007, ipv4(ESP, tos=1)), (6_000_000_000, from_peer(6)),
    ]  # fmt: skip
    wrapped.close()
    assert other.send_burst([outgoing(6, from_peer(6))]) == 0


def test_a_capture_is_private_even_over_an_old_file(tmp_path: FilePath) -> None:
    path = tmp_path / "tun.pcap"
    path.write_bytes(b"old" * 100)
    path.chmod(0o644)
    device, host = tun_pair()
    wrapped: Device[Packet, Packet] = Capture(device, str(path), clock=lambda: 0)
    host.send_burst([SuperPacket(memoryview(bytearray(ipv4(ESP))), GSO_TCPV4, 40, 10, 20, 16)])
    assert len(wrapped.recv_burst()) == 1
    assert records(path) == [(0, ipv4(ESP))]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


# Fault


def through(count: int = 400, **chances: float) -> tuple[Fault, list[bytes]]:
    """Send `count` numbered datagrams in bursts of 16 through a bad network; what arrives."""
    sender, receiver = wire_pair()
    bad = Fault(receiver, seed=7, **chances)
    arrived: list[bytes] = []
    for start in range(0, count, 16):
        sender.send_burst([outgoing(4, *(ipv4(numbered(n)) for n in range(start, min(start + 16, count))))])
        arrived += [bytes(esp) for _, esp in bad.recv_burst()]
    return bad, arrived


def numbered(number: int) -> bytes:
    return number.to_bytes(12)


def test_a_good_network_changes_nothing() -> None:
    bad, arrived = through()
    assert arrived == [numbered(number) for number in range(400)]
    assert (bad.lost, bad.duplicated, bad.reordered, bad.corrupted) == (0, 0, 0, 0)


def test_loss_and_duplicates_are_counted() -> None:
    bad, arrived = through(loss=0.1, duplicate=0.1)
    assert len(arrived) == 400 - bad.lost + bad.duplicated
    assert len(set(arrived)) == 400 - bad.lost
    assert bad.lost > 10
    assert bad.duplicated > 10


def test_reordering_loses_nothing_and_crosses_bursts() -> None:
    bad, arrived = through(reorder=0.3)
    assert sorted(arrived) == [numbered(number) for number in range(len(arrived))]
    assert len(arrived) >= 399  # the last may still be held
    assert arrived != sorted(arrived)
    assert bad.reordered > 50
    assert any(arrived.index(numbered(n)) > arrived.index(numbered(n + 1)) for n in range(15, 384, 16))


def test_corruption_is_one_bit_of_esp() -> None:
    bad, arrived = through(corrupt=0.2)
    differing = [
        (int.from_bytes(seen) ^ number).bit_count() for number, seen in enumerate(arrived) if seen != numbered(number)
    ]
    assert differing == [1] * bad.corrupted
    assert bad.corrupted > 20


def test_a_seed_repeats_itself() -> None:
    chances = {"loss": 0.1, "duplicate": 0.1, "reorder": 0.1, "corrupt": 0.1}
    assert through(**chances)[1] == through(**chances)[1]


def test_sending_is_untouched() -> None:
    one, other = wire_pair()
    bad = Fault(one, seed=1, loss=1.0)
    assert bad.fileno() == one.fileno()
    assert bad.send_burst([outgoing(4, ipv4(ESP))]) == 1
    assert other.recv_burst() == [split_outer(ipv4(ESP))]
    bad.close()
    assert other.send_burst([outgoing(4, ipv4(ESP))]) == 0
