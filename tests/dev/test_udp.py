"""ESP in UDP through plain sockets: exact bytes on the wire, segmentation and merging, what is not ESP."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests.dev.wire import (
    ESP,
    FAMILY,
    FAR,
    OWN,
    OWN4,
    OWN6,
    PEER,
    Wire,
    from_peer,
    ipv4,
    ipv6,
    outgoing,
    too_big,
    two_ways,
    udp,
)
from tests.netns import in_netns, ip
from xfrmi.core.outgoing import Outgoing
from xfrmi.core.path import Path
from xfrmi.core.router import StaticRouter
from xfrmi.dev.device import taken_apart
from xfrmi.dev.raw import RawEsp
from xfrmi.dev.udp import MAX_SEGMENTS, RECEIVE_ROWS, UdpEncap
from xfrmi.errors import XfrmError
from xfrmi.wire.address import format_address
from xfrmi.wire.fragment import fragment_ipv4, fragment_ipv6
from xfrmi.wire.ip import checksum, pseudo_header_sum

both = pytest.mark.parametrize("version", [4, 6])


def open_udp(family: int, port: int = 4500, *, mtu: int = 1500, **options: Any) -> UdpEncap:
    """With a router that believes in `mtu`."""
    return UdpEncap(family, port, RawEsp(family, StaticRouter(mtu)), **options)


def udp_over_ipv6(esp: bytes, sport: int, addresses: bytes) -> bytes:
    datagram = bytearray(udp(esp, sport))
    summed = checksum(datagram, pseudo_header_sum(addresses, 17, len(datagram))) or 0xFFFF
    datagram[6:8] = summed.to_bytes(2)
    return bytes(datagram)


def packet(version: int, esp: bytes = ESP, sport: int = 4500, **fields: Any) -> bytes:
    """A finished outer packet as the core makes it."""
    if version == 4:
        return ipv4(udp(esp, sport), proto=17, **fields)
    addresses = fields.get("src", OWN6) + fields.get("dst", PEER[6])
    return ipv6(udp_over_ipv6(esp, sport, addresses), proto=17, **fields)


def burst(version: int, *packets: bytes, **fields: object) -> Outgoing:
    return outgoing(version, *packets, sport=4500, dport=4500, use_udp_socket=True, **fields)


def received(device: UdpEncap) -> list[tuple[bytes, bytes]]:
    assert select.select([device], [], [], 2)[0] == [device]
    return [(bytes(header), bytes(esp)) for header, esp in taken_apart(device.recv_burst())]


EXACT = {
    "v4": packet(4),
    "v4, TOS and TTL": packet(4, tos=0xB9, ttl=7),
    "v4, keepalive": packet(4, b"\xff"),
    "v6": packet(6),
    "v6, class, label, hop limit": packet(6, tclass=0xB9, label=0xABCDE, hops=7),
    "v6, class alone": packet(6, tclass=0x03),
    "v6, keepalive": packet(6, b"\xff"),
}


@pytest.mark.parametrize("name", EXACT)
@in_netns
def test_a_lone_packet_goes_out_as_given(name: str) -> None:
    """5.10, 3.8: over IPv4 checksum 0 and ID 0 with DF; over IPv6 a checksum, and no automatic flow label."""
    wire = Wire()
    given = EXACT[name]
    device = open_udp(FAMILY[given[0] >> 4], 4500)
    assert device.send_burst([burst(given[0] >> 4, given)]) == 1
    assert wire.sent() == [given]


@in_netns
def test_df_follows_each_packet_and_reception_does_not_suffer() -> None:
    """One socket, switched: the peer's datagrams keep arriving here while DF goes on and off."""
    wire = Wire()
    device = open_udp(2, 4500)
    for number in range(4):
        given = packet(4, df=bool(number % 2))
        assert device.send_burst([burst(4, given)]) == 1
        (sent,) = wire.sent()
        assert (sent[6], sent[20:]) == (0x40 * (number % 2), given[20:])
        wire.inject(from_peer(4, udp(ESP), proto=17))
        assert [esp for _, esp in received(device)] == [ESP]


def well_summed(version: int, sent: bytes) -> bool:
    start = 20 if version == 4 else 40
    addresses = sent[start - (8 if version == 4 else 32) : start]
    length = len(sent) - start
    return checksum(sent[start:], pseudo_header_sum(addresses, 17, length)) == 0


