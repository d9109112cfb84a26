"""A suite as others write them for the kernel: it makes its networks out of TAPs, speaks netlink in structures of its
own, and looks at each packet. test_exec_tap_networks.py runs it under `xfrmi exec`; of xfrmi it knows nothing.

    program -> UDP socket, marked -> ipsecN -> ESP, marked -> fwmark rule -> TAP -> program

Two networks, each with an IPv4 and an IPv6 address, a default route, and a rule that sends there what has its mark.
Over each of both go two xfrm devices, one with IPv4 and one with IPv6 outside. Says "ok NAME" of each check.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import select
import socket
import struct
import time
import traceback
from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pyroute2 import IPRoute

from tests.core.packets import udp
from tests.interpose.tap_structures import (
    CREATE,
    DELLINK,
    DELPOLICY,
    DELSA,
    FAMILY,
    GETLINK,
    GETROUTE,
    IF_ID,
    IN,
    KEY,
    MIGRATE,
    NEWLINK,
    NEWPOLICY,
    NEWSA,
    OUT,
    REQID,
    SALT,
    SET_MARK,
    SET_MASK,
    UPDPOLICY,
    UPDSA,
    Netlink,
    attr,
    attrs,
    mib,
    move,
    packed,
    policy,
    policy_id,
    state,
    state_id,
    u32,
    version_of,
)
from tests.iproute import ip
from xfrmi.wire.ip import checksum, ipv4_header_checksum

SECONDS = 5
OVERHEAD = {4: 52, 6: 72}
PORT = 1234
REMOTE = {4: "10.99.0.1", 6: "fd00:99::1"}

route, xfrm = Netlink(0), Netlink(6)

# Packets -------------------------------------------------------------------------------------------------------------


def ip_header(src: str, dst: str, protocol: int, length: int) -> bytes:
    if version_of(src) == 6:
        return struct.pack(">IHBB", 6 << 28, length, protocol, 64) + packed(src) + packed(dst)
    header = bytearray(struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, 64, protocol, 0))
    header += packed(src) + packed(dst)
    header[10:12] = ipv4_header_checksum(header).to_bytes(2, "big")
    return bytes(header)


def seal(inner: bytes, src: str, dst: str, spi: int, number: int) -> bytes:
    pad = -(len(inner) + 2) % 4
    plain = inner + bytes(range(1, pad + 1)) + bytes((pad, 41 if inner[0] >> 4 == 6 else 4))
    header, iv = struct.pack(">II", spi, number), struct.pack(">Q", number)
    esp = header + iv + AESGCM(KEY).encrypt(SALT + iv, plain, header)
    return ip_header(src, dst, 50, len(esp)) + esp


def unseal(packet: bytes) -> tuple[int, int, bytes]:
    """SPI, number, inner packet."""
    esp = packet[20 if packet[0] >> 4 == 4 else 40 :]
    plain = AESGCM(KEY).decrypt(SALT + esp[8:16], esp[16:], esp[:8])
    return *struct.unpack_from(">II", esp), plain[: -2 - plain[-2]]  # type: ignore[return-value]


class Network:
    def __init__(self, mark: int) -> None:
        self.mark, self.name = mark, f"tap{mark}"
        self.address = {4: f"10.0.{mark}.2", 6: f"fd00:{mark}::2"}
        self.remote = {4: f"198.51.100.{mark}", 6: f"2001:db8:{mark}::1"}
        self.tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(self.tap, 0x400454CA, struct.pack("=16sH22x", self.name.encode(), 0x1002))
        for setting in ("accept_dad", "router_solicitations"):
            with open(f"/proc/sys/net/ipv6/conf/{self.name}/{setting}", "w") as file:
                file.write("0")
        ip(f"link set {self.name} up")
        index = socket.if_nametoindex(self.name)
        body = route.request(GETLINK, struct.pack("=4xi8x", index), reply=True)
        self.mac = attrs(body[16:])[1]
        for version, router, length in ((4, f"10.0.{mark}.1", 24), (6, f"fd00:{mark}::1", 64)):
            ip(f"addr add {self.address[version]}/{length} dev {self.name} nodad")
            with IPRoute() as netlink:
                netlink.neigh("add", dst=router, lladdr="02:00:00:00:00:01", ifindex=index, state=0x80)
            ip(f"-{version} rule add fwmark {mark} table {mark}")
            ip(f"-{version} route add default via {router} dev {self.name} table {mark}")

    def write(self, packet: bytes) -> None:
        kind = b"\x86\xdd" if packet[0] >> 4 == 6 else b"\x08\0"
        os.write(self.tap, self.mac + b"\x02\0\0\0\0\x01" + kind + packet)

    def read(self, patience: float = SECONDS) -> bytes | None:
        """The next packet of ESP."""
        end = time.monotonic() + patience
        while select.select([self.tap], [], [], max(0, end - time.monotonic()))[0]:
            packet = os.read(self.tap, 4096)[14:]
            if packet[9 if packet[0] >> 4 == 4 else 6] == 50:
                return packet
        return None


class Tunnel:
    def __init__(self, network: Network, outer: int) -> None:
        self.network, self.if_id = network, network.mark * 10 + outer
        self.local, self.remote = network.address[outer], network.remote[outer]
        self.name, self.inner = f"ipsec{self.if_id}", {4: f"10.98.{self.if_id % 256}.1", 6: f"fd00:98:{self.if_id}::1"}
        self.own = u32(IF_ID, self.if_id)
        self.spi, self.sent, self.received = self.if_id << 8, 0, 0
        info = attr(1, b"xfrm\0") + attr(2, u32(1, socket.if_nametoindex(network.name)) + u32(2, self.if_id))
        route.request(NEWLINK, bytes(16) + attr(3, self.name.encode() + b"\0") + attr(18, info), CREATE)
        with open(f"/proc/sys/net/ipv6/conf/{self.name}/router_solicitations", "w") as file:
            file.write("0")
        index = socket.if_nametoindex(self.name)
        route.request(NEWLINK, struct.pack("=4xiII", index, 1, 1))
        for version, length in ((4, 32), (6, 128)):
            ip(f"addr add {self.inner[version]}/{length} dev {self.name} nodad")
            ip(f"-{version} rule add fwmark {self.if_id} table {self.if_id}")
            ip(f"-{version} route add default dev {self.name} table {self.if_id}")
        self.add_states()
        self.set_policies(NEWPOLICY)
        self.tx = self.rx = 0

    def add_states(self) -> None:
        mark = u32(SET_MARK, self.network.mark) + u32(SET_MASK, 2**32 - 1)
        xfrm.request(NEWSA, state(self.local, self.remote, self.spi) + self.own + mark, CREATE)
        xfrm.request(NEWSA, state(self.remote, self.local, self.spi) + self.own, CREATE)
        self.sent = self.received = 0

    def set_policies(self, how: int) -> None:
        for version in (4, 6):
            xfrm.request(how, policy(OUT, version, self.local, self.remote, self.spi) + self.own, CREATE)
            xfrm.request(how, policy(IN, version, self.remote, self.local, 0) + self.own, CREATE)

    def counters(self) -> tuple[int, int]:
        body = route.request(GETLINK, bytes(16) + attr(3, self.name.encode() + b"\0"), reply=True)
        shown = attrs(body[16:])
        assert attrs(shown[18])[1] == b"xfrm\0"
        rx, tx = struct.unpack_from("=QQ", shown[23])
        return rx, tx

    def socket(self, version: int) -> socket.socket:
        made = socket.socket(FAMILY[version], socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, 36, self.if_id)
        made.settimeout(SECONDS)
        return made

    def sends(self, version: int) -> bytes:
        """One datagram leaves, as it should; the outer packet."""
        with self.socket(version) as sender:
            sender.sendto(b"out we go", (REMOTE[version], PORT))
            port = sender.getsockname()[1]
        packet = self.network.read()
        assert packet is not None, f"nothing sent; {mib()}"
        self.sent += 1
        self.tx += 1
        assert self.counters() == (self.rx, self.tx)
        ends = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
        assert ends == packed(self.local) + packed(self.remote)
        spi, number, inner = unseal(packet)
        assert (spi, number) == (self.spi, self.sent)
        expected = udp(self.inner[version], REMOTE[version], sport=port, dport=PORT, payload=b"out we go")
        assert inner[20 if version == 4 else 40 :] == expected[20 if version == 4 else 40 :]
        return packet

    def receives(self, version: int, spi: int = 0, number: int = 0) -> bool:
        """Was a datagram delivered that came in under that SPI (that of now) and number (the next)?"""
        if not number:
            self.received += 1
        with socket.socket(FAMILY[version], socket.SOCK_DGRAM) as receiver:
            receiver.bind(("", 0))
            port = receiver.getsockname()[1]
            inner = udp(REMOTE[version], self.inner[version], sport=PORT, dport=port, payload=b"in we come")
            before = sum(mib().values())
            self.network.write(seal(inner, self.remote, self.local, spi or self.spi, number or self.received))
            end = time.monotonic() + SECONDS
            while not select.select([receiver], [], [], 0.01)[0]:
                assert time.monotonic() < end, "neither delivered nor dropped"
                if sum(mib().values()) != before:
                    return False
            data, sender = receiver.recvfrom(100)
        self.rx += 1
        assert (data, sender[:2]) == (b"in we come", (REMOTE[version], PORT))
        assert self.counters() == (self.rx, self.tx)
        return True

    def known_mtu(self) -> int:
        """What `ip route get` would show: how much the way to the peer is known to carry, 0 if nothing is."""
        dst = packed(self.remote)
        rtmsg = struct.pack("=BBBBBBBBI", FAMILY[version_of(self.remote)], len(dst) * 8, 0, 0, 0, 0, 0, 0, 0)
        body = route.request(GETROUTE, rtmsg + attr(1, dst) + u32(16, self.network.mark), reply=True)
        metrics = attrs(attrs(body[12:]).get(8, b""))
        return struct.unpack("=I", metrics[2])[0] if 2 in metrics else 0


def too_big(tunnel: Tunnel, quoted: bytes, mtu: int) -> bytes:
    if version_of(tunnel.local) == 4:
        message = bytearray(struct.pack(">BBHHH", 3, 4, 0, 0, mtu) + quoted[:64])
        message[2:4] = checksum(message).to_bytes(2, "big")
        return ip_header("172.16.9.12", tunnel.local, 1, len(message)) + message
    message = bytearray(struct.pack(">BBHI", 2, 0, 0, mtu) + quoted[:1232])
    pseudo = packed("2001:db8::99") + packed(tunnel.local) + struct.pack(">II", len(message), 58)
    message[2:4] = checksum(pseudo + message).to_bytes(2, "big")
    return ip_header("2001:db8::99", tunnel.local, 58, len(message)) + message


# Checks: each of them with a tunnel, and an address family inside ----------------------------------------------------


def both_ways(tunnel: Tunnel, inner: int) -> None:
    for _ in range(2):
        tunnel.sends(inner)
        assert tunnel.receives(inner)
    others = [network.read(0) for network in networks.values()]
    assert not any(others), "ESP where none belongs"


def routers_complain(tunnel: Tunnel, inner: int) -> None:
    """Believed when it quotes one of our packets; the kernel knows at once, a sender with its next packet."""
    quoted = tunnel.sends(inner)
    known = tunnel.known_mtu()
    spi = (tunnel.spi + 1).to_bytes(4, "big")
    tunnel.network.write(too_big(tunnel, quoted.replace(tunnel.spi.to_bytes(4, "big"), spi, 1), 1290))
    assert tunnel.known_mtu() == known, "forged"
    mtu = 1420 - inner * 10  # lower each time
    tunnel.network.write(too_big(tunnel, quoted, mtu))
    assert tunnel.known_mtu() == mtu
    room = mtu - OVERHEAD[version_of(tunnel.local)]
    room -= room % 4 + 2
    level, discover, option = (0, 10, 14) if inner == 4 else (41, 23, 24)
    with tunnel.socket(inner) as sender:
        sender.setsockopt(level, discover, 2)
        sender.connect((REMOTE[inner], PORT))
        sender.send(bytes(1400))
        end = time.monotonic() + SECONDS
        while sender.getsockopt(level, option) != room:
            assert time.monotonic() < end, (sender.getsockopt(level, option), room)
            time.sleep(0.005)
        tunnel.tx = tunnel.counters()[1]


def rekeying(tunnel: Tunnel, inner: int) -> None:
    both_ways(tunnel, inner)
    old, number = tunnel.spi, tunnel.received
    tunnel.spi += 1
    tunnel.add_states()
    tunnel.set_policies(UPDPOLICY)
    assert tunnel.receives(inner, old, number + 1), "the old one is still received"
    both_ways(tunnel, inner)
    for dst in (tunnel.remote, tunnel.local):
        xfrm.request(DELSA, state_id(dst, old) + tunnel.own)
    before = mib()
    assert not tunnel.receives(inner, old, number + 2)
    assert mib()["XfrmInNoStates"] == before["XfrmInNoStates"] + 1
    both_ways(tunnel, inner)


def migration(tunnel: Tunnel, inner: int) -> None:
    """To the other network and the other family outside."""
    old_network, old = tunnel.network, (tunnel.local, tunnel.remote)
    both_ways(tunnel, inner)
    tunnel.network = next(other for other in networks.values() if other is not old_network)
    outer = 10 - version_of(tunnel.local)
    tunnel.local, tunnel.remote = tunnel.network.address[outer], tunnel.network.remote[outer]
    ends = tunnel.local, tunnel.remote
    mark = u32(SET_MARK, tunnel.network.mark) + u32(SET_MASK, 2**32 - 1)
    for direction, before, after in ((IN, old[::-1], ends[::-1]), (OUT, old, ends)):
        for version in (4, 6):
            xfrm.request(MIGRATE, policy_id(direction, version) + move(before, after) + tunnel.own)
        xfrm.request(UPDSA, state(*after, tunnel.spi) + tunnel.own + mark)
    both_ways(tunnel, inner)


def refusals(tunnel: Tunnel, inner: int) -> None:
    def refused(counter: str, number: int = 0) -> None:
        before = mib()
        assert not tunnel.receives(inner, number=number)
        assert {name: now - before[name] for name, now in mib().items() if now != before[name]} == {counter: 1}

    both_ways(tunnel, inner)
    refused("XfrmInStateSeqError", tunnel.received)
    template = policy(IN, inner, tunnel.remote, tunnel.local, 0, reqid=REQID + 1)
    xfrm.request(UPDPOLICY, template + tunnel.own, CREATE)
    refused("XfrmInTmplMismatch")
    xfrm.request(DELPOLICY, policy_id(IN, inner) + tunnel.own)
    refused("XfrmInNoPols")
    for of, what in ((DELPOLICY, policy_id(OUT, inner)), (DELSA, state_id(tunnel.remote, tunnel.spi))):
        try:
            xfrm.request(of, what + u32(IF_ID, 4711) if of == DELPOLICY else state_id(tunnel.remote, 4711))
        except OSError as error:
            assert error.errno == {DELPOLICY: errno.ENOENT, DELSA: errno.ESRCH}[of]
        else:
            raise AssertionError("deleted what is somebody else's")
        xfrm.request(of, what + tunnel.own)
        with tunnel.socket(inner) as sender:
            sender.connect((REMOTE[inner], PORT))
            sender.setsockopt(*((0, 11) if inner == 4 else (41, 25)), 1)  # RECVERR
            sender.send(b"not in the clear")
            try:
                sender.recv(1)
            except OSError as error:
                assert error.errno == errno.EHOSTUNREACH, error
        if of == DELPOLICY:
            xfrm.request(NEWPOLICY, policy(OUT, inner, tunnel.local, tunnel.remote, tunnel.spi) + tunnel.own, CREATE)
    assert not any(network.read(0) for network in networks.values())
    route.request(DELLINK, bytes(16) + attr(3, tunnel.name.encode() + b"\0"))
    try:
        tunnel.counters()
    except OSError as error:
        assert error.errno == errno.ENODEV
    else:
        raise AssertionError("a deleted device has counters")


def check(name: str, what: Callable[[Tunnel, int], None], tunnel: Tunnel, inner: int) -> None:
    try:
        what(tunnel, inner)
    except Exception:
        print(f"FAILED {name}\n{traceback.format_exc()}", flush=True)
    else:
        print(f"ok {name}", flush=True)


networks: dict[int, Network] = {}

if __name__ == "__main__":
    ip("link set lo up")
    networks |= {mark: Network(mark) for mark in (100, 200)}
    tunnels = {(mark, outer): Tunnel(networks[mark], outer) for mark in networks for outer in (4, 6)}
    for what in (both_ways, routers_complain, rekeying, migration):
        for (mark, outer), inner in itertools.product(tunnels, (4, 6)):
            check(f"{what.__name__} {inner}in{outer} {mark}", what, tunnels[mark, outer], inner)
    for ((mark, outer), tunnel), inner in zip(tunnels.items(), (4, 6, 6, 4), strict=True):
        check(f"{refusals.__name__} {inner}in{outer} {mark}", refusals, tunnel, inner)
