"""ESP frames in the tests' hands: caught before sun could open them, changed, forged, put on the wire again."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.system.hosts import OUTER, Hosts, Tunnel, rises, tell
from xfrmi.lab.topology import Node
from xfrmi.lab.traffic import family_of
from xfrmi.lab.wiretap import ETH_HEADER_LEN, esp_offset
from xfrmi.wire.address import pack_address
from xfrmi.wire.esp import parse_trailer, trailer
from xfrmi.wire.ip import ipv4_header_checksum
from xfrmi.wire.xfrm_const import IPPROTO_ESP

IP_TOS, IP_TTL, IP_OPTIONS, IP_RECVOPTS, IP_MTU_DISCOVER, IP_RECVERR, IP_RECVTTL, IP_RECVTOS = (
    1,
    2,
    4,
    6,
    10,
    11,
    12,
    13,
)
IPV6_UNICAST_HOPS, IPV6_RECVERR, IPV6_FLOWINFO_SEND, IPV6_RECVHOPLIMIT, IPV6_HOPLIMIT, IPV6_RECVTCLASS = (
    16, 25, 33, 51, 52, 66,
)  # fmt: skip
IPV6_TCLASS = 67
PMTUDISC_DONT, PMTUDISC_DO = 0, 2
TOS = {4: (socket.IPPROTO_IP, IP_TOS), 6: (socket.IPPROTO_IPV6, IPV6_TCLASS)}
SO_MARK, SO_RCVMARK = 36, 75
MSG_ERRQUEUE = 0x2000
SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6 = 2, 3
PORT = 2222
IV_LEN = 8
ICV_LEN = 16


@dataclass
class Arrived:
    """A datagram as its receiver sees it."""

    payload: bytes
    tos: int
    ttl: int
    mark: int
    options: bytes
    """Of IPv4."""


class Inbox:
    """A UDP socket on PORT of a host, told the header fields of what arrives."""

    def __init__(self, host: Node, address: str) -> None:
        with host:
            self._socket = socket.socket(family_of(address), socket.SOCK_DGRAM)
        self._socket.bind((address, PORT))
        self._socket.settimeout(2)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVMARK, 1)
        if self._socket.family == socket.AF_INET6:
            told = [(socket.IPPROTO_IPV6, option) for option in (IPV6_RECVTCLASS, IPV6_RECVHOPLIMIT)]
        else:
            told = [(socket.IPPROTO_IP, option) for option in (IP_RECVTOS, IP_RECVTTL, IP_RECVOPTS)]
        for level, option in told:
            self._socket.setsockopt(level, option, 1)

    def next(self) -> Arrived:
        """TimeoutError if nothing comes."""
        payload, controls, _, _ = self._socket.recvmsg(65535, 256)
        found = {(level, kind): data for level, kind, data in controls}
        if self._socket.family == socket.AF_INET6:
            level, tos, ttl = socket.IPPROTO_IPV6, IPV6_TCLASS, IPV6_HOPLIMIT
        else:
            level, tos, ttl = socket.IPPROTO_IP, IP_TOS, IP_TTL
        field_of = partial(int.from_bytes, byteorder="little")
        mark = field_of(found.get((socket.SOL_SOCKET, SO_MARK), b""))
        options = found.get((socket.IPPROTO_IP, IP_RECVOPTS), b"")
        return Arrived(payload, field_of(found[level, tos]), field_of(found[level, ttl]), mark, options)

    def close(self) -> None:
        self._socket.close()


@contextmanager
def inbox(host: Node, address: str) -> Iterator[Inbox]:
    opened = Inbox(host, address)
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def outbox(host: Node, address: str, *options: tuple[int, int | bytes]) -> Iterator[socket.socket]:
    """A UDP socket connected to PORT at `address`, with options set; ICMP errors that come back are raised."""
    with host:
        opened = socket.socket(family_of(address), socket.SOCK_DGRAM)
    with opened:
        v6 = opened.family == socket.AF_INET6
        level, errors = (socket.IPPROTO_IPV6, IPV6_RECVERR) if v6 else (socket.IPPROTO_IP, IP_RECVERR)
        opened.setsockopt(level, errors, 1)
        for option, value in options:
            opened.setsockopt(level, option, value)
        opened.connect((address, PORT))
        yield opened


class Complaint(NamedTuple):
    """What a socket is told about a packet that did not arrive (struct sock_extended_err)."""

    errno: int
    origin: int
    type: int
    code: int
    info: int


def complaint(sender: socket.socket) -> Complaint:
    """Wait for it."""
    ready, _, _ = select.select([sender], [], [], 2)
    assert ready, "nobody complains"
    _, controls, _, _ = sender.recvmsg(65535, 512, MSG_ERRQUEUE)
    ((_, _, data),) = controls
    return Complaint(*struct.unpack_from("=IBBBxI", data))


def catch(hosts: Hosts, tunnel: Tunnel, count: int, family: int = 4, toses: Sequence[int] = ()) -> list[bytes]:
    """Frames with datagrams b"0", b"1" .. from moon to PORT of sun, which has no state for them yet; none has arrived.

    `toses` are their TOS or traffic class. After this sun lacks every state.
    """
    tell(hosts.sun, "state flush")
    hosts.clear()
    with (
        rises(hosts.sun, XfrmInNoStates=count),
        outbox(hosts.moon, tunnel.address("sun", family)) as sender,
    ):
        for number, tos in zip_longest(range(count), toses, fillvalue=0):
            sender.setsockopt(*TOS[family], tos)
            sender.send(str(number).encode())
    return hosts.esp()


@dataclass
class Outer:
    """The outer header of a frame."""

    tos: int
    ttl: int
    ident: int | None = None
    df: bool | None = None
    """IPv4 has these two."""
    label: int | None = None
    """IPv6 has this."""


def outer(frame: bytes) -> Outer:
    packet = frame[ETH_HEADER_LEN:]
    if packet[0] >> 4 == 4:
        ident, flags = struct.unpack_from("!HH", packet, 4)
        return Outer(packet[1], packet[8], ident=ident, df=flags == 0x4000)
    (word,) = struct.unpack_from("!I", packet)
    return Outer(word >> 20 & 0xFF, packet[7], label=word & 0xFFFFF)


def put(hosts: Hosts, *frames: bytes) -> None:
    """Onto sun's cable, towards sun."""
    for frame in frames:
        hosts.taps["sun"].inject(frame)


