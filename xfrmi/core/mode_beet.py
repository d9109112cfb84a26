"""BEET, the bound end-to-end tunnel: tunnel semantics at transport cost (draft-nikander-esp-beet-mode; 5.7).

Both ends know the inner addresses, they are the state's selector, so the inner header does not travel: outwards its
fields move to an outer header with the state's addresses, inwards a header is made again from the outer one. What an
outer header cannot say goes before the payload, in a pseudo header that ESP announces as next header 94:

    | next header | hdrlen = optlen / 8 | padlen 4 or 0 | reserved | NOP * padlen | IPv4 options |

It is (hdrlen + 1) * 8 bytes long. The `reserved` byte is 0 here (the kernel sends whatever was in memory).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from xfrmi.core.outer import (
    DF_HIGH,
    FRAGMENT_HIGH,
    Finish,
    Wrapped,
    finish_for,
    inner_version,
    template,
    tos_of,
)
from xfrmi.errors import Drop
from xfrmi.wire.ip import (
    IPV4_CHECKSUM,
    IPV4_HEADER_LEN,
    IPV4_PROTOCOL,
    IPV4_TTL,
    IPV6_HEADER_LEN,
    IPV6_HOP_LIMIT,
    IPV6_NEXT_HEADER,
    Buffer,
    ipv4_header_checksum,
)
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6, IPPROTO_BEETPH, XfrmStat

if TYPE_CHECKING:
    from xfrmi.core.state import State

IPOPT_NOP: Final = b"\1"
PSEUDO_HEADER_LEN: Final = 4
PSEUDO_HEADER_MAX: Final = 8
MAX_OPTLEN: Final = 250
"""The kernel's bound, well above the 40 bytes an IPv4 header can hold: what lies between is IP's to refuse."""

_IPV4: Final = struct.Struct(">BBH4sBBH4s4s")
_IPV6_FIXED: Final = struct.Struct(">IHBB16s16s")


class Beet:
    """One state in BEET mode: any inner family over any outer family."""

    __slots__ = ("_inner_daddr", "_inner_family", "_inner_saddr", "_over_ipv4", "_template", "finish")

    def __init__(self, state: State) -> None:
        self._template = template(state)
        self._over_ipv4 = state.family == AF_INET
        self._inner_family = state.selector.family
        self._inner_saddr = state.selector.saddr
        self._inner_daddr = state.selector.daddr
        self.finish: Finish = finish_for(state.family, state.encap is not None)

    def wrap(self, packet: Buffer) -> Wrapped:
        if inner_version(packet) == 4:
            return self._wrap_ipv4(packet)
        return self._wrap_ipv6(packet)

    def _wrap_ipv4(self, packet: Buffer) -> Wrapped:
        header_len = (packet[0] & 15) * 4
        if not IPV4_HEADER_LEN <= header_len <= len(packet):
            raise Drop(XfrmStat.OUT_STATE_MODE_ERROR, "malformed IPv4 header")
        if packet[6] & FRAGMENT_HIGH or packet[7]:
            raise Drop(XfrmStat.OUT_STATE_MODE_ERROR, "BEET cannot carry IPv4 fragments")
        header = bytearray(self._template)
        if self._over_ipv4:
            header[1] = packet[1]
            header[4:9] = packet[4:9]  # ID, DF and reserved bit, TTL
        else:
            header[0] = 0x60 | packet[1] >> 4
            header[1] = (packet[1] & 15) << 4
            header[IPV6_HOP_LIMIT] = packet[IPV4_TTL]
        if header_len == IPV4_HEADER_LEN:
            return header, packet[IPV4_HEADER_LEN:], packet[IPV4_PROTOCOL]
        optlen = header_len - IPV4_HEADER_LEN
        padlen = 4 - (optlen & 4)
        payload = bytearray((packet[IPV4_PROTOCOL], optlen // 8, padlen, 0))
        payload += IPOPT_NOP * padlen
        payload += packet[IPV4_HEADER_LEN:]
        return header, payload, IPPROTO_BEETPH

    def _wrap_ipv6(self, packet: Buffer) -> Wrapped:
        header = bytearray(self._template)
        if self._over_ipv4:
            header[1] = tos_of(packet)
            header[6] = DF_HIGH
            header[IPV4_TTL] = packet[IPV6_HOP_LIMIT]
        else:
            header[0:4] = packet[0:4]  # traffic class and flow label
            header[IPV6_HOP_LIMIT] = packet[IPV6_HOP_LIMIT]
        return header, packet[IPV6_HEADER_LEN:], packet[IPV6_NEXT_HEADER]

    def unwrap(self, header: Buffer, payload: Buffer, next_header: int) -> Buffer:
        if self._inner_family == AF_INET:
            return self._unwrap_ipv4(header, payload, next_header)
        if self._inner_family == AF_INET6:
            return self._unwrap_ipv6(header, payload, next_header)
        raise Drop(XfrmStat.IN_STATE_MODE_ERROR, "a BEET state without a selector family")

    def _unwrap_ipv4(self, header: Buffer, payload: Buffer, next_header: int) -> Buffer:
        optlen = 0
        if next_header == IPPROTO_BEETPH:
            if len(payload) < PSEUDO_HEADER_LEN:
                raise Drop(XfrmStat.IN_STATE_MODE_ERROR, "BEET pseudo header truncated")
            next_header, hdrlen, padlen = payload[0], payload[1], payload[2]
            options_at = PSEUDO_HEADER_LEN + padlen
            optlen = hdrlen * 8 + PSEUDO_HEADER_MAX - options_at
            if optlen < 0 or optlen & 3 or optlen > MAX_OPTLEN or options_at > len(payload):
                raise Drop(XfrmStat.IN_STATE_MODE_ERROR, "malformed BEET pseudo header")
            payload = payload[options_at:]
        if self._over_ipv4:
            id_and_frag, ttl = bytes(header[4:8]), header[IPV4_TTL]
        else:
            id_and_frag, ttl = bytes((0, 0, DF_HIGH, 0)), header[IPV6_HOP_LIMIT]
        # More options than a header can hold overflow the four bits of its length, in the kernel too: IP refuses that.
        words = 5 + optlen // 4 & 15
        inner = bytearray(_IPV4.pack(
            0x40 | words, tos_of(header), IPV4_HEADER_LEN + len(payload) & 0xFFFF, id_and_frag, ttl, next_header, 0,
            self._inner_saddr, self._inner_daddr,
        ))  # fmt: skip
        inner += payload
        inner[IPV4_CHECKSUM] = ipv4_header_checksum(inner[: words * 4]).to_bytes(2, "big")
        return inner

    def _unwrap_ipv6(self, header: Buffer, payload: Buffer, next_header: int) -> Buffer:
        flow_label = 0 if self._over_ipv4 else int.from_bytes(header[1:4], "big") & 0xFFFFF
        hop_limit = header[IPV4_TTL if self._over_ipv4 else IPV6_HOP_LIMIT]
        inner = bytearray(_IPV6_FIXED.pack(
            6 << 28 | tos_of(header) << 20 | flow_label, len(payload), next_header, hop_limit,
            self._inner_saddr, self._inner_daddr,
        ))  # fmt: skip
        inner += payload
        return inner
