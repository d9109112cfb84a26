"""The kernel's routes as the core asks for them: cached, dropped on change, path MTU noticed."""

from __future__ import annotations

import os
import select
import socket

import pytest

from tests.dev.wire import FAMILY, FAR, OWN, OWN4, PEER, Wire, from_peer, outer, outgoing, too_big
from tests.netns import in_netns, ip, sysctl
from xfrmi.core.router import Route, Router
from xfrmi.dev import router as router_module
from xfrmi.dev.raw import RawEsp
from xfrmi.dev.router import MAX_AGE, KernelRouter
from xfrmi.wire.address import format_address, pack_address

FAR_PREFIX = {4: "198.51.100.0/24", 6: "2001:db8:9::/64"}
IP_MTU, IPV6_MTU = 14, 24
both = pytest.mark.parametrize("version", [4, 6])


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def announced(router: KernelRouter) -> None:
    """Wait for the kernel's announcements and take them in."""
    assert select.select([router], [], [], 2)[0] == [router]
    router.process()


@both
@in_netns
def test_the_mtu_is_the_links_or_the_routes(version: int) -> None:
    Wire(mtu=1400)
    router: Router = KernelRouter()
    index = socket.if_nametoindex("wire0")
    assert router.route(PEER[version], b"", 0, 0) == Route(1400, index, OWN[version])
    assert router.route(PEER[version], bytes(len(PEER[version])), index, 0) == Route(1400, index, OWN[version])
    special = {4: "198.51.100.0/24", 6: "2001:db8:9::/64"}[version]
    ip(f"-{version} route add {special} dev wire0 mtu 1300")
    far = router.route(pack_address({4: "198.51.100.7", 6: "2001:db8:9::7"}[version]), OWN[version], 0, 0)
    assert far == Route(1300, index, OWN[version])
    local = router.route(OWN[version], b"", 0, 0)
    assert local is not None
    assert local.mtu == 65535


@both
@in_netns
def test_5_3_the_hop_limit_is_the_routes_or_the_hosts(version: int) -> None:
    """Over IPv6 it is the device's, which routers set (5.4)."""
    Wire()
    clock = Clock()
    router = KernelRouter(clock)

    def hop_limit() -> int:
        clock.now += MAX_AGE  # nobody announces sysctls
        route = router.route(PEER[version], b"", 0, 0)
        assert route is not None
        return route.hop_limit

    assert hop_limit() == 64
    before = router.generation
    sysctl({4: "net.ipv4.ip_default_ttl", 6: "net.ipv6.conf.wire0.hop_limit"}[version], 42)
    assert hop_limit() == 42
    assert router.generation == before + 1
    ip(f"-{version} route add {({4: '192.0.2.2/32', 6: '2001:db8::2/128'})[version]} dev wire0 hoplimit 7")
    assert hop_limit() == 7


@in_netns
def test_whatever_the_kernel_refuses_is_no_route() -> None:
    Wire()
    ip("route add prohibit 198.51.100.0/24")
    router = KernelRouter()
    assert router.route(pack_address("203.0.113.1"), b"", 0, 0) is None  # ENETUNREACH
    assert router.route(pack_address("198.51.100.1"), b"", 0, 0) is None  # EACCES
    assert router.route(PEER[4], pack_address("203.0.113.1"), 0, 0) is None  # a source that is not ours
    assert router.route(PEER[4], b"", 4711, 0) is None  # no such device


@both
@in_netns
def test_what_the_kernel_learned_from_icmp_does_not_count(version: int) -> None:
    """1.7: it believes forgeries. What the route was given counts as ever."""
    wire = Wire()
    clock = Clock()
    router = KernelRouter(clock)
    index = socket.if_nametoindex("wire0")
    for mtu, given in ((1500, ""), (1450, "mtu 1450")):
        ip(f"-{version} route replace {FAR_PREFIX[version]} dev wire0 {given}")
        with socket.socket(FAMILY[version], socket.SOCK_DGRAM) as anybody:
            anybody.connect((format_address(FAR[version]), 4500))
            anybody.send(bytes(20))
            wire.inject(too_big(version, wire.sent()[-1], 1380))
            option = (socket.IPPROTO_IP, IP_MTU) if version == 4 else (socket.IPPROTO_IPV6, IPV6_MTU)
            assert anybody.getsockopt(*option) == 1380
        router.process()
        assert router.route(FAR[version], b"", 0, 0) == Route(mtu, index, OWN[version])


@both
@in_netns
def test_a_locked_mtu_is_said_to_be(version: int) -> None:
    Wire()
    ip(f"-{version} route add {FAR_PREFIX[version]} dev wire0 mtu lock 1400")
    route = KernelRouter().route(FAR[version], b"", 0, 0)
    assert route is not None
    assert (route.mtu, route.locked) == (1400, True)


