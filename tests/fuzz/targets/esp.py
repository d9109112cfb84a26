"""What comes off the wire: ESP in every mode and encapsulation, opened by states whose cipher is null, so that any
bytes are authentic. Nothing is raised, and each packet is counted once, as it is delivered or where it dies.

    state | 0 | outer TOS, ID, fragment bits, TTL | plaintext with ESP trailer
    any   | 1 | a whole outer packet

Many at once: bursts.py.
"""

from __future__ import annotations

import struct

from tests.core.packets import udp
from tests.core.pair import INNER, NOW, OUTER, forge
from tests.fuzz.hosts import FIRST_SPI, KINDS, RENEW, Books, Hosts, OnHosts
from tests.fuzz.registry import One
from xfrmi.wire.address import pack_address
from xfrmi.wire.esp import trailer
from xfrmi.wire.ip import split_outer

MAX_LEN = 700

IN_STATS = {"XfrmInStateMismatch", "XfrmInNoPols", "XfrmInTmplMismatch", "XfrmInPolBlock"}


def seeds() -> list[bytes]:
    found = [b"\0\1" + forge(udp(*INNER[4]), 4), b"\0\1" + forge(udp(*INNER[6]), 41)]
    for index, kind in enumerate(KINDS):
        for version in (4, 6):
            packet = udp(*INNER[version], bytes(20))
            next_header = 4 if version == 4 else 41
            if kind.mode != 1:
                packet, next_header = packet[20 if version == 4 else 40 :], 17
            pad = -(len(packet) + 2) % 4
            for flags in (0, 4):
                found.append(bytes((index, flags)) + bytes((0, 0, 1, 0, 0, 64)) + packet + trailer(pad, next_header))
    options = bytes((17, 0, 4, 0, 1, 1, 1, 1, 0, 0, 0, 0)) + udp(*INNER[4])[20:]
    found.append(bytes((2, 0)) + bytes((0, 0, 1, 0, 0, 64)) + options + trailer(1, 94))
    error = bytes((3, 1, 0, 0, 0, 0, 0, 0)) + udp(*INNER[4])[::-1]
    found.append(bytes((1, 0)) + bytes((0, 0, 1, 0, 0, 64)) + error + trailer(2, 1))
    return found


def make() -> One:
    return Lone().one


class Datagrams(OnHosts):
    """The packets of an input; `right` opens them."""

    SHORTEST = 8
    MOST = 1

    def burst(self, data: bytes) -> list[tuple[bytes, bytes]]:
        if data[1] & 1:
            try:
                header, esp = split_outer(data[2:])
            except ValueError:
                return []
            return [(bytes(header), bytes(esp))]
        return self.datagrams(data)

    def datagrams(self, data: bytes) -> list[tuple[bytes, bytes]]:
        index = data[0] % len(KINDS)
        kind = KINDS[index]
        tos, _, ident, frag, _, ttl = data[2:8]
        esp_len = len(data)
        src, dst = map(pack_address, OUTER[kind.outer])
        ports = struct.pack(">HHHH", 4500, 4500, 8 + esp_len, 0) if "encap" in kind.fields else b""
        protocol = 17 if ports else 50
        length = len(ports) + esp_len
        if kind.outer == 4:
            header = struct.pack(">BBHHHBBH", 0x45, tos, 20 + length, ident, (frag & 0x40) << 8, ttl, protocol, 0)
        else:
            header = struct.pack(">IHBB", 6 << 28 | tos << 20 | ident, length, protocol, ttl)
        header += src + dst + ports
        spi = (FIRST_SPI + index).to_bytes(4)
        first = RENEW - self.left
        count = min((data[1] >> 1 & 15) + 1, self.MOST)
        return [(header, spi + (first * 16 + n).to_bytes(4) + data[8:]) for n in range(count)]


class Lone(Datagrams):
    def renew(self) -> None:
        hosts = Hosts()
        self.engine = hosts.right.engine
        self.books = Books(self.engine, hosts.into)

    def take(self, data: bytes) -> None:
        for datagram in self.burst(data):
            came = self.engine.input([datagram], NOW)
            accounted(self.books.rose(), sum(len(packets) for _, packets in came))


def accounted(moved: dict[str, int], delivered: int) -> None:
    """One thing has happened to one packet (table 1.4)."""
    moved.pop("rx_bytes", None)
    device = {name for name in moved if name.startswith("rx_")}
    stats = set(moved) - device
    assert set(moved.values()) == {1} and len(stats) <= 1, moved
    if delivered:
        assert device == {"rx_packets"} and not stats and delivered == 1, moved
    elif device == {"rx_packets"}:  # refused by policy, or by IP
        assert stats <= IN_STATS | {"XfrmInHdrError", "XfrmInNoStates", "XfrmInBufferError"}, moved
    elif device:
        assert device == {"rx_errors", "rx_dropped"} and (stats or delivered == 0), moved
    else:
        assert stats, moved