@both
@in_netns
def test_a_run_of_one_size_is_segmented_into_the_same_packets(version: int) -> None:
    """UDP_SEGMENT: all fields of the header but IPv4's identification, and checksums that hold."""
    wire = Wire()
    device = open_udp(FAMILY[version], 4500)
    fields = {"tos": 0x2E << 2, "ttl": 9} if version == 4 else {"tclass": 3, "label": 5, "hops": 9}
    esp = [ESP[:4] + number.to_bytes(4) + bytes(1000) for number in range(30)] + [ESP]
    packets = [packet(version, body, **fields) for body in esp]
    sends = counted(device)
    assert device.send_burst([burst(version, *packets)]) == 31
    assert sends == [31]
    sent = wire.sent()
    assert len(sent) == 31
    for given, seen in zip(packets, sent, strict=True):
        assert well_summed(version, seen)
        if version == 4:
            assert (seen[:4], seen[6:10], seen[12:26], seen[28:]) == (given[:4], given[6:10], given[12:26], given[28:])
        else:
            assert seen == given


def counted(device: UdpEncap) -> list[int]:
    """From now on, how many packets each system call of `device` sends."""
    calls: list[int] = []
    inner = device._socket

    class Counting:
        def __getattr__(self, name: str) -> object:
            return getattr(inner, name)

        def sendmsg(self, buffers: list[memoryview], *rest: object) -> int:
            calls.append(len(buffers))
            return inner.sendmsg(buffers, *rest)

    device._socket = Counting()
    return calls


RUNS: dict[str, tuple[list[bytes], list[int]]] = {
    "one size, then a shorter one, then more": ([bytes(100)] * 3 + [bytes(50)] + [bytes(100)] * 2, [4, 2]),
    "growing": ([bytes(100), bytes(104), bytes(108)], [1, 1, 1]),
    "too many": ([bytes(64)] * (MAX_SEGMENTS + 2), [MAX_SEGMENTS, 2]),
    "too much": ([bytes(1400)] * 50, [46, 4]),
}


@pytest.mark.parametrize("name", RUNS)
@both
@in_netns
def test_how_packets_are_joined_into_runs(name: str, version: int) -> None:
    wire = Wire()
    bodies, expected = RUNS[name]
    device = open_udp(FAMILY[version], 4500)
    sends = counted(device)
    packets = [packet(version, ESP[:8] + body) for body in bodies]
    assert device.send_burst([burst(version, *packets)]) == len(packets)
    assert sends == expected
    offset = 28 if version == 4 else 48
    assert [sent[offset:] for sent in wire.sent()] == [given[offset:] for given in packets]


@in_netns
def test_a_change_of_header_ends_a_run() -> None:
    wire = Wire()
    device = open_udp(2, 4500)
    sends = counted(device)
    variants = [packet(4), packet(4), packet(4, tos=1), packet(4, tos=1, df=False), packet(4, tos=1, df=False, ttl=1)]
    device.send_burst([burst(4, *variants)])
    assert sends == [2, 1, 1, 1]
    assert [(sent[1], sent[6], sent[8]) for sent in wire.sent()] == [(v[1], v[6], v[8]) for v in variants]


@pytest.mark.parametrize("believed", [1280, 1500])
@both
@in_netns
def test_runs_larger_than_the_mtu_go_one_by_one(version: int, believed: int) -> None:
    """DF clear, or IPv6: fragmented after ESP (TX-12b). A run with DF is refused packet by packet.

    Also by the kernel, where the device carries less than the router knows.
    """
    wire = Wire(mtu=1280)
    device = open_udp(FAMILY[version], 4500, mtu=believed)
    big = [packet(version, ESP[:8] + bytes(1400) + bytes([number]), **({"df": False} if version == 4 else {}))
           for number in range(2)]  # fmt: skip
    assert device.send_burst([burst(version, *big)]) == 2
    sent = wire.sent()
    assert len(sent) == 4
    if version == 4:
        ident = int.from_bytes(sent[0][4:6])
        assert sent[:2] == fragment_ipv4(big[0], 1280, ident)
        refused = burst(4, packet(4, bytes(1400)), packet(4, bytes(1400)), packet(4))
        assert device.send_burst([refused]) == 1
        assert device.failures == [(refused, range(number, number + 1), errno.EMSGSIZE) for number in range(2)]
        assert wire.sent() == [packet(4)]


@both
@in_netns
def test_without_offload_every_packet_is_lone(version: int) -> None:
    wire = Wire()
    device = open_udp(FAMILY[version], 4500, offload=False)
    packets = [packet(version, ESP[:7] + bytes([number]) * 90) for number in range(5)]
    device.send_burst([burst(version, *packets)])
    assert wire.sent() == packets


