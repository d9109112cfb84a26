"""Datagrams at the port of ESP in UDP, from a real socket: what is ESP arrives as it was sent, alone and merged into
runs by the kernel (UDP_GRO); the rest goes to who has to do with IKE.

    segment size (2) | payload, sent in one call
"""

from __future__ import annotations

import socket
from typing import cast

from tests.core.pair import NOW
from tests.fuzz.hosts import FIRST_SPI, KINDS, Hosts
from tests.fuzz.registry import One
from xfrmi.dev.device import taken_apart
from xfrmi.dev.raw import RawEsp
from xfrmi.dev.udp import UdpEncap
from xfrmi.wire.udpencap import Payload, classify
from xfrmi.wire.xfrm_const import AF_INET

MAX_LEN = 1500
UDP_SEGMENT = 103
MAX_SEGMENTS = 64


def seeds() -> list[bytes]:
    spi = (FIRST_SPI + next(index for index, kind in enumerate(KINDS) if "encap" in kind.fields)).to_bytes(4)
    esp = spi + bytes((0, 0, 0, 1)) + bytes(range(92))
    return [
        b"\0\0" + esp, b"\0\x64" + esp * 5, b"\0\x64" + esp * 4 + b"\xff", b"\0\0\xff", b"\0\0" + bytes(60),
        b"\0\x08" + bytes(32), b"\0\x64" + esp + bytes(4) + esp * 3,
    ]  # fmt: skip


def make() -> One:
    return Port().one


class Port:
    def __init__(self) -> None:
        self.sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sender.bind(("127.0.0.1", 0))
        probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        self.others: list[bytes] = []
        sends = cast(RawEsp, None)  # asked for by who sends, and nobody does
        self.encap = UdpEncap(
            AF_INET, port, sends, address="127.0.0.1", on_other=lambda payload, sender: self.others.append(payload)
        )
        self.sender.connect(("127.0.0.1", port))
        self.hosts = Hosts()

    def one(self, data: bytes) -> None:
        size, payload = int.from_bytes(data[:2]), data[2:]
        cut = bool(size) and size < len(payload) <= size * MAX_SEGMENTS
        control = [(socket.IPPROTO_UDP, UDP_SEGMENT, size.to_bytes(2, "little"))] if cut else []
        self.sender.sendmsg([payload], control)
        wanted = [payload[at : at + size] for at in range(0, len(payload), size)] if cut else [payload]
        self.others.clear()
        arrived = []
        for _ in range(len(wanted) + 1):
            burst = self.encap.recv_burst()
            if not burst and len(arrived) + len(self.others) >= len(wanted):
                break
            arrived += [bytes(esp) for _, esp in taken_apart(burst)]
            self.hosts.right.engine.input(burst, NOW)
        assert arrived == [one for one in wanted if classify(one) is Payload.ESP]
        assert self.others == [one for one in wanted if classify(one) is not Payload.ESP and one]
