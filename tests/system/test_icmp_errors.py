"""The ICMP error path, between real hosts (1.7, TX-12, T-21): what a router says about an outer packet reaches the
sender of the inner one, by way of the next packet; what a liar says reaches nobody."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

from tests.netns import in_netns
from tests.system.hosts import OUTER, Hosts, Tunnel, counters, eventually, rises, two_hosts
from tests.system.stage import on_stage
from tests.system.udp_path import PMTUDISC_DONT, Udp, fragments, learns, udp
from xfrmi.lab.topology import Node
from xfrmi.lab.traffic import tcp_transfer
from xfrmi.lab.wiretap import ETH_HEADER_LEN
from xfrmi.wire.address import pack_address
from xfrmi.wire.ip import checksum, ipv4_header_checksum

ENCAP = "encap espinudp 4500 4500 0.0.0.0"


def inner_mtu(path_mtu: int, outer: int, encapsulated: bool = False) -> int:
    """5.8, GCM-16 in tunnel mode."""
    room = path_mtu - (52 if outer == 4 else 72) - (8 if encapsulated else 0)
    return room - room % 4 - 2


def complaints(hosts: Hosts) -> int:
    """ICMP errors about packets too big, on moon's cable."""
    packets = [frame[ETH_HEADER_LEN:] for frame in hosts.wire("moon")]
    return sum(
        (p[0] >> 4 == 4 and p[9] == 1 and p[20:22] == b"\x03\x04") or (p[0] >> 4 == 6 and p[6] == 58 and p[40] == 2)
        for p in packets
    )


def comes_to_know(path: Udp, mtu: int) -> None:
    """The sender sends as much as it may, again and again, until it has been told."""

    def told() -> bool:
        with suppress(OSError):
            path.send(path.mtu)
        return path.mtu == mtu

    eventually(told, lambda: f"mtu is {path.mtu}, not {mtu}")


@in_netns
def test_T_21_a_narrower_way_is_learned_by_every_family_pair() -> None:
    """4in4, 6in4, 4in6, 6in6, by protocol 50 and in UDP: the first packet dies on the way and nobody says so inside;
    the next is answered with the MTU of 5.8, and what has that size arrives. Then streams find their way."""
    with two_hosts() as hosts:
        for known, path_mtu, state in ((1500, 1400, ""), (1400, 1380, ENCAP)):
            hosts.router.up("eth1", mtu=path_mtu)
            for outer in (4, 6):
                tunnel = Tunnel(f"over{outer}at{path_mtu}", path_mtu // 20 + 10 * outer, outer=outer, state=state)
                hosts.set_up(tunnel)
                expected = inner_mtu(path_mtu, outer, bool(state))
                with (
                    udp(hosts.moon, hosts.sun, tunnel.address("sun", 4)) as first,
                    udp(hosts.moon, hosts.sun, tunnel.address("sun", 6)) as second,
                ):
                    hosts.clear()
                    before = counters(hosts.moon, tunnel.name)
                    first.send(inner_mtu(known, outer, bool(state)))
                    eventually(lambda: complaints(hosts), "the router says nothing")
                    assert first.mtu == 1500
                    assert first.near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
                    assert counters(hosts.moon, tunnel.name).tx_errors == before.tx_errors
                    with rises(hosts.moon):  # no MIB counter knows of this
                        comes_to_know(first, expected)
                        assert first.arrives(expected)
                        learns(second, expected)  # the other family of the same tunnel: at its first packet
                for family in (4, 6):
                    assert tcp_transfer(hosts.moon, hosts.sun, tunnel.address("sun", family), 300_000).intact
        assert hosts.shown() == []


def send_icmp(router: Node, host: str, version: int, message: bytes) -> None:
    """An ICMP message with the right checksum, from a router to one of the hosts."""
    if version == 4:
        message = message[:2] + b"\0\0" + message[4:]
        message = message[:2] + checksum(message).to_bytes(2) + message[4:]
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    with router, socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_RAW, protocol) as out:
        out.sendto(message, (OUTER[host, version], 0))


def quoted(version: int, tunnel: Tunnel, spi: int = 0, dst: str = "", ports: tuple[int, int] = (4500, 4500)) -> bytes:
    """The beginning of a packet that moon may have sent to sun, with the tunnel's SPI unless another is given."""
    src, to = (pack_address(OUTER["moon", version]), pack_address(dst or OUTER["sun", version]))
    upper = struct.pack(">IIQ", spi or tunnel.spi("moon"), 1, 0)
    if tunnel.state:
        upper = struct.pack(">HHHH", *ports, 1400, 0) + upper
    protocol = 17 if tunnel.state else 50
    if version == 6:
        return struct.pack(">IHBB", 6 << 28, 1400, protocol, 60) + src + to + upper
    header = struct.pack(">BBHHHBBH", 0x45, 0, 1420, 0, 0x4000, 60, protocol, 0) + src + to
    return header[:10] + ipv4_header_checksum(header).to_bytes(2) + header[12:] + upper


def too_big(version: int, mtu: int, quote: bytes) -> bytes:
    return struct.pack(">BBHI", 3, 4, 0, mtu) + quote if version == 4 else struct.pack(">BBHI", 2, 0, 0, mtu) + quote


