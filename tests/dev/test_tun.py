"""The TUN: super-packets both ways, take-over, carrier, and errors that say what mends them."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import time
from collections.abc import Sequence

import pytest
import pytun

from tests.dev.wire import ipv4
from tests.netns import Namespace, in_netns, ip, need_tun
from xfrmi.dev import tun as tun_module
from xfrmi.dev.rtnl import IFF_MULTICAST, Rtnl
from xfrmi.dev.tun import BURST_PACKETS, Tun, shape_like_xfrm
from xfrmi.errors import XfrmError
from xfrmi.wire.ip import checksum, pseudo_header_sum
from xfrmi.wire.link_types import IFF_LOWER_UP, IFF_UP, OPER_DOWN
from xfrmi.wire.vnet import GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, Packet, SuperPacket

both = pytest.mark.parametrize("version", [4, 6])
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
NET = {4: ("10.0.0.1/24", "10.0.0.2/24"), 6: ("fd00::1/64", "fd00::2/64")}


def address(version: int, end: int) -> str:
    return NET[version][end].partition("/")[0]


_OPEN: list[Tun] = []
"""A TUN lives as long as its descriptor: until the child that runs the test ends."""


def open_tun(version: int, end: int = 0, **options: bool) -> Tun:
    """A TUN that is up and has an address; the host's side of it is ready to use."""
    need_tun()
    tun = Tun("xfrm0", **options)
    _OPEN.append(tun)
    ip(f"addr add {NET[version][end]} dev xfrm0" + (" nodad" if version == 6 else ""))
    ip("link set xfrm0 up")
    return tun


def unicast(tun: Tun) -> list[object]:
    """A burst without the host's own multicast noise, payload copied."""
    seen: list[object] = []
    for packet in tun.recv_burst():
        data = packet.data if isinstance(packet, SuperPacket) else packet
        if data[0] >> 4 == 4 or data[24] != 0xFF:
            seen.append(packet if isinstance(packet, SuperPacket) else bytes(packet))
    return seen


@both
@in_netns
def test_tcp_through_super_packets(version: int) -> None:
    """A real connection between two namespaces over two TUNs: what one hands over, the other takes back."""
    here, far_side = open_tun(version, 0), Namespace()
    with far_side:
        there = open_tun(version, 1)
        server = socket.create_server((address(version, 1), 5001), family=FAMILY[version])
    server.setblocking(False)
    client = socket.socket(FAMILY[version])
    client.setblocking(False)
    client.connect_ex((address(version, 1), 5001))
    data = os.urandom(1 << 20)
    sent, received, supers = 0, bytearray(), []
    peer: socket.socket | None = None
    deadline = time.monotonic() + 20
    while len(received) < len(data) and time.monotonic() < deadline:
        select.select([here, there, peer or server], [], [], 0.1)
        for one, other in ((here, there), (there, here)):
            burst = one.recv_burst()
            supers += [(packet.gso_type, packet.segments) for packet in burst if isinstance(packet, SuperPacket)]
            other.send_burst(burst)
        try:
            if peer is None:
                peer = server.accept()[0]
                peer.setblocking(False)
            received += peer.recv(1 << 18)
        except BlockingIOError:
            pass
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            sent += client.send(data[sent : sent + (1 << 18)])
    assert bytes(received) == data
    assert {gso_type for gso_type, _ in supers} == {GSO_TCPV4 if version == 4 else GSO_TCPV6}
    assert max(segments for _, segments in supers) > 8
    assert (here.errors, there.errors, here.malformed, there.malformed) == (0, 0, 0, 0)


@both
@in_netns
def test_udp_super_packets_when_the_kernel_has_them(version: int) -> None:
    tun = open_tun(version)
    if GSO_UDP_L4 not in tun.takes:
        pytest.skip("this kernel has no UDP segmentation offload for TUNs")
    with socket.socket(FAMILY[version], socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_UDP, 103, 1000)
        sender.sendto(bytes(9500), (address(version, 1), 9))
    (packet,) = unicast(tun)
    assert isinstance(packet, SuperPacket)
    assert (packet.gso_type, packet.gso_size, packet.segments) == (GSO_UDP_L4, 1000, 10)


@both
@in_netns
def test_checksums_arrive_finished(version: int) -> None:
    tun = open_tun(version)
    with socket.socket(FAMILY[version], socket.SOCK_DGRAM) as sender:
        sender.sendto(b"odd", (address(version, 1), 9))
    (packet,) = unicast(tun)
    assert isinstance(packet, bytes)
    start = 20 if version == 4 else 40
    addresses = packet[12:20] if version == 4 else packet[8:40]
    assert packet[start + 6 : start + 8] != bytes(2)
    assert checksum(packet[start:], pseudo_header_sum(addresses, 17, 11)) == 0


