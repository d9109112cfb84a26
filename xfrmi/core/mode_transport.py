"""Transport mode: ESP between the IP header and what it carried (RFC 4303 3.1.1; 5.2).

The header travels in the clear and is used again at the other end, with the protocol restored from the ESP trailer
and the length made right. Fragments are protected like whole datagrams, as the kernel does for packets that reach it
already fragmented; the peer, which reassembles before it decrypts, cannot open them (RFC 4303 3.3.4 would refuse).

A NAT on the way changes addresses that TCP and UDP have in their checksums, out of its reach. What is opened here is
what the peer has sealed, to the byte; input.py makes such checksums right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xfrmi.core.outer import Finish, Wrapped, carrier_protocol, finish_for, inner_version, udp_header
from xfrmi.errors import Drop
from xfrmi.wire.ip import (
    IPV4_CHECKSUM,
    IPV4_HEADER_LEN,
    IPV4_PROTOCOL,
    IPV4_TOTAL_LENGTH,
    IPV6_HEADER_LEN,
    IPV6_NEXT_HEADER,
    IPV6_PAYLOAD_LENGTH,
    Buffer,
    extension_header,
    ipv4_header_checksum,
    ipv6_transport_offset,
)
from xfrmi.wire.xfrm_const import XfrmStat

if TYPE_CHECKING:
    from xfrmi.core.state import State


class Transport:
    """What both families share."""

    __slots__ = ("_protocol", "_udp", "finish")

    def __init__(self, state: State) -> None:
        self._protocol = carrier_protocol(state)
        self._udp = udp_header(state)
        self.finish: Finish = finish_for(state.family, state.encap is not None)


class TransportIPv4(Transport):
    """IPv4: behind the whole header, options included."""

    __slots__ = ()

    def wrap(self, packet: Buffer) -> Wrapped:
        if inner_version(packet) != 4:
            raise Drop(XfrmStat.OUT_STATE_MODE_ERROR, "an IPv6 packet for an IPv4 transport state")
        header_len = (packet[0] & 15) * 4
        if not IPV4_HEADER_LEN <= header_len <= len(packet):
            raise Drop(XfrmStat.OUT_STATE_MODE_ERROR, "malformed IPv4 header")
        header = bytearray(packet[:header_len])
        header[IPV4_PROTOCOL] = self._protocol
        header += self._udp
        return header, packet[header_len:], packet[IPV4_PROTOCOL]

    def unwrap(self, header: Buffer, payload: Buffer, next_header: int) -> Buffer:
        inner = bytearray(header[: (header[0] & 15) * 4])
        inner[IPV4_PROTOCOL] = next_header
        inner[IPV4_TOTAL_LENGTH] = (len(inner) + len(payload)).to_bytes(2, "big")
        inner[IPV4_CHECKSUM] = ipv4_header_checksum(inner).to_bytes(2, "big")
        inner += payload
        return inner


class TransportIPv6(Transport):
    """IPv6: behind the headers every router reads, before Fragment and the rest (wire.ip.ipv6_transport_offset)."""

    __slots__ = ()

    def wrap(self, packet: Buffer) -> Wrapped:
        if inner_version(packet) != 6:
            raise Drop(XfrmStat.OUT_STATE_MODE_ERROR, "an IPv4 packet for an IPv6 transport state")
        try:
            offset, previous = ipv6_transport_offset(packet)
        except ValueError as error:
            raise Drop(XfrmStat.OUT_STATE_MODE_ERROR, str(error)) from None
        header = bytearray(packet[:offset])
        header[previous] = self._protocol
        header += self._udp
        return header, packet[offset:], packet[previous]

    def unwrap(self, header: Buffer, payload: Buffer, next_header: int) -> Buffer:
        end = len(header) - len(self._udp)
        previous, offset = IPV6_NEXT_HEADER, IPV6_HEADER_LEN
        while offset < end:
            previous, offset = offset, extension_header(header, offset)[1]
        inner = bytearray(header[:end])
        inner[previous] = next_header
        inner[IPV6_PAYLOAD_LENGTH] = (end - IPV6_HEADER_LEN + len(payload)).to_bytes(2, "big")
        inner += payload
        return inner
