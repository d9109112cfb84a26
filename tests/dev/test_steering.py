"""Several sockets for one kind of packet: each SPI arrives at one of them, in the kernel's own judgement."""

from __future__ import annotations

import socket

import pytest

from tests.netns import in_netns, ip
from xfrmi.dev.steering import MAX_PINNED, admit, spread
from xfrmi.wire.xfrm_const import IPPROTO_ESP

PINS = {0x101: 0, 0x102: 2, 0xFFFFFFFF: 2, 0x103: 1}
WHERE = {0x101: 0, 0x102: 2, 0xFFFFFFFF: 2, 0x103: 1, 0x104: 1, 0: 1, 0x80000101: 1}
FAMILIES = {4: (socket.AF_INET, "127.0.0.1"), 6: (socket.AF_INET6, "::1")}


def esp(spi: int) -> bytes:
    return spi.to_bytes(4) + bytes(28)


def arrived(receiver: socket.socket, behind: int = 0) -> list[int]:
    spis = []
    while True:
        try:
            spis.append(int.from_bytes(receiver.recv(100)[behind:][:4]))
        except BlockingIOError:
            return spis


@pytest.mark.parametrize("version", [4, 6])
@in_netns
def test_raw_sockets_each_let_their_own_in(version: int) -> None:
    ip("link set lo up")
    family, address = FAMILIES[version]
    receivers = [socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, IPPROTO_ESP) for _ in range(4)]
    for number, receiver in enumerate(receivers):
        admit(receiver.fileno(), family, PINS, 1, number if number < 3 else None)
    for spi in WHERE:
        receivers[3].sendto(esp(spi), (address, 0))
    header = 20 if version == 4 else 0
    assert [arrived(receiver, header) for receiver in receivers] == [
        [spi for spi, owner in WHERE.items() if owner == number] for number in range(4)
    ]
    admit(receivers[0].fileno(), family, {}, 0, 0)  # as often as one likes
    receivers[3].sendto(esp(0x103), (address, 0))
    assert arrived(receivers[0], header) == [0x103]


@pytest.mark.parametrize("version", [4, 6])
@in_netns
def test_a_group_of_udp_sockets(version: int) -> None:
    ip("link set lo up")
    family, address = FAMILIES[version]
    receivers = [socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) for _ in range(3)]
    for receiver in receivers:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        receiver.bind((address, 4500))
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        for pins, owners in ((PINS, WHERE), ({}, dict.fromkeys(WHERE, 1))):
            spread(receivers[2].fileno(), pins, 1)
            for spi in WHERE:
                sender.sendto(esp(spi), (address, 4500))
            assert [arrived(receiver) for receiver in receivers] == [
                [spi for spi, owner in owners.items() if owner == number] for number in range(3)
            ]
        sender.sendto(b"\xff", (address, 4500))  # a keepalive: it belongs to nobody, and arrives somewhere
        assert sum(map(len, map(arrived, receivers))) == 1


@in_netns
def test_as_many_as_may_be_pinned() -> None:
    ip("link set lo up")
    receiver = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, IPPROTO_ESP)
    admit(receiver.fileno(), socket.AF_INET, dict.fromkeys(range(1, MAX_PINNED + 1), 3), 0, 3)
    for spi in (0, 1, MAX_PINNED, MAX_PINNED + 1):
        receiver.sendto(esp(spi), ("127.0.0.1", 0))
    assert arrived(receiver, 20) == [1, MAX_PINNED]