@in_netns
def test_without_offload_segments_are_cut_by_the_kernel() -> None:
    tun = open_tun(4, offload=False)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_UDP, 103, 1000)
        sender.sendto(bytes(2500), (address(4, 1), 9))
    assert [len(packet) for packet in unicast(tun)] == [1028, 1028, 528]


@in_netns
def test_a_burst_is_bounded_by_packets_and_by_bytes() -> None:
    tun = open_tun(4)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(BURST_PACKETS + 10):
            sender.sendto(bytes([number]), (address(4, 1), 9))
        bursts = [tun.recv_burst() for _ in range(2)]
        sizes = [len(burst) for burst in bursts]
        while tun.recv_burst():
            pass
        ip("link set xfrm0 mtu 40000")
        for _ in range(8):
            sender.sendto(bytes(39000), (address(4, 1), 9))
    assert sizes[0] == BURST_PACKETS
    assert sizes[1] >= 10
    # The host may have something to say of its own (router solicitations).
    assert sum(len(packet) > 39000 for packet in tun.recv_burst() if not isinstance(packet, SuperPacket)) == 6


@in_netns
def test_what_is_sent_is_received_by_the_host() -> None:
    tun = open_tun(4)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind((address(4, 0), 2222))
        receiver.settimeout(2)
        datagram = bytes.fromhex("045708ae000d0000") + b"hello"
        peer, own = (socket.inet_aton(address(4, end)) for end in (1, 0))
        assert tun.send_burst([ipv4(datagram, proto=17, src=peer, dst=own)]) == 1
        assert receiver.recv(100) == b"hello"


@in_netns
def test_what_the_kernel_refuses_is_counted_and_the_rest_goes() -> None:
    tun = open_tun(4)
    peer, own = (socket.inet_aton(address(4, end)) for end in (1, 0))
    good = ipv4(bytes(8), proto=17, src=peer, dst=own)
    assert tun.send_burst([good, b"\x00no IP packet", b"", good]) == 2
    assert tun.errors == 2
    tun.recv_burst()
    ip("link set xfrm0 down")
    assert tun.send_burst([good]) == 0
    assert tun.errors == 3
    assert unicast(tun) == []


@in_netns
def test_what_the_kernel_does_not_take_whole_is_counted_and_the_rest_goes() -> None:
    """Not seen of any kernel. Every second packet is cut short on its way into a real device."""
    tun = open_tun(4)
    peer, own = (socket.inet_aton(address(4, end)) for end in (1, 0))
    writev, turn = os.writev, [0]

    def short(fd: int, buffers: Sequence[bytes]) -> int:
        turn[0] += 1
        data = b"".join(buffers)
        return writev(fd, [data[: len(data) - 7 * (turn[0] % 2)]])

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind((address(4, 0), 2222))
        receiver.settimeout(2)
        bodies = [b"number %d" % number for number in range(6)]
        packets: list[Packet] = [
            ipv4(struct.pack(">HHHH", 1111, 2222, 8 + len(body), 0) + body, proto=17, src=peer, dst=own)
            for body in bodies
        ]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "writev", short)
            assert tun.send_burst(packets) == 3 and tun.errors == 3
            segments = SuperPacket(memoryview(bytearray(packets[0])), GSO_UDP_L4, 28, 4, 20, 6)
            assert tun.send_burst([segments]) == 0 and tun.errors == 4
        assert [receiver.recv(100) for _ in range(3)] == bodies[1::2]
        assert tun.send_burst(packets[:1]) == 1 and receiver.recv(100) == bodies[0]


@in_netns
def test_a_frame_that_contradicts_itself_is_counted() -> None:
    tun = open_tun(4)
    tun.recv_burst()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", (address(4, 1), 9))
    frames = iter([b"\0\x01" + bytes(8) + b"\x45" + bytes(19)])  # GSO_TCPV4 on a packet of protocol 0

    def readv(fd: int, buffers: tuple[memoryview]) -> int:
        frame = next(frames, None)
        if frame is None:
            raise BlockingIOError(errno.EAGAIN, "")
        buffers[0][: len(frame)] = frame
        return len(frame)

    original, os.readv = os.readv, readv
    try:
        assert tun.recv_burst() == []
    finally:
        os.readv = original
    assert tun.malformed == 1


