"""What the host refuses or loses: told of exactly the packets it happened to, and of no others."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pyroute2 import IPRoute

from tests.dev.test_udp import burst, open_udp, packet
from tests.dev.wire import ESP, FAMILY, Wire, outer, outgoing, too_big
from tests.netfilter import need_nft, rule
from tests.netns import in_netns, ip
from xfrmi.core.outgoing import Outgoing
from xfrmi.core.router import StaticRouter
from xfrmi.dev.device import Failure
from xfrmi.dev.raw import RawEsp
from xfrmi.dev.udp import UdpEncap

both = pytest.mark.parametrize("version", [4, 6])
kinds = pytest.mark.parametrize("kind", ["raw", "udp"])


def opened(kind: str, version: int) -> RawEsp | UdpEncap:
    return RawEsp(FAMILY[version], StaticRouter()) if kind == "raw" else open_udp(FAMILY[version])


def packets(kind: str, version: int, *lengths: int) -> Outgoing:
    """Outer packets with that many bytes of ESP each."""
    esp = [(ESP * 30)[:length] for length in lengths]
    if kind == "raw":
        return outgoing(version, *(outer(version, body) for body in esp))
    return burst(version, *(packet(version, body) for body in esp))


def failed(failures: list[Failure], number: int) -> list[int]:
    assert {failure.errno for failure in failures} <= {number}
    return [position for failure in failures for position in failure.positions]


@pytest.mark.parametrize("verdict", ["drop", "reject"])
@kinds
@both
@in_netns
def test_netfilter_refuses_some(version: int, kind: str, verdict: str) -> None:
    """The ICMP error that `reject` sends to ourselves waits in the socket and is reported by the next call: it must not
    cost the packet that call was for."""
    need_nft()
    wire = Wire()
    device = opened(kind, version)
    sent = packets(kind, version, 100, 900, 110, 910, 920, 120)
    with rule("output", f"meta length > 500 {verdict}"):
        assert device.send_burst([sent]) == 3
        assert failed(device.failures, errno.EPERM) == [1, 3, 4]
        assert device.send_burst([sent]) == 3
    assert [len(p) for p in wire.sent()] == [len(sent.packets[index]) for index in (0, 2, 5)] * 2
    assert device.send_burst([sent]) == 6, "the rule is gone"
    assert device.recv_burst() == []


@both
@in_netns
def test_netfilter_decides_on_packets_not_on_runs(version: int) -> None:
    """It sees a segmented run as one large packet; the kernel's own ESP never shows it one."""
    need_nft()
    wire = Wire()
    device = open_udp(FAMILY[version])
    run = packets("udp", version, *[400] * 10, 200)
    with rule("postrouting", "meta length > 1000 drop"):
        assert device.send_burst([run]) == 11
        assert device.failures == []
    assert len(wire.sent()) == 11
    with rule("postrouting", "meta length > 400 drop"):
        assert device.send_burst([run]) == 1
        assert failed(device.failures, errno.EPERM) == list(range(10))
    assert len(wire.sent()) == 1
    assert device.send_burst([run]) == 11


@contextmanager
def slow_queue(name: str) -> Iterator[None]:
    """Room for 1600 bytes, and they stay there."""
    with IPRoute() as netlink:
        index = netlink.link_lookup(ifname=name)[0]
        try:
            netlink.tc("add", "tbf", index=index, handle=0x10000, parent=0xFFFFFFFF, rate=1000, burst=1600, limit=1600)
        except Exception as error:
            pytest.skip(f"THIS KERNEL HAS NO TOKEN BUCKET (sch_tbf), LOSSES IN QUEUES NOT TESTED: {error}")
        yield
        netlink.tc("del", index=index, handle=0x10000, parent=0xFFFFFFFF)


@kinds
@both
@in_netns
def test_what_a_full_queue_loses_is_told(version: int, kind: str) -> None:
    """ENOBUFS, which a socket hears of only if it asked (IP_RECVERR); two packets pass or wait, as with a kernel's own
    xfrm interface."""
    wire = Wire()
    device = opened(kind, version)
    sent = packets(kind, version, *range(1000, 1006))
    with slow_queue("wire0"):
        assert device.send_burst([sent]) == 2
        assert failed(device.failures, errno.ENOBUFS) == [2, 3, 4, 5]
        assert len(wire.sent()) == 1
    assert device.send_burst([sent]) == 6


@kinds
@both
@in_netns
def test_a_device_that_is_down(version: int, kind: str) -> None:
    Wire()
    ip("link set wire0 down")
    device = opened(kind, version)
    sent = packets(kind, version, 100, 200)
    assert device.send_burst([sent]) == 0
    # An IPv6 address goes with its device, and a UDP socket may not send from what is nobody's.
    assert failed(device.failures, errno.EINVAL if (kind, version) == ("udp", 6) else errno.ENETUNREACH) == [0, 1]


@kinds
@both
@in_netns
def test_a_route_that_refuses(version: int, kind: str) -> None:
    """Each kind of refusal has its error."""
    Wire()
    device = opened(kind, version)
    sent = packets(kind, version, 100, 200)
    network = {4: "192.0.2.2/32", 6: "2001:db8::2/128"}[version]
    for word, number in (
        ("unreachable", errno.EHOSTUNREACH),
        ("prohibit", errno.EACCES),
        ("blackhole", errno.EINVAL),
    ):
        ip(f"-{version} route add {word} {network}")
        assert device.send_burst([sent]) == 0
        assert failed(device.failures, number) == [0, 1], word
        ip(f"-{version} route del {word} {network}")
    assert device.send_burst([sent]) == 2


@kinds
@both
@in_netns
def test_errors_of_others_are_forgotten(version: int, kind: str) -> None:
    """Between bursts no ICMP error is kept in the memory for what we receive, nor does one wake us."""
    wire = Wire()
    device = opened(kind, version)
    sent = packets(kind, version, 100)
    assert device.send_burst([sent]) == 1
    (seen,) = wire.sent()
    for _ in range(5):
        wire.inject(too_big(version, seen, 1380))
    assert select.select([device], [], [], 0.02)[0] == []
    with socket.socket(fileno=device._socket.detach()) as bare, pytest.raises(BlockingIOError):
        bare.recvmsg(1, 0, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