def flip(frame: bytes, at: int) -> bytes:
    changed = bytearray(frame)
    changed[at] ^= 1
    return bytes(changed)


def with_tos(frame: bytes, tos: int) -> bytes:
    """With another TOS or traffic class outside."""
    changed = bytearray(frame)
    if frame[ETH_HEADER_LEN] >> 4 == 6:
        word = int.from_bytes(frame[ETH_HEADER_LEN : ETH_HEADER_LEN + 4], "big")
        changed[ETH_HEADER_LEN : ETH_HEADER_LEN + 4] = (word & 0xF00FFFFF | tos << 20).to_bytes(4, "big")
    else:
        changed[ETH_HEADER_LEN + 1] = tos
        changed[ETH_HEADER_LEN + 10 : ETH_HEADER_LEN + 12] = bytes(2)
        header = changed[ETH_HEADER_LEN : ETH_HEADER_LEN + 20]
        changed[ETH_HEADER_LEN + 10 : ETH_HEADER_LEN + 12] = ipv4_header_checksum(header).to_bytes(2, "big")
    return bytes(changed)


def opened(frame: bytes, tunnel: Tunnel, sender: str = "moon") -> tuple[bytes, int]:
    """What is inside: (payload, next header)."""
    key = bytes.fromhex(tunnel.keys[sender])
    esp = frame[esp_offset(frame) :]
    iv = esp[8 : 8 + IV_LEN]
    plaintext = AESGCM(key[:-4]).decrypt(key[-4:] + iv, esp[8 + IV_LEN :], esp[:8])
    length, next_header = parse_trailer(plaintext)
    return plaintext[:length], next_header


def forged(frame: bytes, tunnel: Tunnel, seq: int, payload: bytes, next_header: int) -> bytes:
    """A frame as `frame` (IPv4 outside), from moon, that sun finds authentic, with other contents."""
    key = bytes.fromhex(tunnel.keys["moon"])
    head, iv = struct.pack("!II", tunnel.spi("moon"), seq), struct.pack("!Q", 1 << 63 | seq)
    plaintext = payload + trailer(-(len(payload) + 2) % 4, next_header)
    esp = head + iv + AESGCM(key[:-4]).encrypt(key[-4:] + iv, plaintext, head)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(esp), 0, 0x4000, 63, IPPROTO_ESP, 0)
    header += pack_address(OUTER["moon", 4]) + pack_address(OUTER["sun", 4])
    header = header[:10] + ipv4_header_checksum(header).to_bytes(2, "big") + header[12:]
    return frame[:ETH_HEADER_LEN] + header + esp