@in_netns
def test_a_persistent_device_is_taken_over_with_its_routes() -> None:
    """TUN-03, TUN-06; in between it has no carrier, and its routes lead nowhere."""
    tun = open_tun(4, persist=True)
    rtnl = Rtnl()
    first = rtnl.link("xfrm0")
    tun.close()
    tun.close()
    orphan = rtnl.link("xfrm0")
    assert first is not None
    assert orphan is not None
    assert orphan.flags & IFF_UP
    assert not orphan.flags & IFF_LOWER_UP
    assert orphan.operstate == OPER_DOWN
    again = Tun("xfrm0", persist=True)
    link = rtnl.link("xfrm0")
    assert link is not None
    assert link.ifindex == first.ifindex
    assert link.flags & IFF_LOWER_UP
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", (address(4, 1), 9))
    assert len(unicast(again)) == 1
    again.set_persist(False)
    again.close()
    assert rtnl.link("xfrm0") is None


@in_netns
def test_a_killed_daemon_leaves_no_carrier() -> None:
    need_tun()
    child = os.fork()
    if child == 0:
        Tun("xfrm0", persist=True)
        os._exit(0)  # as with SIGKILL nobody closes anything
    os.waitpid(child, 0)
    ip("link set xfrm0 up")
    link = Rtnl().link("xfrm0")
    assert link is not None
    assert not link.flags & IFF_LOWER_UP


@in_netns
def test_carrier_can_be_switched() -> None:
    tun = open_tun(4)
    rtnl = Rtnl()
    flags = []
    for up in (False, True):
        tun.set_carrier(up)
        link = rtnl.link("xfrm0")
        assert link is not None
        flags.append(bool(link.flags & IFF_LOWER_UP))
    assert flags == [False, True]


@in_netns
def test_a_device_that_is_not_persistent_vanishes() -> None:
    tun = open_tun(4)
    tun.close()
    assert Rtnl().link("xfrm0") is None


@in_netns
def test_a_deleted_device_is_noticed() -> None:
    tun = open_tun(4)
    ip("link del xfrm0")
    assert select.select([tun], [], [], 1)[0] == [tun]
    assert not tun.gone
    assert tun.recv_burst() == []
    assert tun.gone
    assert tun.send_burst([ipv4(b"")]) == 0


@in_netns
def test_the_looks_of_an_xfrm_device() -> None:
    """1.2, TUN-02, TUN-07."""
    open_tun(4)
    rtnl = Rtnl()
    rtnl.set_link(socket.if_nametoindex("xfrm0"), mtu=9000)
    shape_like_xfrm(rtnl, "xfrm0")
    link = rtnl.link("xfrm0")
    assert link is not None
    assert not link.flags & IFF_MULTICAST
    assert (link.qlen, link.mtu) == (1000, 1500)
    with pytest.raises(XfrmError) as missing:
        shape_like_xfrm(rtnl, "nothing")
    assert missing.value.errno == errno.ENODEV


@in_netns
def test_the_kernel_can_choose_the_name() -> None:
    need_tun()
    first, second = Tun("xfrm%d"), Tun()
    assert (first.name, second.name) == ("xfrm0", "tun0")


@in_netns
def test_an_older_kernel_without_uso(monkeypatch: pytest.MonkeyPatch) -> None:
    need_tun()
    asked: list[int] = []

    def ioctl(fd: int, request: int, argument: int | bytes = 0) -> object:
        if request == tun_module.TUNSETOFFLOAD:
            assert isinstance(argument, int)
            asked.append(argument)
            if argument & tun_module.USO:
                raise OSError(errno.EINVAL, "")
        return original(fd, request, argument)

    original = tun_module.fcntl.ioctl
    monkeypatch.setattr(tun_module.fcntl, "ioctl", ioctl)
    assert Tun("xfrm0").takes == {GSO_TCPV4, GSO_TCPV6}
    assert asked == [tun_module.OFFLOADS | tun_module.USO, tun_module.OFFLOADS]


REFUSALS = {
    "busy": ("xfrm0", errno.EBUSY, "another process holds"),
    "another kind": ("lo", errno.EINVAL, "is not a TUN"),
    "no name": ("a/b", errno.EINVAL, "no device name"),
    "too long": ("sixteen-letters-", errno.EINVAL, "at most 15 bytes"),
}


