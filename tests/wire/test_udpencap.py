"""xfrmi.wire.udpencap: what a datagram on an encapsulation port is (RFC 3948)."""

from __future__ import annotations

from tests.each import each
from xfrmi.wire.udpencap import KEEPALIVE, NON_ESP_MARKER, UDP_HEADER, Payload, classify

ESP = bytes.fromhex("0000300100000001") + bytes(31)


@each(
    "payload, kind",
    [
        (ESP, Payload.ESP),
        (b"\0\0\0\1" + bytes(5), Payload.ESP),
        (NON_ESP_MARKER + bytes(28), Payload.IKE),
        (KEEPALIVE, Payload.KEEPALIVE),
        (b"\xff\xff", Payload.IKE),
        (b"\xfe", Payload.IKE),
        (b"", Payload.IKE),
        (b"\1" * 8, Payload.IKE),
    ],
    ids=["UDP-03", "just more than 8", "UDP-05 marker", "UDP-04", "two ff", "no ff", "empty", "UDP-05 eight bytes"],
)
@each("buffer", [bytes, memoryview])
def test_classify(payload: bytes, kind: Payload, buffer: type[bytes] | type[memoryview]) -> None:
    assert classify(buffer(payload)) is kind


def test_header_is_scapys() -> None:
    from scapy.layers.inet import UDP

    assert UDP_HEADER.pack(4500, 4501, 8, 0xBEEF) == bytes(UDP(sport=4500, dport=4501, len=8, chksum=0xBEEF))