@both
@in_netns
def test_mark_and_device_of_the_path(version: int) -> None:
    wires = two_ways()
    ip(f"-{version} rule add fwmark 0x2a table 42")
    ip(f"-{version} route add default dev wire1 table 42")
    device = open_udp(FAMILY[version], 4500)
    given = packet(version, dst=FAR[version])
    ways: list[dict[str, int]] = [
        {}, {"mark": 42}, *({"ifindex": socket.if_nametoindex(f"wire{number}")} for number in range(2)),
    ]  # fmt: skip
    for way in ways:
        path = Path(FAMILY[version], OWN[version], FAR[version], 4500, 4500, use_udp_socket=True, **way)
        assert device.send_burst([Outgoing(path, [given])]) == 1
    assert [wire.sent() for wire in wires] == [[given, given], [given, given]]


@both
@in_netns
def test_the_source_is_the_paths_not_the_routes(version: int) -> None:
    wire = Wire()
    second = {4: "192.0.2.55", 6: "2001:db8::55"}[version]
    ip(f"addr add {second}/{32 if version == 4 else 128} dev wire0" + (" nodad" if version == 6 else ""))
    source = socket.inet_pton(FAMILY[version], second)
    path = Path(FAMILY[version], source, PEER[version], 4500, 4500, use_udp_socket=True)
    open_udp(FAMILY[version], 4500).send_burst([Outgoing(path, [packet(version, src=source)])])
    (sent,) = wire.sent()
    assert (sent[12:16] if version == 4 else sent[8:24]) == source


@in_netns
def test_no_route_is_a_failure() -> None:
    lost = Outgoing(Path(2, OWN4, bytes((9, 9, 9, 9)), 4500, 4500, use_udp_socket=True), [packet(4)] * 3)
    device = open_udp(2, 4500)
    assert device.send_burst([lost]) == 0
    assert device.failures == [(lost, range(3), errno.ENETUNREACH)]


@both
@in_netns
def test_input_is_headers_and_esp(version: int) -> None:
    """UDP-01. Addresses, ports, TOS or class and label, TTL are the datagram's; ID, DF, checksums read as 0."""
    wire = Wire()
    device = open_udp(FAMILY[version], 4500)
    if version == 4:
        given = from_peer(4, udp(ESP, 31337), proto=17, tos=0xB9, ttl=5)
        expected = bytearray(given[:28])
        expected[6:8] = expected[10:12] = bytes(2)
    else:
        given = from_peer(6, udp_over_ipv6(ESP, 31337, PEER[6] + OWN6), proto=17, tclass=0xB9, label=0xABCDE, hops=5)
        expected = bytearray(given[:48])
        expected[46:48] = bytes(2)
    wire.inject(given)
    assert received(device) == [(bytes(expected), ESP)]
    assert device.recv_burst() == []


@both
@in_netns
def test_merged_runs_are_taken_apart(version: int) -> None:
    """UDP_GRO: over `lo` a segmented send stays in one piece; the receiver sees the packets again."""
    family = FAMILY[version]
    local = socket.inet_pton(family, {4: "127.0.0.1", 6: "::1"}[version])
    here, there = open_udp(family, 4500), open_udp(family, 4501)
    fields = {"tos": 0xB8} if version == 4 else {"label": 77}
    bodies = [ESP[:8] + bytes([number]) * 1000 for number in range(40)] + [ESP]
    path = Path(family, local, local, 4500, 4501, use_udp_socket=True)
    packets = [packet(version, body, **fields) for body in bodies]
    assert here.send_burst([Outgoing(path, packets)]) == 41
    segments = received(there)
    assert [esp for _, esp in segments] == bodies
    for header, esp in segments:
        if version == 4:
            assert (header[1], int.from_bytes(header[2:4]), header[12:20]) == (0xB8, 28 + len(esp), local * 2)
        else:
            assert header[:6] == b"\x60\0\0\x4d" + (8 + len(esp)).to_bytes(2)
        assert header[-8:-2] == (4500).to_bytes(2) + (4501).to_bytes(2) + (8 + len(esp)).to_bytes(2)