@in_netns
def test_a_change_that_nobody_announces_is_noticed_in_time() -> None:
    """The MTU that a router of the link advertises is kept here (RFC 4861 6.3.4)."""
    Wire()
    clock = Clock()
    router = KernelRouter(clock)
    index = socket.if_nametoindex("wire0")
    assert router.route(PEER[6], b"", 0, 0) == Route(1500, index, OWN[6])
    router.process()
    before = router.generation
    sysctl("net.ipv6.conf.wire0.mtu", 1400)
    router.process()
    assert router.route(PEER[6], b"", 0, 0) == Route(1500, index, OWN[6])
    clock.now += MAX_AGE
    assert router.route(PEER[6], b"", 0, 0) == Route(1400, index, OWN[6])
    assert router.route(PEER[4], b"", 0, 0) == Route(1500, index, OWN4)
    assert router.generation == before + 1


@both
@in_netns
def test_icmp_errors_neither_cost_packets_nor_keep_the_socket_readable(version: int) -> None:
    wire = Wire()
    device = RawEsp(FAMILY[version], KernelRouter(Clock()))
    for mtu in (1400, 1380):
        wire.inject(too_big(version, outer(version), mtu))
        assert device.send_burst([outgoing(version, outer(version))]) == 1
    assert wire.sent() == [outer(version)] * 2
    wire.inject(too_big(version, outer(version), 1360))
    assert device.recv_burst() == []
    assert select.select([device], [], [], 0)[0] == []
    wire.inject(from_peer(version))
    assert len(device.recv_burst()) == 1


CHANGES = {
    "link": ["link set wire0 mtu 1400"],
    "address": ["addr add 10.7.7.7/32 dev wire0"],
    "IPv6 address": ["addr add 2001:db8:7::7/64 dev wire0 nodad"],
    "route": ["route add 198.51.100.0/24 dev wire0"],
    "IPv6 route": ["-6 route add 2001:db8:9::/64 dev wire0"],
    "rule": ["rule add fwmark 7 table 7"],
    "IPv6 rule": ["-6 rule add fwmark 7 table 7"],
}


@pytest.mark.parametrize("what", CHANGES)
@in_netns
def test_a_change_drops_what_is_kept(what: str) -> None:
    Wire()
    router = KernelRouter(Clock())
    router.route(PEER[4], b"", 0, 0)
    router.process()
    before = router.generation
    assert select.select([router], [], [], 0)[0] == []
    for command in CHANGES[what]:
        ip(command)
    announced(router)
    assert router.generation > before
    route = router.route(PEER[4], b"", 0, 0)
    assert route is not None
    assert route.mtu == (1400 if what == "link" else 1500)


@in_netns
def test_answers_are_kept_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    Wire()
    monkeypatch.setattr(router_module, "MAX_ROUTES", 8)
    router = KernelRouter(Clock())
    asked: list[bytes] = []
    ask = router._ask

    def counting(dst: bytes, *rest: object) -> Route | None:
        asked.append(dst)
        return ask(dst, *rest)

    monkeypatch.setattr(router, "_ask", counting)
    for _ in range(3):
        router.route(PEER[4], b"", 0, 0)
    assert asked == [PEER[4]]
    for last in range(20):
        router.route(bytes((192, 0, 2, last + 2)), b"", 0, 0)
    assert len(router._routes) <= 8


@in_netns
def test_more_announcements_than_the_socket_holds() -> None:
    """ENOBUFS tells that some are lost, so something has changed."""
    Wire()
    router = KernelRouter(Clock())
    with socket.socket(fileno=os.dup(router.fileno())) as monitor:
        monitor.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    before = router.generation
    for number in range(30):
        ip(f"route add 198.51.100.{number} dev wire0")
    announced(router)
    assert router.generation == before + 1
    assert select.select([router], [], [], 0)[0] == []


LOCAL = {
    "192.0.2.1": True,
    "192.0.2.255": True,  # the network's broadcast address, though none was configured
    "192.0.2.2": False,
    "10.1.1.1": True,
    "10.1.1.3": False,
    "127.0.0.1": True,
    "127.9.9.9": True,
    "224.0.0.5": True,
    "255.255.255.255": True,
    "2001:db8::1": True,
    "2001:db8::2": False,
    "::1": True,
    "fe80::1": True,
    "fe80::2": False,
    "ff02::1": True,
}


@in_netns
def test_what_is_delivered_here() -> None:
    """2.6: `in` or `fwd` is decided by the destination."""
    Wire()
    ip("link add veth0 type veth peer name veth1")
    ip("addr add 10.1.1.1/31 dev veth0")
    ip("addr add fe80::1/64 dev wire0 nodad")
    ip("addr add fe80::2/64 dev veth0 nodad")
    router = KernelRouter()
    index = socket.if_nametoindex("wire0")
    assert {text: router.is_local(index, pack_address(text)) for text in LOCAL} == LOCAL


@in_netns
def test_a_new_address_is_ours_once_announced() -> None:
    Wire()
    router = KernelRouter()
    address = pack_address("10.7.7.7")
    assert not router.is_local(1, address)
    ip("addr add 10.7.7.7/32 dev wire0")
    announced(router)
    assert router.is_local(1, address)
