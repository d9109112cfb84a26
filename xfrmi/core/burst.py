"""Many packets of one state at once: esp.seal and esp.open with the interpreter's work shared out.

esp.py says what is right; nothing is decided here. A burst is cut into runs of packets of equal length, and a run whose
packets all have the same fate is done together, one row a packet:

    | outer header | SPI | sequence | IV | ciphertext | ICV |      sealing: a row is a finished outer packet
                                     | payload | trailer |         opening: a row is a decrypted payload

Whatever would make one packet of a run end otherwise than the others sends the whole run through esp.py, packet by
packet: a limit or the end of the sequence numbers within reach, a packet the mode refuses, numbers that do not simply
go up. So do runs too short to gain anything, TFC padding, and all but combined modes that make a whole ICV.

    seal                                             open
    1  wrap      each packet; do they look alike?    1  state     as esp.open; do they come alike?
    2  state     as esp.seal, once                   2  replay    ahead of the window, and going up?
    3  lifetime  far enough away for all?            3  lifetime  far enough away for all?
    4  number    reserved together, and the IVs      4  decrypt   row by row; wrong ICVs are set aside
    5  count     once                                5  trailer   all the same? Otherwise the rest is esp.accept's
    6  pad       one trailer fits all                6  mapping   nobody has moved
    7  encrypt   row by row                          7  commit    together
    8  finish    once if the headers are the same    8  count     once
                                                     9  unwrap    each packet

The packets that come out lie in rows.py's rows: whoever keeps one keeps its memory, and must not write to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby, islice
from operator import itemgetter, lt
from struct import Struct
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from cryptography.exceptions import InvalidTag

from xfrmi.core import esp
from xfrmi.core.algo_aead import CombinedMode
from xfrmi.core.lone import opener, sealer
from xfrmi.core.mode import framing
from xfrmi.core.mode_tunnel import WRAP_READS, Tunnel
from xfrmi.core.outer import finish_udp_rows
from xfrmi.core.rows import HEAD_LEN, NUMBERS, OpenRows, SealRows, put, take
from xfrmi.core.state import KM_VALID
from xfrmi.errors import Drop
from xfrmi.wire.esp import TRAILER_LEN, pad_length, trailer
from xfrmi.wire.ip import Buffer
from xfrmi.wire.xfrm_const import AF_INET6, IPPROTO_NONE, Mode, SaDir, XfrmStat

if TYPE_CHECKING:
    from xfrmi.core.state import State

Datagram: TypeAlias = tuple[Buffer, Buffer]
"""(outer header, ESP packet from the SPI on); see wire.ip.split_outer."""
Drops: TypeAlias = list[tuple[int, Drop]]
"""(position in the burst, why), in order."""

FEW: Final = 12
"""Runs of fewer packets go one by one: numpy would cost more than it saves."""

MAX_OUTER_LEN: Final = 0xFFFF

_head_of = itemgetter(slice(0, HEAD_LEN))
_rest_of = itemgetter(slice(HEAD_LEN, None))


# Sealing ----------------------------------------------------------------------------------------------------------


def seal_burst(state: State, packets: Sequence[Buffer], now: float) -> tuple[list[Buffer], Drops]:
    """Seal `packets`, in order. Returns the outer packets of those that could be, and the drops of the others."""
    sealed: list[Buffer] = []
    drops: Drops = []
    if len(packets) < FEW:
        _seal_each(state, packets, now, sealed, drops, 0)
        return sealed, drops
    start = 0
    for _, group in groupby(packets, len):
        run = list(group)
        done = _seal_run(state, run, now, sealed) if len(run) >= FEW and is_plain(state) else 0
        _seal_each(state, run[done:], now, sealed, drops, start + done)
        start += len(run)
    return sealed, drops


def _seal_each(
    state: State, packets: Sequence[Buffer], now: float, sealed: list[Buffer], drops: Drops, start: int
) -> None:
    """One by one; the first of them is number `start` of the burst."""
    for index, packet in enumerate(packets, start):
        try:
            sealed.append(sealer(state)(state, packet, now))
        except Drop as drop:
            drops.append((index, drop))


def _seal_run(state: State, packets: list[Buffer], now: float, sealed: list[Buffer]) -> int:
    """Seal equally long packets; returns how many from the first on, as _seal_rows."""
    # 1 wrap: in a tunnel once, if the packets have in common what it reads of them
    wrap = framing(state).wrap
    try:
        header, payload, next_header = wrap(packets[0])
        headers: list[Buffer] = [header]
        joined = b"".join(packets)
        if state.mode != Mode.TUNNEL or not look_alike(joined, len(packets)):
            wrapped = [wrap(packet) for packet in packets]
            if len({(len(header), len(payload), next_header) for header, payload, next_header in wrapped}) > 1:
                return 0
            headers = [header for header, _, _ in wrapped]
            joined = b"".join([payload for _, payload, _ in wrapped])
    except Drop:
        return 0
    # 6 pad
    count, length = len(packets), len(payload)
    rows = _rows_for(state, count, len(header), length, next_header)
    if rows is None:
        return 0
    rows.text[:count, :length] = np.frombuffer(joined, np.uint8).reshape(count, length)
    return _seal_rows(state, rows, headers, count, length, now, sealed)


def look_alike(joined: bytes, count: int) -> bool:
    """Do packets, here behind each other, all as long, agree in what a tunnel's header depends on?"""
    step = len(joined) // count
    return all(joined[at::step].count(joined[at]) == count for at in WRAP_READS)


