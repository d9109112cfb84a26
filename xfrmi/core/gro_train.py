"""What gro.coalesce does, for a train that came out of one tunnel: is it one flow, and nothing missing?

gro.py says what is right: the packets go into the TUN as one if cutting it up would give the very same ones again. Here
that is one subtraction (the ramp of train.py) and one sum (the checksums). Where it fails, for whatever reason, gro.py
has a closer look; so it may fail where something wraps.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from xfrmi.core.gro import first_of, joined_header, most_in_one
from xfrmi.core.gso import TCP_FIN, TCP_PSH
from xfrmi.core.train import Words, ramp_for
from xfrmi.wire.ip import (
    IPV4_ADDRESSES,
    IPV4_CHECKSUM,
    IPV4_HEADER_LEN,
    IPV4_ID,
    IPV4_TOTAL_LENGTH,
    IPV6_ADDRESSES,
    IPV6_HEADER_LEN,
    IPV6_PAYLOAD_LENGTH,
    ipv4_header_checksum,
    pseudo_header_sum,
)
from xfrmi.wire.vnet import GSO_UDP_L4, TCP_CWR, TCP_FLAGS, Gathered, Packet, SuperPacket
from xfrmi.wire.xfrm_const import IPPROTO_TCP, IPPROTO_UDP

if TYPE_CHECKING:
    from xfrmi.core.open_train import OpenViews


def merge_train(views: OpenViews, rows: slice, takes: frozenset[int]) -> list[Packet] | None:
    """These payloads, all of the flow of the first, as super-packets; None if there is anything else among them."""
    payloads = views.payloads[rows]
    packet = payloads[0]
    first = first_of(packet, takes)
    if first is None or first.gso_size & 1:
        return None
    upper, udp = first.csum_start, first.gso_type == GSO_UDP_L4
    # 1 headers less the ramp: what is left is the same in neighbours, but for the checksum
    ramp = ramp_for(first, len(payloads))
    views.lay_out(ramp, upper, rows)
    words = np.subtract(views.words, views.ramp_words, views.native_words)
    words[:, ramp.check_at // 4] &= 0xFFFF0000 if udp else 0x0000FFFF
    # 2 checksums: right, and written as gso.py writes them
    addresses = packet[IPV4_ADDRESSES] if upper == IPV4_HEADER_LEN else packet[IPV6_ADDRESSES]
    pseudo = pseudo_header_sum(addresses, IPPROTO_UDP if udp else IPPROTO_TCP, len(packet) - upper)
    sums = np.add.reduce(views.check_words, 1, np.uint32)
    sums += (pseudo << 8) % 0xFFFF
    sums %= 0xFFFF
    if sums.any() or (b"\0\0" if udp else b"\xff\xff") in views.checks.tobytes():
        return None
    # 3 join what is the same
    kind = _kind(packet, upper, udp)
    merged: list[Packet] = []
    segments = views.segments[rows]
    for start, end, ends in _runs(words, upper, udp, most_in_one(first)):
        begin = payloads[start]
        if _kind(begin, upper, udp) != kind or not _is_whole(first, begin, end - start):
            return None
        if end - start == 1:
            merged.append(begin)
            continue
        header = joined_header(first, begin, first.hdr_len + (end - start) * first.gso_size, ends)
        gathered = Gathered(header, segments[start:end], first.gso_type, first.gso_size, upper, first.csum_offset)
        merged.append(gathered)
    return merged


def _kind(packet: memoryview, upper: int, udp: bool) -> bytes:
    """What makes a packet a segment that others may follow, if this is equal to that of one: version and header length,
    fragmentation, TTL, protocol, flow; TCP header length and flags."""
    flags = packet[upper + 12 : upper + 14] if not udp else b""
    if upper == IPV4_HEADER_LEN:
        return b"".join((packet[:1], packet[6:10], packet[12:24], flags))
    return b"".join((packet[:1], packet[6:44], flags))


def _runs(words: Words, upper: int, udp: bool, most: int) -> Iterable[tuple[int, int, int]]:
    """(first row, row behind the last, FIN and PSH of the last) of each run of equal rows, `most` of them at most."""
    count = len(words)
    changes = np.flatnonzero((words[1:] != words[:-1]).any(axis=1)).tolist()
    bounds = [0, *[at + 1 for at in changes], count]
    index = 0
    while index < len(bounds) - 1:
        start, end = bounds[index], bounds[index + 1]
        index += 1
        ends = 0
        if not udp and index < len(bounds) - 1 and bounds[index + 1] == end + 1:
            ends = _ends(words[start], words[end], (upper + TCP_FLAGS) // 4)
            if ends:
                end += 1
                index += 1
        for at in range(start, end, most):
            stop = min(at + most, end)
            yield at, stop, ends if stop == end else 0


def _ends(row: Words, last: Words, flags_at: int) -> int:
    """FIN and PSH in `last`, if that is all by which it differs."""
    differ = (row ^ last).tolist()
    flags, window = divmod(differ.pop(flags_at), 1 << 16)
    return 0 if window or any(differ) or flags & ~(TCP_FIN | TCP_PSH) else flags


def _is_whole(first: SuperPacket, packet: memoryview, count: int) -> bool:
    """Are the lengths of the first packet those of the whole payload, its IPv4 checksum right, and does nothing wrap
    among so many packets?"""
    upper = first.csum_start
    if first.gso_type == GSO_UDP_L4:
        if int.from_bytes(packet[upper + 4 : upper + 6], "big") != len(packet) - upper:
            return False
    elif (
        packet[upper + TCP_FLAGS] & TCP_CWR
        or int.from_bytes(packet[upper + 4 : upper + 8], "big") + count * first.gso_size > 0xFFFFFFFF
    ):
        return False
    if upper != IPV4_HEADER_LEN:
        return int.from_bytes(packet[IPV6_PAYLOAD_LENGTH], "big") == len(packet) - IPV6_HEADER_LEN
    check = int.from_bytes(packet[IPV4_CHECKSUM], "big")
    return (
        int.from_bytes(packet[IPV4_TOTAL_LENGTH], "big") == len(packet)
        and int.from_bytes(packet[IPV4_ID], "big") + count <= 0x10000
        and check >= count
        and ipv4_header_checksum(packet[:upper]) == check
    )
