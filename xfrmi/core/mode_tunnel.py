"""Tunnel mode: a new header in front of the whole inner packet (RFC 4301 5.1.2; 5.3 to 5.6).

The outer family is the state's, the inner family each packet's own: 4-in-6 and 6-in-4 differ from the rest only in
what can be copied. Copied outwards: DSCP, ECN, DF (IPv4 in IPv4), flow label (IPv6 in IPv6). Copied inwards: the CE
mark, and the DSCP where the state says so. The inner TTL stays as it is: forwarding counts it down, not a tunnel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xfrmi.core.outer import (
    CE,
    DF_HIGH,
    DSCP_MASK,
    ECN_MASK,
    Finish,
    Wrapped,
    finish_for,
    inner_version,
    template,
    tos_of,
    tos_table,
)
from xfrmi.errors import Drop
from xfrmi.wire.ip import IPV4_HEADER_LEN, IPV6_HEADER_LEN, Buffer
from xfrmi.wire.xfrm_const import (
    IPPROTO_IPIP,
    IPPROTO_IPV6,
    SA_XFLAG_DONT_ENCAP_DSCP,
    STATE_DECAP_DSCP,
    STATE_NOECN,
    STATE_NOPMTUDISC,
    XfrmStat,
)

if TYPE_CHECKING:
    from xfrmi.core.state import State


WRAP_READS = (0, 1, 2, 3, 6)
"""Offsets of the bytes of an inner packet that its outer header depends on: version, TOS, flow label, DF."""


class OtherFamily(bytes):
    """An inner packet of another version than its next header announces. The device has received it, and the IP it is
    announced for refuses it; a TUN, which asks the version only, would call in the other one."""


class Tunnel:
    """What both outer families share: the way in."""

    __slots__ = ("_decap_dscp", "_df", "_ecn", "_template", "_tos", "finish")

    def __init__(self, state: State) -> None:
        self._template = template(state)
        self._ecn = not state.flags & STATE_NOECN
        self._decap_dscp = bool(state.flags & STATE_DECAP_DSCP)
        self._tos = tos_table(self._ecn, not state.extra_flags & SA_XFLAG_DONT_ENCAP_DSCP)
        self._df = 0 if state.flags & STATE_NOPMTUDISC else DF_HIGH
        self.finish: Finish = finish_for(state.family, state.encap is not None)

    def passes(self, header: Buffer, payload_len: int, next_header: int) -> int:
        """The version of the payloads that `unwrap` would give back as they are, for a burst to ask once; 0 if it has
        to look at each."""
        if self._decap_dscp or (self._ecn and tos_of(header) & ECN_MASK == CE):
            return 0
        if next_header == IPPROTO_IPIP and payload_len >= IPV4_HEADER_LEN:
            return 4
        return 6 if next_header == IPPROTO_IPV6 and payload_len >= IPV6_HEADER_LEN else 0

    def unwrap(self, header: Buffer, payload: Buffer, next_header: int) -> Buffer:
        """The inner packet. Its version nibble, lengths and checksum are IP's to judge, not ours (5.5)."""
        if next_header == IPPROTO_IPIP:
            if len(payload) < IPV4_HEADER_LEN:
                raise Drop(XfrmStat.IN_STATE_MODE_ERROR, "inner IPv4 header truncated")
            other = 6
        elif next_header != IPPROTO_IPV6:
            raise Drop(XfrmStat.IN_STATE_MODE_ERROR, "neither IPv4 nor IPv6 inside a tunnel")
        elif len(payload) < IPV6_HEADER_LEN:
            raise Drop(XfrmStat.IN_STATE_MODE_ERROR, "inner IPv6 header truncated")
        else:
            other = 4
        if payload[0] >> 4 == other:
            return OtherFamily(payload)
        outer_tos = tos_of(header)
        if self._decap_dscp or (outer_tos & ECN_MASK == CE and self._ecn):
            return self._with_outer_tos(payload, outer_tos, next_header)
        return payload

    def _with_outer_tos(self, payload: Buffer, outer_tos: int, next_header: int) -> bytearray:
        """A copy of the inner packet with the DSCP of the outer one (decap-dscp) and with its CE mark.

        The mark goes to ECN-capable packets only; others pass as they are, where RFC 6040 would drop (quirk Q17).
        """
        inner = bytearray(payload)
        before = inner[1] if next_header == IPPROTO_IPIP else tos_of(inner)
        tos = outer_tos & DSCP_MASK | before & ECN_MASK if self._decap_dscp else before
        if self._ecn and outer_tos & ECN_MASK == CE and tos & ECN_MASK:
            tos |= CE
        if next_header == IPPROTO_IPIP:
            # RFC 1624 in its simplest form: the checksum is the negative of a sum modulo 65535.
            check = (int.from_bytes(inner[10:12], "big") + before - tos) % 0xFFFF
            inner[1] = tos
            inner[10:12] = check.to_bytes(2, "big")
        else:
            inner[0] = inner[0] & 0xF0 | tos >> 4
            inner[1] = (tos & 15) << 4 | inner[1] & 15
        return inner


class TunnelOverIPv4(Tunnel):
    """Outer IPv4. The ID is 0: right where DF is set, otherwise the sending side fills it (5.3)."""

    __slots__ = ()

    def wrap(self, packet: Buffer) -> Wrapped:
        header = bytearray(self._template)
        if inner_version(packet) == 4:
            header[1] = self._tos[packet[1]]
            header[6] = packet[6] & self._df
            return header, packet, IPPROTO_IPIP
        header[1] = self._tos[(packet[0] << 4 | packet[1] >> 4) & 0xFF]
        header[6] = self._df
        return header, packet, IPPROTO_IPV6


class TunnelOverIPv6(Tunnel):
    """Outer IPv6 (5.4)."""

    __slots__ = ()

    def wrap(self, packet: Buffer) -> Wrapped:
        header = bytearray(self._template)
        if inner_version(packet) == 4:
            tos = self._tos[packet[1]]
            header[0] = 0x60 | tos >> 4
            header[1] = (tos & 15) << 4
            return header, packet, IPPROTO_IPIP
        tos = self._tos[(packet[0] << 4 | packet[1] >> 4) & 0xFF]
        header[0] = 0x60 | tos >> 4
        header[1] = (tos & 15) << 4 | packet[1] & 15
        header[2:4] = packet[2:4]
        return header, packet, IPPROTO_IPV6