@pytest.mark.parametrize("why", REFUSALS)
@in_netns
def test_refusals_say_what_is_in_the_way(why: str) -> None:
    open_tun(4)
    name, number, words = REFUSALS[why]
    with pytest.raises(XfrmError) as refused:
        Tun(name)
    assert refused.value.errno == number
    assert words in refused.value.detail


MISSING = {
    "no node": (errno.ENOENT, {"exists": False}, "mknod /dev/net/tun c 10 200"),
    "no driver": (errno.ENODEV, {"exists": True}, "modprobe tun"),
    "node closed to us": (errno.EACCES, {"opens": False}, "chmod 0666 /dev/net/tun"),
    "container": (errno.EPERM, {"opens": False}, "allow `c 10:200 rwm`"),
    "capability": (errno.EPERM, {"opens": True}, "CAP_NET_ADMIN"),
    "anything else": (errno.ENOMEM, {}, "Cannot allocate memory"),
}


@pytest.mark.parametrize("what", MISSING)
def test_what_is_missing_is_named_with_the_line_that_mends_it(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    number, world, line = MISSING[what]

    def refuse(**_: object) -> object:
        raise pytun.Error(number, os.strerror(number))

    monkeypatch.setattr(tun_module.pytun, "TunTapDevice", refuse)
    monkeypatch.setattr(tun_module.os.path, "exists", lambda _: world.get("exists"))
    monkeypatch.setattr(tun_module, "_opens", lambda: world.get("opens"))
    with pytest.raises(XfrmError) as refused:
        Tun("xfrm0")
    assert refused.value.errno == number
    assert line in refused.value.detail


# Several queues ------------------------------------------------------------------------------------------------------


def drain(queues: list[Tun]) -> list[list[int]]:
    """The source ports of what each queue had."""
    return [[int.from_bytes(bytes(packet)[20:22]) for packet in unicast(queue)] for queue in queues]


def send_flows(count: int) -> None:
    for _ in range(count):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", (address(4, 1), 9))


@in_netns
def test_flows_are_spread_over_the_attached_queues() -> None:
    first = open_tun(4, multi_queue=True)
    second = first.another_queue()
    _OPEN.append(second)
    assert (first.multi_queue, second.name, second.takes) == (True, "xfrm0", first.takes)
    send_flows(64)
    spread = drain([first, second])
    assert sum(map(len, spread)) == 64 and all(len(ports) > 8 for ports in spread)
    second.set_attached(False)
    send_flows(16)
    assert list(map(len, drain([first, second]))) == [16, 0]
    assert second.send_burst([ipv4(b"", dst=socket.inet_aton(address(4, 0)))]) == 1 and second.errors == 0
    second.set_attached(True)
    send_flows(64)
    assert all(len(ports) > 8 for ports in drain([first, second]))


@in_netns
def test_a_flow_comes_out_of_the_queue_that_its_answers_were_written_to() -> None:
    queues = [open_tun(4, multi_queue=True)]
    queues.append(queues[0].another_queue())
    _OPEN.append(queues[1])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect((address(4, 1), 9))
        sender.send(b"x")
        (packet,) = next(seen for seen in (unicast(queue) for queue in queues) if seen)
        assert isinstance(packet, bytes)
        ip_header, udp = bytearray(packet[:20]), packet[20:]
        ip_header[12:20] = ip_header[16:20] + ip_header[12:16]
        answer = bytes(ip_header) + udp[2:4] + udp[:2] + udp[4:6] + bytes(2) + udp[8:]
        for chosen in (0, 1, 0):
            assert queues[chosen].send_burst([answer]) == 1
            sender.send(b"y")
            assert [len(unicast(queue)) for queue in queues] == [1 - chosen, chosen]


@pytest.mark.parametrize("made", [False, True])
@pytest.mark.parametrize("asked", [False, True])
@in_netns
def test_one_left_behind_is_of_the_kind_it_was_made(made: bool, asked: bool) -> None:
    need_tun()
    Tun("left0", persist=True, multi_queue=made).close()
    tun = Tun("left0", persist=True, multi_queue=asked)
    assert tun.multi_queue is made


@in_netns
def test_a_persistent_device_loses_its_carrier_with_the_first_queue_only() -> None:
    tun = open_tun(4, persist=True, multi_queue=True)
    rtnl = Rtnl()
    tun.another_queue().close()
    link = rtnl.link("xfrm0")
    assert link is not None and link.flags & IFF_LOWER_UP
    last = tun.another_queue()
    tun.close()
    last.close()
    link = rtnl.link("xfrm0")
    assert link is not None and not link.flags & IFF_LOWER_UP
