"""The sockets for ICMP errors: what passes the filter, and in what shape."""

from __future__ import annotations

import select
import socket

import pytest

from tests.dev.wire import ESP, FAMILY, Wire, from_peer, ipv4, ipv6, outer, too_big, udp
from tests.netns import in_netns
from xfrmi.dev.icmp_errors import BURST, IcmpErrors
from xfrmi.wire.ip import checksum
from xfrmi.wire.too_big import read_too_big

both = pytest.mark.parametrize("version", [4, 6])


def received(errors: IcmpErrors) -> list[bytes]:
    return [bytes(message) for message in errors.recv_burst()]


@both
@in_netns
def test_errors_about_esp_and_udp_are_read(version: int) -> None:
    wire = Wire()
    errors = IcmpErrors(FAMILY[version])
    encapsulated = ipv4(udp(ESP), proto=17) if version == 4 else ipv6(udp(ESP), proto=17)
    wire.inject(too_big(version, outer(version), 1380), too_big(version, encapsulated, 1370))
    assert select.select([errors], [], [], 2)[0] == [errors]
    read = [read_too_big(FAMILY[version], message) for message in received(errors)]
    assert [(told.mtu, told.protocol) for told in read if told is not None] == [(1380, 50), (1370, 17)]
    assert received(errors) == []


def changed(message: bytes, at: int, value: int) -> bytes:
    """An IPv4 ICMP packet with another byte in the ICMP message, and the right checksum."""
    packet = bytearray(message)
    packet[20 + at] = value
    packet[22:24] = b"\0\0"
    packet[22:24] = checksum(packet[20:]).to_bytes(2)
    return bytes(packet)


@in_netns
def test_all_other_icmp_stays_out() -> None:
    """A flood of what everybody gets, such as unreachable ports, does not even wake us."""
    wire = Wire()
    errors = [IcmpErrors(FAMILY[version]) for version in (4, 6)]
    good = too_big(4, outer(4), 1380)
    quoting_tcp = too_big(4, ipv4(bytes(40), proto=6), 1380)
    ping = from_peer(6, bytes.fromhex("8000 0000 0000 0000"), proto=58)
    wire.inject(changed(good, 1, 3), changed(good, 0, 11), changed(good, 0, 5), quoting_tcp, ping)
    assert select.select(errors, [], [], 0.05)[0] == []
    wire.inject(good, too_big(6, outer(6), 1380))
    assert [len(received(device)) for device in errors] == [1, 1]


@both
@in_netns
def test_a_burst_is_bounded_and_a_flood_is_lost(version: int) -> None:
    wire = Wire()
    errors = IcmpErrors(FAMILY[version])
    errors._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    for _ in range(40):
        wire.inject(*[too_big(version, outer(version), 1380)] * 20)
    counts = []
    while messages := received(errors):
        counts.append(len(messages))
    assert max(counts) == BURST
    assert 0 < sum(counts) < 400
