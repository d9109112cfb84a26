"""Which socket sends what, and what the loop has to wait for."""

from __future__ import annotations

import errno
import socket

import pytest

from tests.dev.wire import ESP, OWN4, Wire, from_peer, ipv4, ipv6, outgoing, udp
from tests.netns import in_netns
from xfrmi.core.outgoing import Outgoing
from xfrmi.core.path import Path
from xfrmi.core.router import StaticRouter
from xfrmi.dev.udp import UdpEncap
from xfrmi.dev.underlay import Underlay
from xfrmi.errors import XfrmError

DATAGRAM = ipv4(udp(ESP), proto=17)


def encapsulated(**fields: object) -> Outgoing:
    return outgoing(4, DATAGRAM, sport=4500, dport=4500, **fields)


@in_netns
def test_each_path_has_its_socket() -> None:
    wire = Wire()
    underlay = Underlay(StaticRouter())
    device = underlay.listen(socket.AF_INET, 4500)
    assert isinstance(device, UdpEncap)
    seen: list[Outgoing] = []
    send = device.send_burst
    device.send_burst = lambda burst: (seen.extend(burst), send(burst))[1]
    tunnel, transport = encapsulated(use_udp_socket=True), encapsulated()
    assert underlay.send([outgoing(4, ipv4(ESP)), tunnel, outgoing(6, ipv6(ESP)), transport]) == []
    assert sorted(wire.sent()) == sorted([ipv4(ESP), DATAGRAM, ipv6(ESP), DATAGRAM])
    assert seen == [tunnel]


@in_netns
def test_a_port_nobody_opened_is_served_by_the_raw_socket() -> None:
    """The packets are complete."""
    wire = Wire()
    underlay = Underlay(StaticRouter())
    assert underlay.send([encapsulated(use_udp_socket=True)]) == []
    assert wire.sent() == [DATAGRAM]


@in_netns
def test_the_loop_sees_every_device_once() -> None:
    wire = Wire()
    underlay = Underlay(StaticRouter())
    first = list(underlay)
    assert len(first) == 2
    opened = underlay.listen(socket.AF_INET, 4500)
    assert underlay.listen(socket.AF_INET, 4500) is None
    assert list(underlay) == [*first, opened]
    wire.inject(from_peer(4), from_peer(6), from_peer(4, udp(ESP), proto=17))
    assert [len(device.recv_burst()) for device in underlay] == [1, 1, 1]
    underlay.close()
    assert all(device.fileno() == -1 for device in underlay)


@in_netns
def test_what_did_not_leave_comes_back() -> None:
    Wire()
    underlay = Underlay(StaticRouter())
    underlay.listen(socket.AF_INET, 4500)
    nowhere = Path(2, OWN4, bytes((9, 9, 9, 9)), 4500, 4500, use_udp_socket=True)
    lost = [Outgoing(nowhere, [DATAGRAM]), outgoing(4, ipv4(bytes(1600)), ipv4(ESP))]
    assert underlay.send(lost) == [(lost[0], range(1), errno.ENETUNREACH), (lost[1], range(1), errno.EMSGSIZE)]


@in_netns
def test_a_machine_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    Wire()

    class NoIpv6(socket.socket):
        def __init__(self, family: int = -1, *rest: object, **more: object) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *rest, **more)

    monkeypatch.setattr(socket, "socket", NoIpv6)
    underlay = Underlay(StaticRouter())
    assert len(list(underlay)) == 1
    lost = outgoing(6, ipv6(ESP), ipv6(ESP))
    assert underlay.send([lost]) == [(lost, range(2), errno.EAFNOSUPPORT)]
    with pytest.raises(XfrmError) as refused:
        underlay.listen(socket.AF_INET6, 4500)
    assert refused.value.errno == errno.EAFNOSUPPORT


@in_netns
def test_without_the_capability_the_error_says_which() -> None:
    import ctypes

    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(header, data) == 0
    with pytest.raises(XfrmError) as refused:
        Underlay(StaticRouter())
    assert refused.value.errno == errno.EPERM
    assert "CAP_NET_RAW" in refused.value.detail
