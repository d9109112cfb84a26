"""T-11, T-12, T-21: packets that do not fit, who is told how much would, and who may change that."""

from __future__ import annotations

import errno

from tests.conformance.frames import (
    IP_MTU_DISCOVER,
    PMTUDISC_DO,
    PMTUDISC_DONT,
    SO_EE_ORIGIN_ICMP,
    SO_EE_ORIGIN_ICMP6,
    Complaint,
    complaint,
    flip,
    inbox,
    outbox,
)
from tests.netns import in_netns
from tests.system.hosts import ROUTER, Hosts, Tunnel, device_counts, rises, two_hosts
from tests.system.stage import on_stage
from xfrmi.lab.traffic import filler, ping
from xfrmi.lab.wiretap import ETH_HEADER_LEN, kind
from xfrmi.wire.address import pack_address
from xfrmi.wire.icmp import ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED, ICMPV6_PKT_TOOBIG, frag_needed, packet_too_big

HEADERS = {4: 28, 6: 48}
"""IP and UDP."""
DISCOVER = {4: IP_MTU_DISCOVER, 6: 23}


def too_big(family: int, mtu: int) -> Complaint:
    if family == 4:
        return Complaint(errno.EMSGSIZE, SO_EE_ORIGIN_ICMP, ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED, mtu)
    return Complaint(errno.EMSGSIZE, SO_EE_ORIGIN_ICMP6, ICMPV6_PKT_TOOBIG, 0, mtu)


def refused(hosts: Hosts, tunnel: Tunnel, family: int, length: int, mtu: int) -> None:
    """A packet of this length with DF is dropped, its sender told `mtu`."""
    with (
        rises(hosts.moon),
        device_counts(hosts.moon, tunnel.name, tx_errors=1, tx_dropped=1),
        outbox(hosts.moon, tunnel.address("sun", family), (DISCOVER[family], PMTUDISC_DO)) as sender,
    ):
        sender.send(filler(length - HEADERS[family]))
        assert complaint(sender) == too_big(family, mtu)


def arrives(hosts: Hosts, tunnel: Tunnel, family: int, length: int, discover: int = PMTUDISC_DO) -> list[bytes]:
    """A packet of this length does; the frames with ESP, or parts of it, that left moon for it."""
    address, payload = tunnel.address("sun", family), filler(length - HEADERS[family])
    hosts.clear()
    with (
        rises(hosts.moon),
        rises(hosts.sun),
        inbox(hosts.sun, address) as box,
        outbox(hosts.moon, address, (DISCOVER[family], discover)) as sender,
    ):
        sender.send(payload)
        assert box.next().payload == payload
    return [frame for frame in hosts.wire("moon") if kind(frame) in ("ESP", "IPv6 protocol 44")]


@on_stage
def test_t11_more_than_the_tunnel_carries(hosts: Hosts) -> None:
    """T-11: TX-12b, 5.8: without DF in two fragments; with DF the sender is told 1446, and 1446 does fit."""
    tunnel = Tunnel("ipsec0", 42)
    hosts.set_up(tunnel)
    fragments = arrives(hosts, tunnel, 4, 1500, PMTUDISC_DONT)
    flags = [int.from_bytes(frame[ETH_HEADER_LEN + 6 : ETH_HEADER_LEN + 8], "big") for frame in fragments]
    assert [flag >> 13 for flag in flags] == [1, 0], "ESP first, then fragments: more to come, no more"
    refused(hosts, tunnel, 4, 1500, 1446)
    (frame,) = arrives(hosts, tunnel, 4, 1446)
    assert len(frame) == ETH_HEADER_LEN + 1500
    (frame,) = arrives(hosts, tunnel, 4, 1446, PMTUDISC_DONT)


@on_stage
def test_t12_ipv6_is_never_told_less_than_1280(hosts: Hosts) -> None:
    """T-12: TX-12a: 1206 would fit, 1400 is told 1280, and 1280 goes out, outside in two fragments."""
    tunnel = Tunnel("ipsec0", 42, outer=6)
    hosts.set_up(tunnel)
    hosts.moon.up("eth0", mtu=1280)
    refused(hosts, tunnel, 6, 1400, 1280)
    assert len(arrives(hosts, tunnel, 6, 1280)) == 2
    (frame,) = arrives(hosts, tunnel, 6, 1206)
    assert len(frame) == ETH_HEADER_LEN + 1280


INNER_MTU = {4: 1446, 6: 1426}
NARROW = 1400


@in_netns  # on hosts of its own: what is learned stays for ten minutes
def test_t21_icmp_about_what_we_sent() -> None:
    """T-21: 1.7: who quotes a valid SPI lowers the path MTU, which the next inner packet learns; who does not, not."""
    with two_hosts() as hosts:
        for over, whole in INNER_MTU.items():
            tunnel = Tunnel(f"over{over}", 40 + over, outer=over)
            hosts.set_up(tunnel)
            hosts.clear()
            assert len(ping(hosts.moon, tunnel.address("sun", 4), 1)) == 1
            frame = next(frame for frame in hosts.wire("moon") if kind(frame) == "ESP")
            spi = ETH_HEADER_LEN + {4: 20, 6: 40}[over]
            for quoted in (flip(frame, spi + 3), flip(frame, spi)):
                complain(hosts, quoted, over)
                for inner in (4, 6):
                    arrives(hosts, tunnel, inner, whole)
            complain(hosts, frame, over)
            narrow = whole - 1500 + NARROW
            for inner in (4, 6):
                refused(hosts, tunnel, inner, whole, narrow)
                arrives(hosts, tunnel, inner, narrow)


def complain(hosts: Hosts, quoted: bytes, over: int) -> None:
    """Send moon the router's ICMP error about this frame, as if the link behind the router carried NARROW bytes."""
    router = pack_address(ROUTER["moon", over])
    answer = frag_needed if over == 4 else packet_too_big
    packet = answer(quoted[ETH_HEADER_LEN:], NARROW, router)
    assert packet is not None
    hosts.taps["moon"].inject(quoted[6:12] + quoted[:6] + quoted[12:14] + packet)
