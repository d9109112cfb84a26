"""xfrmi.wire.udpencap: what a datagram on port 4500 is, and the header of ours (RFC 3948, 5.10)."""

from __future__ import annotations

import pytest

from xfrmi.wire.udpencap import KEEPALIVE, MAX_ESP_LEN, NON_ESP_MARKER, Payload, classify, udp_header

ESP = bytes.fromhex("00003001" + "00000001") + bytes(31)


@pytest.mark.parametrize(
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
@pytest.mark.parametrize("kind_of_buffer", [bytes, memoryview])
def test_classify(payload: bytes, kind: Payload, kind_of_buffer: type[bytes] | type[memoryview]) -> None:
    assert classify(kind_of_buffer(payload)) is kind


def test_no_checksum_over_ipv4() -> None:
    assert udp_header(4500, 4501, bytes(8), ESP) == bytes.fromhex("1194 1195 002f 0000")


def test_checksum_over_ipv6_is_scapys() -> None:
    from scapy.layers.inet import UDP
    from scapy.layers.inet6 import IPv6
    from scapy.packet import Raw

    packet = bytes(IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP(sport=4500, dport=4500) / Raw(ESP))
    assert udp_header(4500, 4500, packet[8:40], memoryview(ESP)) == packet[40:48]


def test_checksum_over_ipv6_is_never_zero() -> None:
    """5.10: 0 would mean that there is none. A port equal to the checksum without it balances the sum to 0."""
    addresses = bytes(15) + b"\1" + bytes(15) + b"\2"
    unbalanced = int.from_bytes(udp_header(0, 4500, addresses, ESP)[6:], "big")
    assert udp_header(unbalanced, 4500, addresses, ESP)[6:] == b"\xff\xff"


def test_longest_payload() -> None:
    """5.10: more is EMSGSIZE."""
    assert udp_header(1, 2, bytes(8), bytes(MAX_ESP_LEN))[4:6] == b"\xff\xff"
    with pytest.raises(ValueError):
        udp_header(1, 2, bytes(8), bytes(MAX_ESP_LEN + 1))