@in_netns
def test_T_21_what_is_forged_changes_nothing() -> None:
    """1.7: without a valid SPI nobody has a say, and nor have redirects and other errors, whatever they quote. What
    comes after them, with the right SPI, does count: so they have been looked at before."""
    with two_hosts() as hosts:
        tunnels = [
            Tunnel(f"over{outer}{'u' if state else ''}", 60 + outer + bool(state), outer=outer, state=state)
            for state in ("", ENCAP) for outer in (4, 6)
        ]  # fmt: skip
        hosts.set_up(*tunnels)
        genuine = 1450
        for tunnel in tunnels:
            version = tunnel.outer
            with udp(hosts.moon, hosts.sun, tunnel.address("sun", 4)) as path, rises(hosts.moon):
                assert path.arrives(inner_mtu(genuine, version, bool(tunnel.state)))
                stranger = "192.0.2.77" if version == 4 else "2001:db8:2::77"
                lies = [
                    too_big(version, 1300, quoted(version, tunnel, spi=0x7777)),
                    too_big(version, 1300, quoted(version, tunnel, dst=stranger)),
                    too_big(version, 1300, quoted(version, tunnel, ports=(4500, 4501))) if tunnel.state else b"",
                    too_big(version, 1300, quoted(version, tunnel)[:-9]) if not tunnel.state else b"",  # 7 bytes of ESP
                    struct.pack(">BBHI", 3 if version == 4 else 1, 3, 0, 1300) + quoted(version, tunnel),
                    struct.pack(">BBHI", 11 if version == 4 else 3, 0, 0, 1300) + quoted(version, tunnel),
                    struct.pack(">BBH4s", 5, 1, 0, bytes((192, 0, 2, 2))) + quoted(version, tunnel)
                    if version == 4 else b"",
                ]  # fmt: skip
                for lie in filter(None, lies):
                    send_icmp(hosts.router, "moon", version, lie)
                send_icmp(hosts.router, "moon", version, too_big(version, genuine, quoted(version, tunnel)))
                comes_to_know(path, inner_mtu(genuine, version, bool(tunnel.state)))
                assert path.arrives(path.mtu)
            genuine -= 10  # what is learned is learned for the peer, so the next tunnel has to be told less
        assert hosts.shown() == []


@in_netns
def test_1_7_a_short_quote_of_esp_in_udp_is_known_by_its_ports() -> None:
    """Old routers quote 8 bytes behind the IP header: of UDP that is no SPI, and a kernel has only its socket then."""
    with two_hosts() as hosts:
        tunnel = Tunnel("ipsec0", 70, state=ENCAP)
        hosts.set_up(tunnel)
        with udp(hosts.moon, hosts.sun, tunnel.address("sun", 4)) as path:
            assert path.arrives(1000)
            other = too_big(4, 1300, quoted(4, tunnel, ports=(4500, 4501))[:28])
            send_icmp(hosts.router, "moon", 4, other)
            send_icmp(hosts.router, "moon", 4, too_big(4, 1400, quoted(4, tunnel)[:28]))
            comes_to_know(path, inner_mtu(1400, 4, True))


@in_netns
def test_1_7_outer_packets_without_df_are_fragmented_for_the_path() -> None:
    """TX-12b: to the size that was learned, not to the device's; put together before ESP; raw and in UDP."""
    with two_hosts() as hosts:
        tunnels = [
            Tunnel(f"over{outer}{'u' if state else ''}", 80 + outer + bool(state), outer=outer, state=state)
            for state in ("", ENCAP) for outer in (4, 6)
        ]  # fmt: skip
        others = [Tunnel(f"other{outer}", 90 + outer, outer=outer) for outer in (4, 6)]
        hosts.set_up(*tunnels, *others)
        for tunnel in others:  # inside of which the host's own routes learn, too
            with udp(hosts.moon, hosts.sun, tunnel.address("sun", 4)) as path:
                assert path.arrives(1000)
                lie = too_big(tunnel.outer, 1300, quoted(tunnel.outer, tunnel))
                send_icmp(hosts.router, "moon", tunnel.outer, lie)
                comes_to_know(path, inner_mtu(1300, tunnel.outer))
        for tunnel in tunnels:
            hosts.clear()
            with (
                rises(hosts.moon),
                rises(hosts.sun),
                udp(hosts.moon, hosts.sun, tunnel.address("sun", 4), PMTUDISC_DONT) as path,
            ):
                assert path.arrives(1300)
                lengths = sorted(len(packet) for packet in fragments(hosts, tunnel.outer))
                assert len(lengths) == 2
                assert 1290 <= lengths[1] <= 1300


@on_stage
def test_a_flood_of_icmp_errors_neither_stops_traffic_nor_teaches_anything(hosts: Hosts) -> None:
    """1.7: bounded work for each turn, bounded memory; genuine quotes of another destination included."""
    tunnel = Tunnel("ipsec0", 90)
    hosts.set_up(tunnel)
    lies = [too_big(4, 1300, quoted(4, tunnel, spi=0x9000 + number)) for number in range(50)]
    lies += [struct.pack(">BBHI", 3, 2, 0, 0) + quoted(4, tunnel)] * 50  # protocol unreachable
    address = tunnel.address("sun", 4)
    with udp(hosts.moon, hosts.sun, address) as path, rises(hosts.moon):
        for _ in range(10):
            for lie in lies:
                send_icmp(hosts.router, "moon", 4, lie)
            assert path.arrives(1446)
        assert path.mtu == 1500
    assert counters(hosts.moon, "ipsec0").tx_errors == 0
