"""A wire for tests: a TUN that plays the underlay. The test reads what goes out and injects what comes in, bit for bit.

Addresses on it: 192.0.2.1/24 and 2001:db8::1/64; everything else of these networks is out on the wire.
"""

from __future__ import annotations

import socket
import struct
import time

from tests.netns import ip, need_tun, sysctl
from xfrmi.core.outgoing import Outgoing
from xfrmi.core.path import Path
from xfrmi.dev.rtnl import Rtnl
from xfrmi.dev.tun import Tun
from xfrmi.wire.address import pack_address
from xfrmi.wire.ip import checksum, ipv4_header_checksum

OWN4, PEER4 = pack_address("192.0.2.1"), pack_address("192.0.2.2")
OWN6, PEER6 = pack_address("2001:db8::1"), pack_address("2001:db8::2")
FAR = {4: pack_address("198.51.100.2"), 6: pack_address("2001:db8:9::2")}
OWN = {4: OWN4, 6: OWN6}
PEER = {4: PEER4, 6: PEER6}
FAMILY = {4: 2, 6: 10}

RTN_LOCAL = 2

ESP = bytes.fromhex("00001000 00000001") + bytes(range(64))


_OPEN: list[Wire] = []
"""A TUN lives as long as its descriptor: until the child that runs the test ends."""


class Wire:
    def __init__(self, name: str = "wire0", *, mtu: int = 1500, addresses: bool = True) -> None:
        need_tun()
        _OPEN.append(self)
        self.tun = Tun(name, offload=False)
        sysctl(f"net.ipv6.conf.{name}.addr_gen_mode", 1)
        ip(f"link set {name} mtu {mtu} up")
        if addresses:
            ip(f"addr add 192.0.2.1/24 dev {name}")
            ip(f"addr add 2001:db8::1/64 dev {name} nodad")
            _wait_until_own(OWN6)

    def sent(self) -> list[bytes]:
        """What has gone out since the last call, without the host's own multicast noise, ICMPv6 and IGMP."""
        packets: list[bytes] = []
        while burst := self.tun.recv_burst():
            packets += [bytes(packet) for packet in burst]
        return [p for p in packets if (p[9] != socket.IPPROTO_IGMP if p[0] >> 4 == 4 else p[24] != 0xFF)]

    def inject(self, *packets: bytes) -> None:
        assert self.tun.send_burst(list(packets)) == len(packets)


def _wait_until_own(address: bytes) -> None:
    """An IPv6 address is ours only when the kernel has got around to its local route, even without DAD."""
    rtnl = Rtnl()
    deadline = time.monotonic() + 5
    while rtnl.route(address).type != RTN_LOCAL:
        assert time.monotonic() < deadline, "the wire's own address does not come up"
        time.sleep(0.002)
    rtnl.close()


def two_ways() -> tuple[Wire, Wire]:
    """FAR can be reached by either of two wires, by the first of them if nothing is said."""
    wires = Wire("wire0"), Wire("wire1", addresses=False)
    for number in range(2):
        ip(f"route add 198.51.100.0/24 dev wire{number} metric {10 + number}")
        ip(f"-6 route append 2001:db8:9::/64 dev wire{number}")
    return wires


def ipv4(payload: bytes, *, tos: int = 0, ident: int = 0, df: bool = True, ttl: int = 64, proto: int = 50,
         src: bytes = OWN4, dst: bytes = PEER4) -> bytes:  # fmt: skip
    header = bytearray(struct.pack(
        ">BBHHHBBH4s4s", 0x45, tos, 20 + len(payload), ident, 0x4000 if df else 0, ttl, proto, 0, src, dst
    ))  # fmt: skip
    header[10:12] = ipv4_header_checksum(header).to_bytes(2)
    return bytes(header) + payload


def ipv6(payload: bytes, *, tclass: int = 0, label: int = 0, hops: int = 64, proto: int = 50,
         src: bytes = OWN6, dst: bytes = PEER6) -> bytes:  # fmt: skip
    return struct.pack(">IHBB16s16s", 6 << 28 | tclass << 20 | label, len(payload), proto, hops, src, dst) + payload


def outer(version: int, payload: bytes = ESP) -> bytes:
    return ipv4(payload) if version == 4 else ipv6(payload)


def from_peer(version: int, payload: bytes = ESP, **fields: int) -> bytes:
    if version == 4:
        return ipv4(payload, src=PEER4, dst=OWN4, **fields)
    return ipv6(payload, src=PEER6, dst=OWN6, **fields)


def udp(esp: bytes, sport: int = 4500, dport: int = 4500) -> bytes:
    return struct.pack(">HHHH", sport, dport, 8 + len(esp), 0) + esp


def too_big(version: int, packet: bytes, mtu: int) -> bytes:
    """The ICMP error of a router on the way about `packet` of ours: ICMP 3/4, ICMPv6 packet too big."""
    if version == 4:
        body = bytearray(struct.pack(">BBHHH", 3, 4, 0, 0, mtu) + packet[:28])
        body[2:4] = checksum(body).to_bytes(2)
        return ipv4(bytes(body), proto=1, src=pack_address("192.0.2.99"), dst=OWN4)
    router = pack_address("2001:db8::99")
    body = bytearray(struct.pack(">BBHI", 2, 0, 0, mtu) + packet[:1000])
    pseudo = router + OWN6 + struct.pack(">II", len(body), 58)
    body[2:4] = checksum(pseudo + body).to_bytes(2)
    return ipv6(bytes(body), proto=58, src=router, dst=OWN6)


def path(version: int, **fields: object) -> Path:
    return Path(FAMILY[version], OWN[version], PEER[version], **fields)


def outgoing(version: int, *packets: bytes, **fields: object) -> Outgoing:
    return Outgoing(path(version, **fields), list(packets))
