"""What `lab watch` says of a frame, hostile ones included; and that it hears a node's device."""

from __future__ import annotations

import random
import shutil
import sys

import pytest

from tests.each import each
from tests.lab.test_up_down import Place, place
from xfrmi.lab.watch import describe

__all__ = ["place"]

MACS = bytes(12)


def ipv4(protocol: int, body: bytes, fragment: int = 0) -> bytes:
    size = (20 + len(body)).to_bytes(2, "big")
    header = b"\x45\0" + size + bytes(2) + fragment.to_bytes(2, "big") + bytes([64, protocol]) + bytes(2)
    return MACS + b"\x08\x00" + header + bytes([192, 0, 2, 1, 192, 0, 2, 2]) + body


def ipv6(protocol: int, body: bytes) -> bytes:
    header = b"\x60\0\0\0" + len(body).to_bytes(2, "big") + bytes([protocol, 64])
    return MACS + b"\x86\xdd" + header + bytes(15) + b"\1" + bytes(15) + b"\2" + body


UDP = (4500).to_bytes(2, "big") * 2 + bytes(4)
ESP = (0x1001).to_bytes(4, "big") + (7).to_bytes(4, "big") + bytes(24)


@each(
    ("frame", "said"),
    [
        (ipv4(50, ESP), "192.0.2.1 > 192.0.2.2: ESP spi 0x1001 seq 7, 32 bytes"),
        (ipv4(50, ESP) + bytes(9), "192.0.2.1 > 192.0.2.2: ESP spi 0x1001 seq 7, 32 bytes"),
        (ipv6(50, ESP), "::1 > ::2: ESP spi 0x1001 seq 7, 32 bytes"),
        (ipv4(17, UDP + ESP), "192.0.2.1 > 192.0.2.2: UDP 4500 > 4500: ESP spi 0x1001 seq 7, 32 bytes"),
        (ipv4(17, UDP + b"\xff"), "192.0.2.1 > 192.0.2.2: UDP 4500 > 4500: keepalive"),
        (ipv4(17, UDP + ESP[:9]), "192.0.2.1 > 192.0.2.2: UDP 4500 > 4500: ESP spi 0x1001 seq 7, 9 bytes"),
        (ipv4(17, UDP + ESP[:8]), "192.0.2.1 > 192.0.2.2: UDP 4500 > 4500, 16 bytes"),
        (ipv4(17, UDP + bytes(20)), "192.0.2.1 > 192.0.2.2: UDP 4500 > 4500, 28 bytes"),
        (ipv4(1, bytes(64)), "192.0.2.1 > 192.0.2.2: ICMP, 64 bytes"),
        (ipv4(50, ESP, 0x2000), "192.0.2.1 > 192.0.2.2: fragment, 32 bytes"),
        (ipv6(44, bytes(16)), "::1 > ::2: fragment, 16 bytes"),
        (ipv6(58, bytes([135]) + bytes(30)), ""),
        (MACS + b"\x08\x06" + bytes(28), ""),
        (MACS + b"\x88\xb5", "ethertype 0x88b5"),
    ],
)
def test_what_is_said_of_a_frame(frame: bytes, said: str) -> None:
    assert describe(frame) == said


def test_no_frame_is_too_odd() -> None:
    chance = random.Random(1)
    for whole in (ipv4(17, UDP + ESP), ipv6(50, ESP), ipv6(0, bytes(8))):
        for cut in range(len(whole)):
            describe(whole[:cut])
        for _ in range(300):
            odd = bytearray(whole)
            odd[chance.randrange(12, len(odd))] = chance.randrange(256)
            describe(bytes(odd))


def test_a_node_is_heard(place: Place) -> None:
    if shutil.which("ping") is None:
        pytest.skip("NO ping COMMAND HERE, NOBODY TO BE HEARD")
    assert place.lab("up", str(place.file))[2] == ""
    ping = [sys.executable, "-m", "xfrmi", "lab", "exec", "--native", "moon", "--", "ping", "-q", "-c1", "192.0.2.2"]
    status, out, err = place.lab("watch", "sun:eth0", "--", *ping)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "192.0.2.1 > 192.0.2.2: ICMP, 64 bytes",
        "192.0.2.2 > 192.0.2.1: ICMP, 64 bytes",
    ]
    assert place.lab("watch", "sun:eth9", "--", "true")[::2] == (1, "xfrmi: sun:eth9: No such device\n")