@in_netns
def test_what_is_not_esp_goes_elsewhere() -> None:
    """UDP-04, UDP-05: IKE behind its marker, keepalives, and everything of 8 bytes or less."""
    wire = Wire()
    seen: list[tuple[bytes, tuple[str, int]]] = []
    device = open_udp(2, 4500, on_other=lambda payload, sender: seen.append((payload, sender)))
    others = [bytes(4) + b"IKE message", b"\xff", b"", ESP[:8]]
    zero_spi_byte = bytes.fromhex("00000101") + ESP
    for payload in (others[0], ESP, others[1], zero_spi_byte, *others[2:], ESP):
        wire.inject(from_peer(4, udp(payload, 1234), proto=17))
    assert [esp for _, esp in received(device)] == [ESP, zero_spi_byte, ESP]
    assert seen == [(payload, ("192.0.2.2", 1234)) for payload in others if payload]
    assert device.others == 3


@in_netns
def test_a_keepalive_merged_behind_esp_is_found() -> None:
    seen: list[bytes] = []
    here = open_udp(2, 4500)
    there = open_udp(2, 4501, on_other=lambda payload, _: seen.append(payload))
    local = bytes((127, 0, 0, 1))
    path = Path(2, local, local, 4500, 4501, use_udp_socket=True)
    here.send_burst([Outgoing(path, [packet(4), packet(4), packet(4, b"\xff")])])
    assert [esp for _, esp in received(there)] == [ESP, ESP]
    assert seen == [b"\xff"]


@in_netns
def test_a_burst_is_bounded() -> None:
    wire = Wire()
    device = open_udp(2, 4500)
    for _ in range(RECEIVE_ROWS + 2):
        wire.inject(from_peer(4, udp(ESP), proto=17))
    assert [len(device.recv_burst()) for _ in range(3)] == [RECEIVE_ROWS, 2, 0]


@both
@in_netns
def test_what_the_kernel_learns_from_icmp_does_not_count(version: int) -> None:
    """1.7: it believes any error that quotes our ports. Packets go on as they went, whole, lone and in runs."""
    wire = Wire()
    device = open_udp(FAMILY[version])
    packets = [packet(version, ESP[:8] + bytes(1400) + bytes([number])) for number in range(3)]
    run = burst(version, *packets)
    assert device.send_burst([run]) == 3
    before = wire.sent()
    assert len(before) == 3
    wire.inject(too_big(version, before[0], 1380))
    assert device.send_burst([run]) == 3
    assert wire.sent() == before
    alone = burst(version, packets[0])
    assert device.send_burst([alone]) == 1
    assert wire.sent() == [packets[0]]
    if version == 4:
        assert device.send_burst([burst(4, packet(4, ESP + bytes(1400), df=False))]) == 1
        assert len(wire.sent()) == 1, "not fragmented for somebody's word"


@both
@in_netns
def test_what_the_path_does_not_carry_goes_by_the_raw_socket(version: int) -> None:
    """TX-12b: DF clear, or IPv6: fragmented for the path MTU, which is less than the device's. With DF: refused."""
    wire = Wire()
    device = open_udp(FAMILY[version], mtu=1300)
    loose = {"df": False, "ident": 7} if version == 4 else {}
    big = packet(version, ESP[:8] + bytes(1400), **loose)
    small = packet(version, ESP[:8] + bytes(100), **loose)
    assert device.send_burst([burst(version, small, big, small)]) == 3
    first, *fragments, last = wire.sent()
    if version == 4:
        assert fragments == fragment_ipv4(big, 1300, 7)
        assert first[20:] == last[20:] == small[20:]
        refused = burst(4, packet(4), packet(4, bytes(1400)), packet(4))
        assert device.send_burst([refused]) == 2
        assert device.failures == [(refused, range(1, 2), errno.EMSGSIZE)]
    else:
        assert fragments == fragment_ipv6(big, 1300, int.from_bytes(fragments[0][44:48]))
        assert first == last == small


FAILURES: dict[str, tuple[Callable[[], object], int, str]] = {
    "in use": (lambda: [open_udp(2, 4500) for _ in range(2)], errno.EADDRINUSE, "another program"),
}


@pytest.mark.parametrize("name", FAILURES)
@in_netns
def test_what_is_in_the_way_is_named(name: str) -> None:
    action, number, word = FAILURES[name]
    with pytest.raises(XfrmError) as refused:
        action()
    assert refused.value.errno == number
    assert word in refused.value.detail
    assert "4500" in refused.value.detail


@in_netns
def test_both_families_share_a_port() -> None:
    devices = open_udp(2, 4500), open_udp(10, 4500)
    assert {device.family for device in devices} == {2, 10}
    assert format_address(OWN4) == "192.0.2.1"