def _rows_for(state: State, count: int, header_len: int, length: int, next_header: int) -> SealRows | None:
    """Rows for so many payloads of `length` bytes, with their trailers in place; None where they get too long."""
    transform = state.transform
    assert isinstance(transform, CombinedMode)
    tail = trailer(pad_length(length, transform.align), next_header)
    text_len = length + len(tail)
    if header_len + HEAD_LEN + text_len + transform.icv_len > MAX_OUTER_LEN:
        return None
    rows = take(SealRows, count, header_len, text_len, transform.icv_len, transform.salt_len, state.esn)
    rows.text[:count, length:] = np.frombuffer(tail, np.uint8)
    return rows


def _seal_rows(
    state: State,
    rows: SealRows,
    headers: Sequence[Buffer],
    count: int,
    payload_len: int,
    now: float,
    sealed: list[Buffer],
) -> int:
    """Stages 3 to 8 for the first `count` of `rows`, which have payloads of `payload_len` bytes and trailers.
    `headers` has one outer header for each, or one for all.

    Appends to `sealed` and returns how many from the first on were sealed: all of them, fewer if the sequence numbers
    end among them, or 0, and then nothing has happened.
    """
    transform = state.transform
    assert isinstance(transform, CombinedMode)
    # 3 lifetime
    if not state.limits_are_far(count, payload_len):
        return 0
    # 4 number
    first, count = state.sequence.reserve(count)
    if not count:
        return 0
    state.check_limits(now, XfrmStat.OUT_STATE_EXPIRED)
    ramp = NUMBERS[:count]
    numbers = ramp + first
    ivs = ramp + state.reserve_ivs(count)
    ivs ^= state.iv_salt
    # 5 count
    state.count(count, count * payload_len, now)
    # 7 encrypt
    header_len = len(headers[0])
    array, outers = rows.array, rows.kept[:count]
    alike = len(headers) == 1
    if not alike:
        rows.prefix = b""
        array[:count, :header_len] = np.frombuffer(b"".join(headers[:count]), np.uint8).reshape(count, header_len)
        array[:count, header_len : header_len + 4] = np.frombuffer(state.spi_bytes, np.uint8)
    elif (prefix := b"".join((headers[0], state.spi_bytes))) != rows.prefix:  # 8 finish
        array[0, : len(prefix)] = np.frombuffer(prefix, np.uint8)
        framing(state).finish(outers[0], header_len)
        array[:, : len(prefix)] = array[0, : len(prefix)]
        rows.prefix = prefix
    rows.seqs[:count] = numbers
    rows.ivs[:count] = ivs
    rows.nonce_ivs[:count] = ivs
    rows.use_salt(transform.salt)
    if state.esn:
        rows.spis[:count] = state.spi
        rows.numbers[:count] = numbers
    deque(map(transform.cipher.encrypt_into, rows.nonces, rows.texts, rows.aads, rows.sealed[:count]), maxlen=0)
    # 8 finish
    if not alike:
        finish = framing(state).finish
        for outer in outers:
            finish(outer, header_len)
    elif state.encap is not None and state.family == AF_INET6:
        finish_udp_rows(array[:count], header_len)
    sealed += outers
    rows.given = count
    put(rows)
    return count


# Opening ----------------------------------------------------------------------------------------------------------


def open_burst(state: State, datagrams: Sequence[Datagram], now: float) -> tuple[list[Buffer], Drops]:
    """Open `datagrams`, in order. Returns the inner packets of those that are right, and the drops of the others."""
    opened: list[Buffer] = []
    drops: Drops = []
    if len(datagrams) < FEW:
        _open_each(state, datagrams, now, opened, drops, 0)
        return opened, drops
    start = 0
    for _, group in groupby([len(packet) for _, packet in datagrams]):
        end = start + len(list(group))
        run = datagrams if end - start == len(datagrams) else datagrams[start:end]
        if not (len(run) >= FEW and is_plain(state) and _open_run(state, run, now, opened, drops, start)):
            _open_each(state, run, now, opened, drops, start)
        start = end
    return opened, drops


