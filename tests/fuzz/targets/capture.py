"""Capture files, pcap and pcapng, and packets in hexadecimal: IP packets, or ValueError and XfrmError. What is written
is read back.

    1 hexadecimal, else | file
"""

from __future__ import annotations

import struct

from tests.core.packets import udp
from tests.core.pair import INNER
from tests.fuzz.registry import One
from xfrmi.cli.explain import from_hex
from xfrmi.errors import XfrmError
from xfrmi.formats import pcapng

MAX_LEN = 600
LINKTYPES = 1, 101, 113, 276, 12, 228, 229


def seeds() -> list[bytes]:
    packet = udp(*INNER[4])
    found = [b"\1" + packet.hex().encode(), b"\1 0x" + packet.hex(":", 2).encode()]
    for linktype in LINKTYPES:
        frame = bytes(12) + b"\x81\0\0\1\x08\0" + packet if linktype == 1 else bytes(14) + b"\x08\0" + packet
        if linktype in (101, 12, 228, 229):
            frame = packet
        for order in "<>":
            head = struct.pack(f"{order}IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, linktype)
            found.append(b"\0" + head + struct.pack(f"{order}IIII", 1, 2, len(frame), len(frame)) + frame)
    return [*found, b"\0" + written(packet)]


def written(packet: bytes) -> bytes:
    return b"".join(
        (
            pcapng.section("xfrmi capture"),
            pcapng.interface("outer", "a device"),
            pcapng.packet(0, 1_700_000_000_250_000_000, packet, pcapng.OUTBOUND, ["why"]),
            pcapng.interface("inner", "another"),
            pcapng.packet(1, 1_700_000_000_500_000_000, packet, pcapng.INBOUND, []),
        )
    )


def make() -> One:
    return one


def one(data: bytes) -> None:
    if data[:1] == b"\1":
        try:
            packet = from_hex(data[1:].decode("utf-8", "surrogateescape"))
        except XfrmError as error:
            assert error.detail
            return
    else:
        packet = b""
        try:
            for found in pcapng.read_packets(data[1:]):
                packet = found.data
                assert len(packet) >= 20 and packet[0] >> 4 in (4, 6) and found.number > 0
        except ValueError as error:
            assert str(error)
            return
    if len(packet) >= 20 and packet[0] >> 4 in (4, 6):
        assert [found.data for found in pcapng.read_packets(written(packet))] == [packet, packet]
