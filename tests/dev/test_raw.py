"""Raw sockets for protocol 50: exact bytes on the wire, fragmentation after ESP, normalised input."""

from __future__ import annotations

import errno
import select
import socket

import pytest

from tests.dev.wire import (
    ESP,
    FAMILY,
    FAR,
    OWN,
    OWN4,
    PEER,
    PEER4,
    PEER6,
    Wire,
    from_peer,
    ipv4,
    ipv6,
    outer,
    outgoing,
    two_ways,
    udp,
)  # fmt: skip
from tests.netns import Namespace, in_netns, ip
from xfrmi.core.outgoing import Outgoing
from xfrmi.core.path import Path
from xfrmi.core.router import StaticRouter
from xfrmi.dev.device import taken_apart
from xfrmi.dev.raw import BURST, RECEIVE, RawEsp
from xfrmi.wire.fragment import fragment_ipv4, fragment_ipv6
from xfrmi.wire.ip import ipv4_header_checksum, split_outer

both = pytest.mark.parametrize("version", [4, 6])


def open_raw(version: int, mtu: int = 1500) -> RawEsp:
    return RawEsp(FAMILY[version], StaticRouter(mtu))


EXACT = {
    "v4, DF": ipv4(ESP),
    "v4, TOS and TTL": ipv4(ESP, tos=0x2E << 2 | 1, ttl=7),
    "v4, given identification": ipv4(ESP, ident=0x1234, df=False),
    "v4, UDP in transport mode": ipv4(udp(ESP), proto=17),
    "v4, options": bytes.fromhex("46c0 0060 1234 4000 4032 0000 c0000201 c0000202 94040000") + ESP,
    "v6": ipv6(ESP),
    "v6, class, label, hop limit": ipv6(ESP, tclass=0xB9, label=0xABCDE, hops=3),
    "v6, UDP": ipv6(udp(ESP), proto=17),
    "v6, destination options first": ipv6(bytes((50, 0, 1, 4, 0, 0, 0, 0)) + ESP, proto=60),
}


@pytest.mark.parametrize("name", EXACT)
@in_netns
def test_the_header_goes_out_as_given(name: str) -> None:
    """Section 0, the HDRINCL rows: ID 0 with DF stays 0; the kernel fills only the IPv4 checksum."""
    wire = Wire()
    packet = bytearray(EXACT[name])
    version = packet[0] >> 4
    device = open_raw(version)
    assert device.send_burst([outgoing(version, bytes(packet))]) == 1
    if version == 4:
        header_len = (packet[0] & 15) * 4
        packet[10:12] = ipv4_header_checksum(packet[:header_len]).to_bytes(2)
    assert wire.sent() == [bytes(packet)]
    assert device.failures == []


@in_netns
def test_the_kernel_fills_an_identification_of_0_without_df() -> None:
    wire = Wire()
    open_raw(4).send_burst([outgoing(4, ipv4(ESP, df=False), ipv4(ESP, df=False))])
    first, second = wire.sent()
    assert first[4:6] != second[4:6]
    assert first[20:] == second[20:] == ESP


@both
@in_netns
def test_too_big_for_the_mtu_is_fragmented_after_esp(version: int) -> None:
    """5.3, 5.4, TX-12b: DF clear, or IPv6 in any case."""
    wire = Wire(mtu=1280)
    esp = ESP + bytes(3000)
    packet = ipv4(esp, df=False) if version == 4 else ipv6(esp)
    device = open_raw(version, 1280)
    small = outer(version)
    assert device.send_burst([outgoing(version, small, packet, small)]) == 3
    first, *fragments, last = wire.sent()
    assert first == last == small
    if version == 4:
        ident = int.from_bytes(fragments[0][4:6])
        assert ident != 0
        assert fragments == fragment_ipv4(packet, 1280, ident)
    else:
        assert fragments == fragment_ipv6(packet, 1280, int.from_bytes(fragments[0][44:48]))
    assert len(fragments) == 3


@in_netns
def test_a_given_identification_survives_fragmentation_and_others_differ() -> None:
    """Transport mode keeps the inner packet's (5.2)."""
    wire = Wire(mtu=1280)
    big = ESP + bytes(2000)
    device = open_raw(4, 1280)
    device.send_burst([outgoing(4, *(ipv4(big, df=False, ident=ident) for ident in (0x4242, 0, 0)))])
    idents = [packet[4:6] for packet in wire.sent()]
    assert idents[:2] == [b"BB", b"BB"]
    assert idents[2] == idents[3] != idents[4] == idents[5]