def _open_each(
    state: State, datagrams: Sequence[Datagram], now: float, opened: list[Buffer], drops: Drops, start: int
) -> None:
    """One by one; the first of them is number `start` of the burst."""
    for index, (header, packet) in enumerate(datagrams, start):
        try:
            opened.append(opener(state)(state, header, packet, now))
        except Drop as drop:
            drops.append((index, drop))


def _open_run(
    state: State, datagrams: Sequence[Datagram], now: float, opened: list[Buffer], drops: Drops, start: int
) -> bool:
    """Open equally long datagrams, the first of which is number `start`. False if they have to be opened one by one,
    and then nothing has happened."""
    transform = state.transform
    assert isinstance(transform, CombinedMode)
    count = len(datagrams)
    headers, packets = zip(*datagrams, strict=True)
    text_len = len(packets[0]) - HEAD_LEN - transform.icv_len
    if text_len < TRAILER_LEN:
        return False
    # 1 state
    encap_type = state.encap_type
    kinds = headers[:1] if headers.count(headers[0]) == count else headers
    if state.dir == SaDir.OUT or any(esp.encap_type(header) != encap_type for header in kinds):
        return False
    # 2 replay
    heads = b"".join(map(_head_of, packets))
    seqs = _sequence_numbers(count)(heads)
    hi = state.window.ahead(seqs[0], seqs[-1])
    if hi is None or not all(map(lt, seqs, islice(seqs, 1, None))):
        return False
    # 3 lifetime
    if not state.limits_are_far(count, text_len):
        return False
    state.check_limits(now, XfrmStat.IN_STATE_EXPIRED)
    # 4 decrypt
    rows = take(OpenRows, count, text_len, transform.salt_len, state.esn)
    rows.heads[:count] = np.frombuffer(heads, np.uint8).reshape(count, HEAD_LEN)
    rows.nonce_ivs[:count] = rows.ivs[:count]
    rows.use_salt(transform.salt)
    if state.esn:
        rows.spis[:count] = rows.heads[:count, :4].view(">u4")[:, 0]
        rows.numbers[:count] = [hi << 32 | seq for seq in seqs]
    wrong = _decrypt(transform, rows, map(_rest_of, packets))
    # 5 trailer, 6 mapping
    pads, nexts = rows.column(-2, count), rows.column(-1, count)
    payload_len, next_header = text_len - TRAILER_LEN - pads[0], nexts[0]
    alike = payload_len > 0 and next_header != IPPROTO_NONE
    alike = alike and pads.count(pads[0]) == nexts.count(next_header) == count
    if wrong or not alike or (state.encap is not None and any(esp.has_moved(state, header) for header in kinds)):
        for index, (header, text, seq) in enumerate(zip(headers, rows.texts, seqs, strict=False)):
            try:
                if index in wrong:
                    raise esp.wrong_icv(state)
                opened.append(esp.accept(state, header, text, seq, hi, now))
            except Drop as drop:
                drops.append((start + index, drop))
        return True  # slices of rows have been given away: these are not used again
    # 7 commit
    number = hi << 32 | seqs[0]
    if seqs[-1] - seqs[0] == count - 1:
        state.window.advance(range(number, number + count))
    else:
        state.window.advance([hi << 32 | seq for seq in seqs])
    # 8 count
    state.count(count, count * payload_len, now)
    # 9 unwrap
    payloads = rows.payloads(payload_len, count)
    way_in = framing(state)
    version, firsts = 0, rows.column(0, count)
    if len(kinds) == 1 and isinstance(way_in, Tunnel):
        version = way_in.passes(headers[0], payload_len, next_header)
    if version and version == firsts[0] >> 4 and firsts.count(firsts[0]) == count:
        opened += payloads
    else:
        for index, (header, payload) in enumerate(zip(headers, payloads, strict=True), start):
            try:
                opened.append(way_in.unwrap(header, payload, next_header))
            except Drop as drop:
                drops.append((index, drop))
    put(rows)
    return True


def _decrypt(transform: CombinedMode, rows: OpenRows, ciphertexts: Iterator[Buffer]) -> set[int]:
    """Into rows.texts; returns which of them have wrong ICVs."""
    wrong: set[int] = set()
    jobs = map(transform.cipher.decrypt_into, rows.nonces, ciphertexts, rows.aads, rows.texts)
    done = 0
    while True:
        try:
            for _ in jobs:
                done += 1
            return wrong
        except InvalidTag:
            wrong.add(done)
            done += 1


@lru_cache(maxsize=256)
def _sequence_numbers(count: int) -> Callable[[bytes], tuple[int, ...]]:
    """Reads those of `count` heads: SPI, sequence number, IV."""
    return Struct(">" + "4xI8x" * count).unpack


# What both need ---------------------------------------------------------------------------------------------------


def is_plain(state: State) -> bool:
    """Can its packets be done together at all?"""
    transform = state.transform
    return isinstance(transform, CombinedMode) and transform.in_rows and state.km == KM_VALID and not state.tfcpad
