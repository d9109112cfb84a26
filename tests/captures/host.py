"""The host around xfrm0: what its IP does with packets that come off the wire, and with what xfrm0 delivers."""

from __future__ import annotations

from tests.captures.machine import OWN
from xfrmi.core.router import is_multicast
from xfrmi.wire.address import pack_address
from xfrmi.wire.ip import (
    IPV6_HEADER_LEN,
    checksum,
    ipv4_header_checksum,
    ipv6_transport_offset,
    pseudo_header_sum,
    trim,
    upper_layer,
)
from xfrmi.wire.udpencap import Payload, classify
from xfrmi.wire.xfrm_const import IPPROTO_ESP, IPPROTO_UDP

OWN_ADDRESSES = {pack_address(address) for address in OWN}
ENCAP_PORT = 4500
"""Where the machine has a socket for ESP in UDP."""
SOCKET_PORT = 2222
"""Where it has one that shows what arrives."""


def addresses(packet: bytes) -> tuple[bytes, bytes]:
    """Source and destination."""
    return (packet[12:16], packet[16:20]) if packet[0] >> 4 == 4 else (packet[8:24], packet[24:40])


def ip_input(packet: bytes) -> bytes | None:
    """The packet as IP passes it on to whom it is for, on this host; None where it does not."""
    try:
        packet = bytes(trim(packet))
    except ValueError:
        return None
    if packet[0] >> 4 == 4:
        header_len = (packet[0] & 15) * 4
        if ipv4_header_checksum(packet[:header_len]).to_bytes(2, "big") != packet[10:12]:
            return None
    src, dst = addresses(packet)
    if src in OWN_ADDRESSES or (dst not in OWN_ADDRESSES and not is_multicast(dst)):
        return None
    return packet


def parameter_problem(packet: bytes) -> bytes | None:
    """ICMP for IPv4 options that cannot be read: what IP sends back through the device they came from."""
    if packet[0] >> 4 != 4 or ip_input(packet) is None:
        return None
    at, end = 20, (packet[0] & 15) * 4
    while at < end and packet[at]:
        length = 1 if packet[at] == 1 else packet[at + 1] if at + 1 < end else 0
        if length < 1 or at + length > end:
            icmp = bytes((12, 0, 0, 0, at, 0, 0, 0)) + packet[: end + 8]
            header = b"\x45\xc0" + (20 + len(icmp)).to_bytes(2, "big") + bytes(4) + b"\x40\x01\0\0"
            return header + packet[16:20] + packet[12:16] + icmp
        at += length
    return None


def udp_payload(packet: bytes, port: int) -> bytes | None:
    """What a UDP socket at `port` reads of this packet, if anything."""
    received = ip_input(packet)
    if received is None or parameter_problem(received) is not None:
        return None
    protocol, offset, fragment = upper_layer(received)
    if protocol != IPPROTO_UDP or fragment != -1 or int.from_bytes(received[offset + 2 : offset + 4], "big") != port:
        return None
    length = int.from_bytes(received[offset + 4 : offset + 6], "big")
    datagram = received[offset : offset + length]
    if received[0] >> 4 == 6 or datagram[6:8] != b"\0\0":
        pseudo = pseudo_header_sum(b"".join(addresses(received)), IPPROTO_UDP, length)
        if datagram[6:8] == b"\0\0" or checksum(datagram, pseudo) not in (0, 0xFFFF):
            return None
    return datagram[8:]


class Wire:
    """The receiving side: fragments are put together (RAW-04), and ESP is what comes to a raw socket, or as ESP in UDP
    to the encapsulation socket. Everything else is not for xfrmi."""

    def __init__(self) -> None:
        self._pieces: dict[tuple[bytes, bytes, int], dict[int, bytes]] = {}

    def esp(self, packet: bytes) -> bytes | None:
        """The whole packet if there is ESP in it, once all of it is there."""
        whole = self._whole(packet)
        if whole is None:
            return None
        protocol, _, _ = upper_layer(whole)
        if protocol == IPPROTO_ESP:
            return whole
        payload = udp_payload(whole, ENCAP_PORT)
        return whole if payload is not None and classify(payload) == Payload.ESP else None

    def _whole(self, packet: bytes) -> bytes | None:
        _, offset, fragment = upper_layer(packet)
        if fragment == -1:
            return packet
        if packet[0] >> 4 == 4:
            start, ident, more = offset, int.from_bytes(packet[4:6], "big"), packet[6] & 0x20
        else:
            start, ident, more = offset, int.from_bytes(packet[offset - 4 : offset], "big"), packet[offset - 5] & 1
        pieces = self._pieces.setdefault((*addresses(packet), ident), {})
        pieces[fragment] = packet[start:]
        if not more:
            pieces[-1] = (fragment + len(packet) - start).to_bytes(4, "big")
        if -1 not in pieces or sum(map(len, pieces.values())) - 4 < int.from_bytes(pieces[-1], "big"):
            return None
        del pieces[-1]
        return _headed(packet, offset, b"".join(pieces[at] for at in sorted(pieces)))


def _headed(fragment: bytes, offset: int, payload: bytes) -> bytes:
    """The header of one of its fragments in front of the whole payload."""
    if fragment[0] >> 4 == 4:
        header = bytearray(fragment[:offset])
        header[2:4] = (offset + len(payload)).to_bytes(2, "big")
        header[6] &= 0x40
        header[7] = 0
        header[10:12] = ipv4_header_checksum(header).to_bytes(2, "big")
        return bytes(header) + payload
    at, previous = ipv6_transport_offset(fragment)
    header = bytearray(fragment[:at])
    header[previous] = fragment[at]
    header[4:6] = (at - IPV6_HEADER_LEN + len(payload)).to_bytes(2, "big")
    return bytes(header) + payload


def put_together(packets: list[bytes]) -> list[bytes]:
    """Whole packets, in the order in which they became whole."""
    wire = Wire()
    return [whole for packet in packets if (whole := wire._whole(packet)) is not None]