@in_netns
def test_too_big_with_df_is_refused_and_the_rest_goes() -> None:
    """RAW-06."""
    wire = Wire(mtu=1280)
    burst = [outgoing(4, ipv4(bytes(1300)), ipv4(ESP)), outgoing(4, ipv4(ESP, tos=4))]
    device = open_raw(4, 1280)
    assert device.send_burst(burst) == 2
    assert device.failures == [(burst[0], range(1), errno.EMSGSIZE)]
    assert wire.sent() == [ipv4(ESP), ipv4(ESP, tos=4)]
    # The router may not know yet: then the kernel refuses.
    late = open_raw(4, 1500)
    assert late.send_burst(burst) == 2
    assert late.failures == [(burst[0], range(1), errno.EMSGSIZE)]
    assert wire.sent() == [ipv4(ESP), ipv4(ESP, tos=4)]


@both
@in_netns
def test_no_route_is_a_failure_of_those_packets_only(version: int) -> None:
    wire = Wire()
    nowhere = Outgoing(Path(FAMILY[version], OWN[version], bytes([9] * len(OWN[version]))), [outer(version)] * 2)
    device = open_raw(version)
    assert device.send_burst([nowhere, outgoing(version, outer(version))]) == 1
    assert device.failures == [(nowhere, range(number, number + 1), errno.ENETUNREACH) for number in range(2)]
    assert wire.sent() == [outer(version)]


@both
@in_netns
def test_many_packets_keep_their_order(version: int) -> None:
    wire = Wire()
    packets = [outer(version, ESP[:4] + number.to_bytes(4) + bytes(number)) for number in range(3 * BURST + 5)]
    device = open_raw(version)
    assert device.send_burst([outgoing(version, *packets[:100]), outgoing(version, *packets[100:])]) == len(packets)
    assert wire.sent() == packets


@both
@in_netns
def test_the_mark_chooses_the_route(version: int) -> None:
    """3.8: set-mark is the mark of the outer route lookup."""
    plain, marked = Wire(), Wire("wire1", addresses=False)
    ip(f"-{version} rule add fwmark 0x2a table 42")
    ip(f"-{version} route add default dev wire1 table 42")
    packet = outer(version)
    device = open_raw(version)
    assert device.send_burst([outgoing(version, packet), outgoing(version, packet, packet, mark=42)]) == 3
    assert (plain.sent(), marked.sent()) == ([packet], [packet, packet])


@both
@in_netns
def test_the_path_binds_the_device(version: int) -> None:
    """TX-03: the outer route is bound to the link when the xfrm device has one."""
    free, bound = two_ways()
    packet = ipv4(ESP, dst=FAR[4]) if version == 4 else ipv6(ESP, dst=FAR[6])
    device = open_raw(version)
    ways = [Path(FAMILY[version], OWN[version], FAR[version], ifindex=socket.if_nametoindex(f"wire{number}"))
            for number in range(2)]  # fmt: skip
    assert device.send_burst([Outgoing(way, [packet]) for way in ways]) == 2
    assert (free.sent(), bound.sent()) == ([packet], [packet])


@in_netns
def test_a_foreign_source_is_no_obstacle() -> None:
    """The header is the core's business: whether its source is ours is for the router to say."""
    wire = Wire()
    index = socket.if_nametoindex("wire0")
    foreign = {4: bytes((10, 9, 8, 7)), 6: bytes((0x20, 1)) + bytes(14)}
    packets = {4: ipv4(ESP, src=foreign[4]), 6: ipv6(ESP, src=foreign[6])}
    for version in (4, 6):
        for ifindex in (0, index):
            path = Path(FAMILY[version], foreign[version], PEER[version], ifindex=ifindex)
            assert open_raw(version).send_burst([Outgoing(path, [packets[version]])]) == 1
            assert wire.sent() == [packets[version]]


@both
@in_netns
def test_input_is_header_and_esp(version: int) -> None:
    """RAW-03: from the header's every field that matters to the ESP packet."""
    wire = Wire()
    device = open_raw(version)
    fields = ({"tos": 0xB9}, {"ttl": 3}) if version == 4 else ({"tclass": 0xB9, "label": 0xABCDE}, {"hops": 3})
    packets = [from_peer(version), *(from_peer(version, ESP + b"more", **some) for some in fields)]
    wire.inject(*packets)
    assert select.select([device], [], [], 1)[0] == [device]
    assert [(bytes(header), bytes(esp)) for header, esp in device.recv_burst()] == [
        tuple(split_outer(packet)) for packet in packets
    ]
    assert device.recv_burst() == []


