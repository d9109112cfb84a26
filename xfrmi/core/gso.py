"""Cutting a super-packet into the packets it stands for, as the kernel does before software IPsec.

What differs between the segments of one super-packet (inet_gso_segment, tcp_gso_segment, __udp_gso_segment):

    IPv4    identification grows by one; total length of the last; header checksum
    IPv6    payload length of the last
    TCP     sequence number grows by the payload; FIN and PSH only in the last, CWR only in the first; checksum
    UDP     length of the last; checksum, unless the datagram came without one

Everything else, options included, is a copy. Two ways lead to the same bytes: a few segments are cut one by one, many
at once with numpy, one row a segment. Both start from the same two templates, one for the last segment and one for
those before it:

    1  template  the header with its lengths and flags, zero where segments differ, and what it adds to the checksums
    2  copy      header and payload into place
    3  number    identification and sequence number: the first one's plus 0, 1, 2 ..
    4  check     the template's sums, plus the numbers, plus one sum over the payload
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xfrmi.wire.ip import (
    IPV4_ADDRESSES,
    IPV4_CHECKSUM,
    IPV4_ID,
    IPV4_TOTAL_LENGTH,
    IPV6_ADDRESSES,
    IPV6_HEADER_LEN,
    IPV6_PAYLOAD_LENGTH,
    Buffer,
    checksum,
    ipv4_header_checksum,
    pseudo_header_sum,
)
from xfrmi.wire.vnet import GSO_UDP_L4, TCP_CWR, TCP_FLAGS, SuperPacket
from xfrmi.wire.xfrm_const import IPPROTO_TCP, IPPROTO_UDP

FEW: Final = 4
"""Below this many segments numpy costs more than it saves."""

_RAMP: Final = np.arange(1 << 10)
"""0, 1, 2 ..: the numbers of the segments."""

TCP_FIN: Final = 0x01
TCP_PSH: Final = 0x08


def segment(packet: SuperPacket) -> list[memoryview]:
    """The packets that `packet` stands for, in order, complete with checksums. They lie in memory of their own, which
    nobody else writes to: they may be kept, and written to."""
    count = packet.segments
    if count < FEW:
        return [memoryview(cut) for cut in _segment_few(packet, count)]
    width = packet.segment_len
    rows = np.empty((count, width), np.uint8)
    last_len = segment_rows(packet, rows, 0)
    flat = rows.reshape(-1).data
    segments = [flat[start : start + width] for start in range(0, count * width, width)]
    segments[-1] = segments[-1][:last_len]
    return segments


# 1 template


class Template(NamedTuple):
    header: bytearray
    """IP and upper-layer header with 0 for IPv4 identification and checksum, TCP sequence number, checksum."""
    ip_sum: int
    """What this adds to the IPv4 header checksum, modulo 65535."""
    upper_sum: int
    """What this and the pseudo-header add to the TCP or UDP checksum, modulo 65535."""


def template(packet: SuperPacket, payload_len: int, cleared_flags: int) -> Template:
    """For segments with so much payload and without these TCP flags."""
    header = bytearray(packet.data[: packet.hdr_len])
    upper = packet.csum_start
    upper_len = packet.hdr_len - upper + payload_len
    ip_sum = 0
    if header[0] >> 4 == 4:
        header[IPV4_TOTAL_LENGTH] = (packet.hdr_len + payload_len).to_bytes(2, "big")
        header[IPV4_ID] = header[IPV4_CHECKSUM] = bytes(2)
        ip_sum = int.from_bytes(header[:upper], "big") % 0xFFFF
        addresses = header[IPV4_ADDRESSES]
    else:
        header[IPV6_PAYLOAD_LENGTH] = (packet.hdr_len + payload_len - IPV6_HEADER_LEN).to_bytes(2, "big")
        addresses = header[IPV6_ADDRESSES]
    if packet.gso_type == GSO_UDP_L4:
        protocol = IPPROTO_UDP
        header[upper + 4 : upper + 6] = upper_len.to_bytes(2, "big")
    else:
        protocol = IPPROTO_TCP
        header[upper + 4 : upper + 8] = bytes(4)
        header[upper + TCP_FLAGS] &= ~cleared_flags
    check = upper + packet.csum_offset
    header[check : check + 2] = bytes(2)
    upper_sum = pseudo_header_sum(addresses, protocol, upper_len) + int.from_bytes(header[upper:], "big")
    return Template(header, ip_sum, upper_sum % 0xFFFF)


def set_lengths(header: bytearray, upper: int, length: int, udp: bool) -> int:
    """Make `header` that of a packet of `length` bytes whose upper layer begins at `upper`, but for that layer's
    checksum. Returns the sum of its pseudo-header."""
    if header[0] >> 4 == 4:
        header[IPV4_TOTAL_LENGTH] = length.to_bytes(2, "big")
        header[IPV4_CHECKSUM] = ipv4_header_checksum(header[:upper]).to_bytes(2, "big")
        addresses = header[IPV4_ADDRESSES]
    else:
        header[IPV6_PAYLOAD_LENGTH] = (length - IPV6_HEADER_LEN).to_bytes(2, "big")
        addresses = header[IPV6_ADDRESSES]
    if udp:
        header[upper + 4 : upper + 6] = (length - upper).to_bytes(2, "big")
    return pseudo_header_sum(addresses, IPPROTO_UDP if udp else IPPROTO_TCP, length - upper)


def templates(packet: SuperPacket, count: int) -> tuple[Template, Template]:
    """(for every segment but the last, for the last). CWR of the first is added where it is due."""
    last_len = len(packet.data) - packet.hdr_len - (count - 1) * packet.gso_size
    last = template(packet, last_len, TCP_CWR)
    ends = 0 if packet.gso_type == GSO_UDP_L4 else packet.data[packet.csum_start + TCP_FLAGS] & (TCP_FIN | TCP_PSH)
    if count == 1 or (last_len == packet.gso_size and not ends):
        return last, last
    return template(packet, packet.gso_size, TCP_CWR | TCP_FIN | TCP_PSH), last


def _numbers(packet: SuperPacket) -> tuple[int, int, int, bool]:
    """(first IPv4 identification, first TCP sequence number, CWR or 0, whether there is a checksum to compute)."""
    data, upper, check = packet.data, packet.csum_start, packet.csum_start + packet.csum_offset
    ident = int.from_bytes(data[IPV4_ID], "big")
    if packet.gso_type == GSO_UDP_L4:
        return ident, 0, 0, any(data[check : check + 2])
    return ident, int.from_bytes(data[upper + 4 : upper + 8], "big"), data[upper + TCP_FLAGS] & TCP_CWR, True


# 2 to 4, one by one


def _segment_few(packet: SuperPacket, count: int) -> list[bytearray]:
    data, size = packet.data, packet.gso_size
    middle, last = templates(packet, count)
    segments = []
    for index in range(count):
        start = packet.hdr_len + index * size
        segments.append(cut(packet, index, data[start : start + size], last if index == count - 1 else middle))
    return segments


def cut(packet: SuperPacket, index: int, payload: Buffer, made: Template) -> bytearray:
    """Segment number `index`, which has this payload."""
    upper = packet.csum_start
    ident, seq, cwr, summed = _numbers(packet)
    out = made.header + payload
    if out[0] >> 4 == 4:
        number = ident + index & 0xFFFF
        out[IPV4_ID] = number.to_bytes(2, "big")
        out[IPV4_CHECKSUM] = (-(made.ip_sum + number) % 0xFFFF).to_bytes(2, "big")
    total = made.upper_sum
    if packet.gso_type != GSO_UDP_L4:
        number = seq + index * packet.gso_size & 0xFFFFFFFF
        out[upper + 4 : upper + 8] = number.to_bytes(4, "big")
        total += number
        if index == 0:
            out[upper + TCP_FLAGS] |= cwr
            total += cwr
    if summed:
        value = checksum(payload, total)
        if packet.gso_type == GSO_UDP_L4:
            value = value or 0xFFFF
        check = upper + packet.csum_offset
        out[check : check + 2] = value.to_bytes(2, "big")
    return out


# 2 to 4, all at once


def segment_rows(packet: SuperPacket, rows: NDArray[np.uint8], column: int) -> int:
    """Write the packets that `packet` stands for into rows[i, column:], one a row, and return the length of the last;
    the others are `packet.segment_len` long. What is right of a packet in its row stays, except that the last row is
    zeroed up to segment_len.

    `rows` is C-contiguous, has at least packet.segments rows, and at least column + packet.segment_len columns.
    """
    count, size, header_len = packet.segments, packet.gso_size, packet.hdr_len
    payload = np.frombuffer(packet.data, np.uint8, offset=header_len)
    before = (count - 1) * size
    width = min(size, len(payload))
    body = rows[:count, column + header_len : column + header_len + width]
    body[:-1] = payload[:before].reshape(count - 1, width)
    last_len = len(payload) - before
    body[-1, :last_len] = payload[before:]
    body[-1, last_len:] = 0
    head_rows(packet, rows, column, body, *templates(packet, count))
    return header_len + last_len


def head_rows(
    packet: SuperPacket,
    rows: NDArray[np.uint8],
    column: int,
    body: NDArray[np.uint8],
    middle: Template,
    last: Template,
) -> None:
    """Write into rows[i, column:] the headers of the segments whose payloads are `body`, a row each; behind a payload
    that is shorter there are zeros."""
    count, upper = len(body), packet.csum_start
    ident, seq, cwr, summed = _numbers(packet)
    head = rows[:count, column : column + packet.hdr_len]
    head[:] = np.frombuffer(middle.header, np.uint8)
    if last is not middle:
        head[-1] = np.frombuffer(last.header, np.uint8)
    fields: NDArray[Any] = np.ndarray(count, _layout(upper, packet.csum_offset), rows, column, rows.strides[:1])
    ramp = _RAMP[:count] if count <= len(_RAMP) else np.arange(count)
    if packet.data[0] >> 4 == 4:
        numbers = ramp + ident
        if ident + count > 0x10000:
            numbers &= 0xFFFF
        fields["id"] = numbers
        numbers += middle.ip_sum
        if last is not middle:
            numbers[-1] += last.ip_sum - middle.ip_sum
        fields["ip_check"] = -numbers % 0xFFFF
    if not summed:
        return
    # The payload is summed in little-endian words; modulo 65535 a factor of 256 swaps the bytes of the sum.
    total = body[:, : body.shape[1] & ~1].view("<u2").sum(axis=1, dtype=np.uint32).astype(np.int64)
    if body.shape[1] & 1:
        total += body[:, -1]
    total *= -256
    total -= middle.upper_sum
    if last is not middle:
        total[-1] += middle.upper_sum - last.upper_sum
    if packet.gso_type == GSO_UDP_L4:
        total %= 0xFFFF
        total[total == 0] = 0xFFFF
        fields["check"] = total
        return
    numbers = ramp * packet.gso_size
    numbers += seq
    if seq + count * packet.gso_size > 0x1_0000_0000:
        numbers &= 0xFFFFFFFF
    fields["seq"] = numbers
    total -= numbers
    if cwr:
        head[0, upper + TCP_FLAGS] |= cwr
        total[0] -= cwr
    total %= 0xFFFF
    fields["check"] = total


@lru_cache(maxsize=64)
def _layout(upper: int, csum_offset: int) -> np.dtype[Any]:
    """The fields that differ by row, by offset from the start of the packet. id and ip_check mean nothing in IPv6,
    nor seq in UDP."""
    return np.dtype(
        {
            "names": ["id", "ip_check", "seq", "check"],
            "formats": [">u2", ">u2", ">u4", ">u2"],
            "offsets": [IPV4_ID.start, IPV4_CHECKSUM.start, upper + 4, upper + csum_offset],
        }
    )
