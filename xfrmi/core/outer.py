"""The outer header of an ESP packet: what is the same for every packet of a state, and what depends on its length.

`template` is made once per state and copied for each packet; a mode writes into the copy what it takes from the inner
packet; `finish` writes what only the whole packet can tell: lengths and checksums. A header here is everything up to
where ESP starts, so it ends with a UDP header when the state encapsulates (RFC 3948, 5.10).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xfrmi.errors import Drop
from xfrmi.wire.ip import (
    IPV4_CHECKSUM,
    IPV4_HEADER_LEN,
    IPV6_ADDRESSES,
    IPV6_HEADER_LEN,
    UDP_HEADER_LEN,
    Buffer,
    checksum,
    ipv4_header_checksum,
    pseudo_header_sum,
)
from xfrmi.wire.udpencap import UDP_HEADER
from xfrmi.wire.xfrm_const import AF_INET, IPPROTO_ESP, IPPROTO_UDP, XfrmStat

if TYPE_CHECKING:
    from xfrmi.core.state import State

Writable: TypeAlias = bytearray | memoryview
Wrapped: TypeAlias = tuple[bytearray, Buffer, int]
"""(outer header, payload to encrypt, ESP next header)."""
Finish: TypeAlias = Callable[[Writable, int], None]

CE: Final = 3
ECT_0: Final = 2
ECN_MASK: Final = 3
DSCP_MASK: Final = 0xFC

DF_HIGH: Final = 0x40
"""Don't Fragment, within byte 6 of an IPv4 header."""
FRAGMENT_HIGH: Final = 0x3F
"""More Fragments and the upper offset bits, within the same byte; the rest of the offset is byte 7."""

_MAX_LENGTH: Final = 0xFFFF
_CACHED: Final = 4096
_finished_ipv4: dict[tuple[bytes, int], bytes] = {}
"""By the header before and the length of the packet: a flow sends few different ones. A full one is emptied."""
_U16: Final = struct.Struct(">H").pack_into


def template(state: State) -> bytes:
    """Outer header of a tunnel: addresses, protocol, TTL or hop limit; TOS, ID, DF, flow label and lengths are 0."""
    protocol = carrier_protocol(state)
    if state.family == AF_INET:
        fixed = bytes((0x45, 0, 0, 0, 0, 0, 0, 0, state.ttl, protocol, 0, 0))
    else:
        fixed = bytes((0x60, 0, 0, 0, 0, 0, protocol, state.ttl))
    return fixed + state.src + state.dst + udp_header(state)


def carrier_protocol(state: State) -> int:
    """What the outer IP header says follows it."""
    return IPPROTO_UDP if state.encap else IPPROTO_ESP


def udp_header(state: State) -> bytes:
    """The UDP header of espinudp with length and checksum 0, or nothing."""
    return UDP_HEADER.pack(state.encap.sport, state.encap.dport, 0, 0) if state.encap else b""


@cache
def tos_table(ecn: bool, dscp: bool) -> bytes:
    """Outer TOS byte by inner TOS byte (5.3): the DSCP is copied if `dscp`; with `ecn` so is the ECN field, except
    that CE becomes ECT(0): congestion so far is the inner header's to tell. 8 tables at most, shared by all states.
    """

    def outer(tos: int) -> int:
        mark = ECT_0 if tos & ECN_MASK == CE else tos & ECN_MASK
        return (tos & DSCP_MASK if dscp else 0) | (mark if ecn else 0)

    return bytes(map(outer, range(256)))


def tos_of(header: Buffer) -> int:
    """The TOS byte or traffic class of an IP header."""
    if header[0] >> 4 == 4:
        return header[1]
    return (header[0] << 4 | header[1] >> 4) & 0xFF


def finish_for(family: int, udp: bool) -> Finish:
    """The function that completes a whole outer packet in place: finish(packet, length of the header before ESP).

    IPv4: total length, header checksum, UDP length (checksum 0). IPv6: payload length, UDP length and checksum
    (0 is sent as 0xffff). It raises Drop(OUT_STATE_PROTO_ERROR), the kernel's EMSGSIZE, if the lengths overflow.
    """
    if family == AF_INET:
        return _finish_ipv4_udp if udp else _finish_ipv4
    return _finish_ipv6_udp if udp else _finish_ipv6


def _finish_ipv4(packet: Writable, header_len: int) -> None:
    length = len(packet)
    key = bytes(packet[:header_len]), length
    finished = _finished_ipv4.get(key)
    if finished is None:
        if length > _MAX_LENGTH:
            raise Drop(XfrmStat.OUT_STATE_PROTO_ERROR, "outer packet longer than 65535 bytes")
        header = bytearray(key[0])
        _U16(header, 2, length)
        _U16(header, IPV4_CHECKSUM.start, ipv4_header_checksum(header))
        if len(_finished_ipv4) >= _CACHED:
            _finished_ipv4.clear()
        finished = _finished_ipv4[key] = bytes(header)
    packet[:header_len] = finished


def _finish_ipv4_udp(packet: Writable, header_len: int) -> None:
    _finish_ipv4(packet, header_len - UDP_HEADER_LEN)
    _U16(packet, header_len - 4, len(packet) - header_len + UDP_HEADER_LEN)


def _finish_ipv6(packet: Writable, header_len: int) -> None:
    length = len(packet) - IPV6_HEADER_LEN
    if length > _MAX_LENGTH:
        raise Drop(XfrmStat.OUT_STATE_PROTO_ERROR, "outer payload longer than 65535 bytes")
    _U16(packet, 4, length)


def _finish_ipv6_udp(packet: Writable, header_len: int) -> None:
    _finish_ipv6(packet, header_len)
    udp_length = len(packet) - header_len + UDP_HEADER_LEN
    _U16(packet, header_len - 4, udp_length)
    _U16(packet, header_len - 2, 0)
    pseudo = pseudo_header_sum(packet[IPV6_ADDRESSES], IPPROTO_UDP, udp_length)
    _U16(packet, header_len - 2, checksum(packet[header_len - UDP_HEADER_LEN :], pseudo) or 0xFFFF)


def finish_udp_rows(rows: NDArray[np.uint8], header_len: int) -> None:
    """UDP checksums over IPv6, for packets as the rows of an array that are finished but for those."""
    udp = rows[:, header_len - UDP_HEADER_LEN :]
    udp[:, 6:8] = 0
    pseudo = pseudo_header_sum(rows[0, IPV6_ADDRESSES].tobytes(), IPPROTO_UDP, udp.shape[1])
    # Little-endian words are summed faster; modulo 65535 a factor of 256 swaps the bytes of the sum.
    checks = udp.view("<u2").sum(axis=1, dtype=np.uint32).astype(np.int64)
    checks *= -256
    checks -= pseudo % 0xFFFF
    checks %= 0xFFFF
    checks[checks == 0] = 0xFFFF
    udp[:, 6:8] = checks.astype(">u2").view(np.uint8).reshape(-1, 2)


def inner_version(packet: Buffer) -> int:
    """4 or 6. Raises Drop(OUT_STATE_MODE_ERROR) if there is not even the fixed IP header of that version."""
    version = packet[0] >> 4 if len(packet) else 0
    if (version == 4 and len(packet) >= IPV4_HEADER_LEN) or (version == 6 and len(packet) >= IPV6_HEADER_LEN):
        return version
    raise Drop(XfrmStat.OUT_STATE_MODE_ERROR, "not an IP packet")