@in_netns
def test_ipv4_options_are_part_of_the_header() -> None:
    wire = Wire()
    device = open_raw(4)
    packet = bytearray(bytes.fromhex("46c0 0060 1234 4000 4032 0000 c0000202 c0000201 94040000") + ESP)
    packet[10:12] = ipv4_header_checksum(packet[:24]).to_bytes(2)
    wire.inject(bytes(packet))
    ((header, esp),) = device.recv_burst()
    assert (bytes(header), bytes(esp)) == (packet[:24], ESP)


@both
@in_netns
def test_fragments_arrive_as_one(version: int) -> None:
    """RAW-04."""
    wire = Wire()
    device = open_raw(version)
    esp = ESP + bytes(range(250)) * 20
    whole = from_peer(version, esp, df=False) if version == 4 else from_peer(version, esp)
    wire.inject(*(fragment_ipv4 if version == 4 else fragment_ipv6)(whole, 1280, 77))
    ((header, received),) = device.recv_burst()
    assert received == esp
    assert header[12:20] == PEER4 + OWN4 if version == 4 else header[8:24] == PEER6


@both
@in_netns
def test_a_burst_is_bounded_and_the_rest_waits(version: int) -> None:
    wire = Wire()
    device = open_raw(version)
    for number in range(RECEIVE + 3):
        wire.inject(from_peer(version, ESP + bytes([number])))
    bursts = [[bytes(esp)[-1] for _, esp in taken_apart(device.recv_burst())] for _ in range(3)]
    assert bursts == [list(range(RECEIVE)), list(range(RECEIVE, RECEIVE + 3)), []]


@both
@in_netns
def test_what_we_send_to_others_does_not_come_back(version: int) -> None:
    wire = Wire()
    device = open_raw(version)
    group = {4: bytes((224, 0, 0, 251)), 6: bytes.fromhex("ff02") + bytes(13) + b"\xfb"}[version]
    ip(f"-{version} route add {'224.0.0.0/4' if version == 4 else 'multicast ff00::/8 table local'} dev wire0")
    ifindex = socket.if_nametoindex("wire0")
    packet = ipv4(ESP, dst=group) if version == 4 else ipv6(ESP, dst=group)
    member = socket.socket(FAMILY[version], socket.SOCK_DGRAM)
    if version == 4:
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + bytes(4) + ifindex.to_bytes(4, "little"))
    else:
        member.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group + ifindex.to_bytes(4, "little"))
    multicast = Outgoing(Path(FAMILY[version], OWN[version], group, ifindex=ifindex), [packet])
    assert device.send_burst([outgoing(version, outer(version)), multicast]) == 2
    assert wire.sent()[:1] == [outer(version)]
    assert device.recv_burst() == []


@both
@in_netns
def test_an_open_socket_silences_icmp(version: int) -> None:
    """RAW-01, RAW-02, RAW-03."""
    wire = Wire()
    wire.inject(from_peer(version))
    (answer,) = wire.sent()
    expected = (1, 3, 2) if version == 4 else (58, 4, 1)
    offset = 20 if version == 4 else 40
    assert (answer[9 if version == 4 else 6], answer[offset], answer[offset + 1]) == expected
    device = open_raw(version)
    wire.inject(from_peer(version))
    assert len(device.recv_burst()) == 1
    assert wire.sent() == []


@both
@in_netns
def test_between_two_namespaces(version: int) -> None:
    """Over a veth pair, both ways; each device stays in the namespace it was made in."""
    there = Namespace()
    ip("link add veth0 type veth peer name veth1")
    ip(f"link set veth1 netns {there}")
    own, peer = {4: ("192.0.2.1/24", "192.0.2.2/24"), 6: ("2001:db8::1/64", "2001:db8::2/64")}[version]
    nodad = "" if version == 4 else " nodad"
    ip(f"addr add {own} dev veth0{nodad}")
    ip("link set veth0 up")
    with there:
        ip(f"addr add {peer} dev veth1{nodad}")
        ip("link set veth1 up")
        far = open_raw(version)
    near = open_raw(version)
    back = from_peer(version, ESP[::-1])
    assert near.send_burst([outgoing(version, outer(version))]) == 1
    assert select.select([far], [], [], 2)[0] == [far]
    ((_, esp),) = far.recv_burst()
    assert esp == ESP
    assert far.send_burst([Outgoing(Path(FAMILY[version], PEER[version], OWN[version]), [back])]) == 1
    assert select.select([near], [], [], 2)[0] == [near]
    ((_, esp),) = near.recv_burst()
    assert esp == ESP[::-1]


@in_netns
def test_a_full_receive_buffer_is_counted() -> None:
    wire = Wire()
    device = open_raw(4)
    device._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(20):
        wire.inject(from_peer(4, bytes(1000)))
    assert 0 < len(device.recv_burst()) < 20
    assert device.overruns > 0
