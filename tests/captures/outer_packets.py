"""Outer packets of a capture beside ours: byte for byte, except what listed.NOT_REPRODUCIBLE names."""

from __future__ import annotations

from xfrmi.core.state import State
from xfrmi.wire.esp import ESP_HEADER_LEN
from xfrmi.wire.ip import IPV6_HEADER_LEN, Buffer, checksum, ipv6_transport_offset, split_outer
from xfrmi.wire.xfrm_const import IPPROTO_BEETPH, IPPROTO_FRAGMENT, IPPROTO_UDP

DF = 0x40


def datagram(outer: bytes) -> tuple[Buffer, Buffer]:
    """As the receiving side gets it. ESP behind the header of a fragment, as transport mode sends it, would have been
    put together with the rest; here it is opened as it is."""
    try:
        return split_outer(outer)
    except ValueError:
        header_len = (outer[0] & 15) * 4 if outer[0] >> 4 == 4 else ipv6_transport_offset(outer)[0]
        return outer[:header_len], outer[header_len:]


def check_outer(state: State, ours: bytes, theirs: bytes, seq: int, next_header: int) -> None:
    """`seq` is the whole sequence number, `next_header` that of the ESP trailer."""
    if theirs[0] >> 4 == 4 and not theirs[6] & DF:
        header_len = (theirs[0] & 15) * 4
        assert checksum(ours[:header_len]) == 0
        theirs = theirs[:4] + ours[4:6] + theirs[6:10] + ours[10:12] + theirs[12:]
    if next_header != IPPROTO_BEETPH:
        assert ours == theirs
        return
    (our_header, our_esp), (header, esp) = split_outer(ours), split_outer(theirs)
    if header[0] >> 4 == 6 and len(header) > IPV6_HEADER_LEN:
        header = bytes(header[:-2]) + bytes(our_header[-2:])  # the UDP checksum covers the reserved byte
    assert bytes(our_header) == bytes(header)
    text, their_text = (decrypted(state, packet, seq) for packet in (our_esp, esp))
    assert text[:3] + text[4:] == their_text[:3] + their_text[4:]
    assert text[3] == 0


def decrypted(state: State, esp: Buffer, seq: int) -> bytes:
    """Payload and trailer. Raises BadIcv."""
    start = ESP_HEADER_LEN + state.transform.iv_len
    hi = (seq >> 32).to_bytes(4, "big") if state.esn else b""
    return bytes(state.transform.open(esp[:ESP_HEADER_LEN], hi, esp[ESP_HEADER_LEN:start], esp[start:]))


def outer_header(packet: bytes, made_up: bool) -> bytes:
    """Outer headers, SPI and sequence number, as far as 48 bytes have them and without what is not ours to choose:
    IPv4 identification where DF is clear, the identification of IPv6 fragments, checksums; and, if `made_up`, what may
    be copied from an inner packet whose sender makes it up: IPv4 identification and IPv6 flow label."""
    if packet[0] >> 4 == 6:
        end = {IPPROTO_UDP: 46, IPPROTO_FRAGMENT: 44}.get(packet[6], 48)
        label = bytes((packet[1] & 0xF0, 0, 0)) if made_up else packet[1:4]
        return packet[:1] + label + packet[4:end]
    ident = packet[4:6] if packet[6] & DF and not made_up else b""
    if packet[6] & 0x1F or packet[7]:  # a later fragment
        return packet[:4] + packet[6:10] + packet[12:20]
    return packet[:4] + ident + packet[6:10] + packet[12 : 36 if packet[9] == IPPROTO_UDP else 28]
