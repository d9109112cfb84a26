"""Super-packets in one go: gso.segment and esp.seal for all of their segments at once, in one piece of memory.

gso.py and esp.py say what is right; nothing is decided here. What would make one segment's fate another than the next
one's (a limit within reach, the end of the sequence numbers), and what the ramp of train.py cannot say, is declined,
and nothing has happened then.

    | SPI | sequence | IV | inner headers | payload | trailer | ICV |  SPI | sequence | ..

    1  wrap     the outer header, once: what a tunnel copies from an inner header is what segments have in common
    2  state    can all be sealed alike?
    3  number   reserved together, and the IVs
    4  cut      headers by the ramp, payloads by one copy, checksums by one sum
    5  last     its flags, or a shorter payload
    6  encrypt  row by row, in place
    7  count    once
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from xfrmi.core.algo_aead import CombinedMode
from xfrmi.core.burst import is_plain, look_alike
from xfrmi.core.gso import TCP_FIN, TCP_PSH, cut, set_lengths, template
from xfrmi.core.mode import framing
from xfrmi.core.rows import HEAD_LEN, NUMBERS, TrainRows, put, take
from xfrmi.core.train import Train, ramp_for
from xfrmi.wire.esp import pad_length, trailer
from xfrmi.wire.ip import IPV4_CHECKSUM, IPV4_ID, Buffer
from xfrmi.wire.vnet import GSO_UDP_L4, TCP_CWR, TCP_FLAGS, SuperPacket
from xfrmi.wire.xfrm_const import Mode, XfrmStat

if TYPE_CHECKING:
    from xfrmi.core.state import State

FEW: Final = 5
"""Fewer segments are quicker one by one."""

_ENDS: Final = TCP_FIN | TCP_PSH
_NO_IV: Final = bytes(8)


def joins(packet: SuperPacket, next_one: SuperPacket) -> bool:
    """May the segments of `next_one`, which is of the same flow, follow those of `packet` in one train?"""
    data, after = packet.data, next_one.data
    return (
        packet.gso_size == next_one.gso_size
        and packet.hdr_len == next_one.hdr_len
        and (len(data) - packet.hdr_len) % packet.gso_size == 0
        # What a tunnel copies: TOS and DF, or traffic class and flow label.
        and data[:2] == after[:2]
        and (data[6:8] == after[6:8] if data[0] >> 4 == 4 else data[2:4] == after[2:4])
        and packet.csum_start == next_one.csum_start
        and len(data) > packet.hdr_len
        and len(after) > next_one.hdr_len
        and (packet.gso_type != GSO_UDP_L4 or _has_checksum(packet) == _has_checksum(next_one))
    )


def seal_train(state: State, packets: Sequence[SuperPacket], now: float) -> Train | None:
    """The segments of `packets`, each of which joins the next, sealed as esp.seal does each of them; None if they have
    to be sealed one by one. Raises Drop as `wrap` does, before anything has happened."""
    transform, size = state.transform, packets[0].gso_size
    if size & 1 or state.mode != Mode.TUNNEL or not is_plain(state):
        return None
    assert isinstance(transform, CombinedMode)
    # 1 wrap
    way = framing(state)
    header, _, next_header = way.wrap(packets[0].data)
    # 2 state
    counts = [packet.segments for packet in packets]
    count, header_len = sum(counts), packets[0].hdr_len
    length = header_len + size
    tail = trailer(pad_length(length, transform.align), next_header)
    if count < FEW or not _share_fate(state, count, length, len(header) + HEAD_LEN + len(tail) + transform.icv_len):
        return None
    first = state.sequence.last + 1
    heads: list[Buffer] = []
    checks_of: list[int] = []
    at = first
    for packet, segments in zip(packets, counts, strict=True):
        made = _first_segment(packet, segments)
        if made is None:
            return None
        heads += state.spi_bytes, (at & 0xFFFFFFFF).to_bytes(4, "big"), _NO_IV, made[0]
        checks_of.append(made[1])
        at += segments
    # 3 number
    ivs = _number(state, count, now)
    # 4 cut
    last = packets[-1]
    last_len = len(last.data) - header_len - (counts[-1] - 1) * size
    full = count if last_len == size else count - 1
    rows = take(TrainRows, count, length + len(tail), transform.icv_len, transform.salt_len, state.esn)
    ramp = ramp_for(last, max(counts))
    rows.lay_out(ramp, len(tail), count, full)
    bases = np.frombuffer(b"".join(heads), ">u4").astype(np.uint32).reshape(len(packets), -1)
    at = 0
    for packet, segments, base, check in zip(packets, counts, bases, checks_of, strict=True):
        end = at + segments
        np.add(ramp.words[:segments], base, rows.native_words[at:end])
        whole = min(end, full) - at
        np.subtract(ramp.checks[:whole], check, rows.native_checks[at : at + whole])
        payload = np.frombuffer(packet.data, np.uint8, whole * size, header_len)
        rows.payloads[at : at + whole] = payload.reshape(whole, size)
        at = end
    rows.words[:] = rows.native_words
    rows.ivs[:] = ivs
    _make_nonces(state, rows, transform.salt, ivs, first)
    rows.tails[:] = np.frombuffer(tail, np.uint8)
    udp = last.gso_type == GSO_UDP_L4
    if not udp or _has_checksum(last):
        checks = rows.native_checks
        checks -= np.add.reduce(rows.sums, 1, np.uint32)
        checks %= 0xFFFF
        if udp:
            checks[checks == 0] = 0xFFFF
        rows.checks[:] = checks
    # 5 last
    if not udp:
        at = 0
        for packet, segments in zip(packets, counts, strict=True):
            flags = packet.data[packet.csum_start + TCP_FLAGS]
            if flags & TCP_CWR:
                _add_flags(rows, packet, at, TCP_CWR)
            at += segments
            if flags & _ENDS and at <= full:
                _add_flags(rows, packet, at - 1, flags & _ENDS)
    sealed, texts = rows.sealed[:full], rows.texts
    if full < count:
        text = cut(last, counts[-1] - 1, last.data[-last_len:], template(last, last_len, TCP_CWR))
        text += trailer(pad_length(len(text), transform.align), next_header)
        texts = [*texts[:full], texts[full][: len(text)]]
        texts[full][:] = text
        sealed.append(rows.sealed[full][: len(text) + transform.icv_len])
    # 6 encrypt
    deque(map(transform.cipher.encrypt_into, rows.nonces, texts, rows.aads, sealed), maxlen=0)
    # 7 count
    state.count(count, (count - 1) * length + header_len + last_len, now)
    put(rows)
    total = (count - 1) * rows.width + len(sealed[-1]) + HEAD_LEN
    return Train(bytes(header), rows.flat[:total], rows.width, count, way.finish)


def seal_run(state: State, packets: Sequence[Buffer], now: float) -> Train | None:
    """Packets of whatever flows sealed as esp.seal does each of them, if they are of one length and get the same outer
    header; otherwise None. Raises Drop as `wrap` does, before anything has happened."""
    transform, count, length = state.transform, len(packets), len(packets[0])
    if state.mode != Mode.TUNNEL or not is_plain(state):
        return None
    assert isinstance(transform, CombinedMode)
    joined = b"".join(packets)
    if len(joined) != count * length or list(map(len, packets)).count(length) != count:
        return None
    way = framing(state)
    header, _, next_header = way.wrap(packets[0])
    if not look_alike(joined, count):
        return None
    tail = trailer(pad_length(length, transform.align), next_header)
    if not _share_fate(state, count, length, len(header) + HEAD_LEN + len(tail) + transform.icv_len):
        return None
    first = state.sequence.last + 1
    ivs = _number(state, count, now)
    rows = take(TrainRows, count, length + len(tail), transform.icv_len, transform.salt_len, state.esn)
    rows.heads[:count, 0] = state.spi
    rows.heads[:count, 1] = NUMBERS[:count] + (first & 0xFFFFFFFF)
    rows.head_ivs[:count] = ivs
    _make_nonces(state, rows, transform.salt, ivs, first)
    rows.text[:count, :length] = np.frombuffer(joined, np.uint8).reshape(count, length)
    rows.text[:count, length:] = np.frombuffer(tail, np.uint8)
    deque(map(transform.cipher.encrypt_into, rows.nonces, rows.texts, rows.aads, rows.sealed[:count]), maxlen=0)
    state.count(count, count * length, now)
    put(rows)
    return Train(bytes(header), rows.flat[: count * rows.width], rows.width, count, way.finish)


def _share_fate(state: State, count: int, length: int, added: int) -> bool:
    """Will so many packets of `length` bytes, to which ESP adds so many, have the same fate?"""
    return (
        state.sequence.last + count <= (0xFFFF_FFFF_FFFF_FFFF if state.esn else 0xFFFF_FFFF)
        and length + added <= 0xFFFF
        and state.limits_are_far(count, length)
    )


def _number(state: State, count: int, now: float) -> NDArray[np.uint64]:
    """Take so many sequence numbers and IVs; returns the IVs."""
    state.check_limits(now, XfrmStat.OUT_STATE_EXPIRED)
    state.sequence.last += count
    ivs: NDArray[np.uint64] = NUMBERS[:count] + state.reserve_ivs(count)
    ivs ^= state.iv_salt
    return ivs


def _make_nonces(state: State, rows: TrainRows, salt: bytes, ivs: NDArray[np.uint64], first: int) -> None:
    """And what is authenticated, where that is not the ESP header as it is."""
    count = len(ivs)
    rows.use_salt(salt)
    rows.nonce_ivs[:count] = ivs
    if state.esn:
        rows.spis[:count] = state.spi
        rows.numbers[:count] = NUMBERS[:count] + first


def _has_checksum(packet: SuperPacket) -> bool:
    at = packet.csum_start + packet.csum_offset
    return any(packet.data[at : at + 2])


def _first_segment(packet: SuperPacket, count: int) -> tuple[bytearray, int] | None:
    """(header of the first segment without its upper-layer checksum and with the flags of one in the middle, what that
    header adds to a checksum in little-endian words modulo 65535); None where something wraps among `count` segments.
    """
    header, upper, udp = bytearray(packet.data[: packet.hdr_len]), packet.csum_start, packet.gso_type == GSO_UDP_L4
    pseudo = set_lengths(header, upper, packet.hdr_len + packet.gso_size, udp)
    if header[0] >> 4 == 4 and (
        int.from_bytes(header[IPV4_CHECKSUM], "big") < count or int.from_bytes(header[IPV4_ID], "big") + count > 0x10000
    ):
        return None
    if not udp:
        header[upper + TCP_FLAGS] &= ~(_ENDS | TCP_CWR)
        if int.from_bytes(header[upper + 4 : upper + 8], "big") + count * packet.gso_size > 0xFFFFFFFF:
            return None
    field = upper + packet.csum_offset
    header[field : field + 2] = b"\0\0"
    return header, (pseudo + int.from_bytes(header[upper:], "big") << 8) % 0xFFFF


def _add_flags(rows: TrainRows, packet: SuperPacket, row: int, flags: int) -> None:
    text, at = rows.texts[row], packet.csum_start + packet.csum_offset
    text[packet.csum_start + TCP_FLAGS] |= flags
    text[at : at + 2] = ((int.from_bytes(text[at : at + 2], "big") - flags) % 0xFFFF).to_bytes(2, "big")
