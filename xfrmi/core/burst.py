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

The rows belong to the caller. Each run has memory of its own, which lives for as long as any of its rows does and is
never written to again. (Allocating 64 KiB costs less than 1 us; reusing it would save a quarter of that, and would
make every caller ask how long a packet may be kept.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from cryptography.exceptions import InvalidTag
from numpy.typing import NDArray

from xfrmi.core import esp
from xfrmi.core.algo_aead import CombinedMode
from xfrmi.core.gso import segment, segment_rows
from xfrmi.core.mode import framing
from xfrmi.core.outer import finish_udp_rows
from xfrmi.core.state import KM_VALID
from xfrmi.errors import Drop
from xfrmi.wire.esp import ESP_HEADER_LEN, TRAILER_LEN, pad_length, trailer
from xfrmi.wire.ip import Buffer
from xfrmi.wire.vnet import SuperPacket
from xfrmi.wire.xfrm_const import AF_INET6, IPPROTO_NONE, Mode, SaDir, XfrmStat

if TYPE_CHECKING:
    from xfrmi.core.state import State

Datagram: TypeAlias = tuple[Buffer, Buffer]
"""(outer header, ESP packet from the SPI on); see wire.ip.split_outer."""
Drops: TypeAlias = list[tuple[int, Drop]]
"""(position in the burst, why), in order."""

FEW: Final = 12
"""Runs of fewer packets go one by one: numpy would cost more than it saves."""

IV_LEN: Final = 8
ESN_AAD_LEN: Final = 12
MAX_OUTER_LEN: Final = 0xFFFF

_HEAD: Final = np.dtype([("spi", ">u4"), ("seq", ">u4"), ("iv", ">u8")])
_NONCES: Final = {salt_len: np.dtype([("salt", f"V{salt_len}"), ("iv", ">u8")]) for salt_len in (3, 4)}
_ESN_AAD: Final = np.dtype([("spi", ">u4"), ("number", ">u8")])


# Sealing ----------------------------------------------------------------------------------------------------------


def seal_burst(state: State, packets: Sequence[Buffer] | SuperPacket, now: float) -> tuple[list[Buffer], Drops]:
    """Seal `packets`, in order. Returns the outer packets of those that could be, and the drops of the others.

    A SuperPacket stands for its segments: the same as sealing gso.segment(packets), with one copy less.
    """
    sealed: list[Buffer] = []
    drops: Drops = []
    if isinstance(packets, SuperPacket):
        if state.mode == Mode.TUNNEL and packets.segments >= FEW and _is_plain(state):
            _seal_super(state, packets, now, sealed, drops)
            return sealed, drops
        packets = segment(packets)
    if len(packets) < FEW:
        _seal_each(state, packets, now, sealed, drops, 0)
        return sealed, drops
    start = 0
    for _, group in groupby(packets, len):
        run = list(group)
        done = _seal_run(state, run, now, sealed) if len(run) >= FEW and _is_plain(state) else 0
        _seal_each(state, run[done:], now, sealed, drops, start + done)
        start += len(run)
    return sealed, drops


def _seal_each(
    state: State, packets: Sequence[Buffer], now: float, sealed: list[Buffer], drops: Drops, start: int
) -> None:
    """One by one; the first of them is number `start` of the burst."""
    for index, packet in enumerate(packets, start):
        try:
            sealed.append(esp.seal(state, packet, now))
        except Drop as drop:
            drops.append((index, drop))


def _seal_run(state: State, packets: list[Buffer], now: float, sealed: list[Buffer]) -> int:
    """Seal equally long packets; returns how many from the first on, as _seal_rows."""
    # 1 wrap
    wrap = framing(state).wrap
    try:
        wrapped = [wrap(packet) for packet in packets]
    except Drop:
        return 0
    shapes = {(len(header), len(payload), next_header) for header, payload, next_header in wrapped}
    if len(shapes) > 1:
        return 0
    _, payload_len, next_header = shapes.pop()
    headers = [header for header, _, _ in wrapped]
    if headers.count(headers[0]) == len(headers):
        del headers[1:]
    # 6 pad
    tail = trailer(pad_length(payload_len, state.transform.align), next_header)
    texts = memoryview(tail.join(chain((payload for _, payload, _ in wrapped), (b"",))))
    return _seal_rows(state, headers, texts, len(packets), payload_len, now, sealed)


def _seal_super(state: State, packet: SuperPacket, now: float, sealed: list[Buffer], drops: Drops) -> None:
    """Seal the segments of `packet` in a tunnel. All get the same outer header: what a tunnel copies from an inner one,
    DSCP, ECN, DF and flow label, is what segments have in common."""
    count, length = packet.segments, packet.segment_len
    header, _, next_header = framing(state).wrap(packet.data)
    # 6 pad
    tail = trailer(pad_length(length, state.transform.align), next_header)
    rows = np.empty((count, length + len(tail)), np.uint8)
    last_len = segment_rows(packet, rows, 0)
    rows[:, length:] = np.frombuffer(tail, np.uint8)
    texts = rows.reshape(-1).data
    full = count if last_len == length else count - 1
    done = _seal_rows(state, [header], texts, full, length, now, sealed)
    left = _slices(texts, done * rows.shape[1], length, rows.shape[1])
    if full < count:
        left[-1] = left[-1][:last_len]
    _seal_each(state, left, now, sealed, drops, done)


def _seal_rows(
    state: State,
    headers: Sequence[Buffer],
    texts: memoryview,
    count: int,
    payload_len: int,
    now: float,
    sealed: list[Buffer],
) -> int:
    """Stages 3 to 8 for `count` payloads of `payload_len` bytes, which follow each other in `texts`, each with its
    trailer. `headers` has one outer header for each, or one for all.

    Appends to `sealed` and returns how many from the first on were sealed: all of them, fewer if the sequence numbers
    end among them, or 0, and then nothing has happened.
    """
    transform = state.transform
    assert isinstance(transform, CombinedMode)
    header_len = len(headers[0])
    text_len = payload_len + TRAILER_LEN + pad_length(payload_len, transform.align)
    text_at = header_len + ESP_HEADER_LEN + IV_LEN
    sealed_len = text_len + transform.icv_len
    width = text_at + sealed_len
    # 3 lifetime
    if width > MAX_OUTER_LEN or not _limits_are_far(state, count, payload_len):
        return 0
    # 4 number
    first, count = state.sequence.reserve(count)
    if not count:
        return 0
    state.check_limits(now, XfrmStat.OUT_STATE_EXPIRED)
    ramp = np.arange(count, dtype=np.uint64)
    numbers = ramp + np.uint64(first)
    ivs = (ramp + np.uint64(state.reserve_ivs(count))) ^ np.uint64(state.iv_salt)
    # 5 count
    state.bytes += count * payload_len
    state.packets += count
    state.lastused = int(now)
    # 7 encrypt
    rows = np.empty((count, width), np.uint8)
    flat = rows.reshape(-1).data
    alike = len(headers) == 1
    prefix = headers[0] if alike else b"".join(headers[:count])
    rows[:, :header_len] = np.frombuffer(prefix, np.uint8).reshape(-1, header_len)
    head: NDArray[Any] = np.ndarray(count, _HEAD, rows, header_len, rows.strides[:1])
    head["spi"] = state.spi
    head["seq"] = numbers.astype(np.uint32)
    head["iv"] = ivs
    jobs = map(
        transform.cipher.encrypt_into,
        _nonces(transform.salt, ivs),
        _slices(texts[: count * text_len], 0, text_len, text_len),
        _aads(state, head["spi"], numbers, flat, header_len, width),
        _slices(flat, text_at, sealed_len, width),
    )
    deque(jobs, maxlen=0)
    # 8 finish
    outers = _slices(flat, 0, width, width)
    finish = framing(state).finish
    if alike:
        finish(outers[0], header_len)
        rows[1:, :header_len] = rows[0, :header_len]
        if state.encap is not None and state.family == AF_INET6:
            finish_udp_rows(rows, header_len)
    else:
        for outer in outers:
            finish(outer, header_len)
    sealed += outers
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
    for _, group in groupby(datagrams, _esp_len):
        run = list(group)
        if not (len(run) >= FEW and _is_plain(state) and _open_run(state, run, now, opened, drops, start)):
            _open_each(state, run, now, opened, drops, start)
        start += len(run)
    return opened, drops


def _open_each(
    state: State, datagrams: Sequence[Datagram], now: float, opened: list[Buffer], drops: Drops, start: int
) -> None:
    """One by one; the first of them is number `start` of the burst."""
    for index, (header, packet) in enumerate(datagrams, start):
        try:
            opened.append(esp.open(state, header, packet, now))
        except Drop as drop:
            drops.append((index, drop))


def _esp_len(datagram: Datagram) -> int:
    return len(datagram[1])


def _open_run(
    state: State, datagrams: list[Datagram], now: float, opened: list[Buffer], drops: Drops, start: int
) -> bool:
    """Open equally long datagrams, the first of which is number `start`. False if they have to be opened one by one,
    and then nothing has happened."""
    transform = state.transform
    assert isinstance(transform, CombinedMode)
    count = len(datagrams)
    headers = [header for header, _ in datagrams]
    esp_len = len(datagrams[0][1])
    sealed_len = esp_len - ESP_HEADER_LEN - IV_LEN
    text_len = sealed_len - transform.icv_len
    if text_len < TRAILER_LEN:
        return False
    # 1 state
    encap_type = state.encap_type
    if state.dir == SaDir.OUT or any(esp.encap_type(header) != encap_type for header in headers):
        return False
    # 2 replay
    joined = b"".join([packet for _, packet in datagrams])
    head: NDArray[Any] = np.ndarray(count, _HEAD, joined, 0, (esp_len,))
    seqs = head["seq"].astype(np.int64)
    hi = state.window.ahead(int(seqs[0]), int(seqs[-1]))
    if hi is None or not (seqs[1:] > seqs[:-1]).all():
        return False
    # 3 lifetime
    if not _limits_are_far(state, count, text_len):
        return False
    state.check_limits(now, XfrmStat.IN_STATE_EXPIRED)
    # 4 decrypt
    numbers = seqs.astype(np.uint64) + np.uint64(hi << 32)
    flat = memoryview(joined)
    rows = np.empty((count, text_len), np.uint8)
    texts = _slices(rows.reshape(-1).data, 0, text_len, text_len)
    nonces = _nonces(transform.salt, head["iv"])
    ciphertexts = _slices(flat, ESP_HEADER_LEN + IV_LEN, sealed_len, esp_len)
    aads = _aads(state, head["spi"], numbers, flat, 0, esp_len)
    decrypt = transform.cipher.decrypt_into
    wrong = set()
    for index, (nonce, ciphertext, aad, text) in enumerate(zip(nonces, ciphertexts, aads, texts, strict=True)):
        try:
            decrypt(nonce, ciphertext, aad, text)
        except InvalidTag:
            wrong.add(index)
    # 5 trailer, 6 mapping
    pad_len, next_header = int(rows[0, -2]), int(rows[0, -1])
    payload_len = text_len - TRAILER_LEN - pad_len
    alike = payload_len > 0 and next_header != IPPROTO_NONE and bool((rows[:, -2:] == rows[0, -2:]).all())
    if wrong or not alike or (state.encap is not None and any(esp.has_moved(state, header) for header in headers)):
        for index, (header, text, seq) in enumerate(zip(headers, texts, seqs.tolist(), strict=True)):
            try:
                if index in wrong:
                    raise esp.wrong_icv(state)
                opened.append(esp.accept(state, header, text, seq, hi, now))
            except Drop as drop:
                drops.append((start + index, drop))
        return True
    # 7 commit
    state.window.advance(numbers.tolist())
    # 8 count
    state.bytes += count * payload_len
    state.packets += count
    state.lastused = int(now)
    # 9 unwrap
    unwrap = framing(state).unwrap
    for index, (header, text) in enumerate(zip(headers, texts, strict=True), start):
        try:
            opened.append(unwrap(header, text[:payload_len], next_header))
        except Drop as drop:
            drops.append((index, drop))
    return True


# What both need ---------------------------------------------------------------------------------------------------


def _is_plain(state: State) -> bool:
    transform = state.transform
    return isinstance(transform, CombinedMode) and transform.in_rows and state.km == KM_VALID and not state.tfcpad


def _limits_are_far(state: State, packets: int, payload_len: int) -> bool:
    """Can so many packets with at most so many bytes each be counted without reaching a limit?"""
    if not state.limited:
        return True
    limits = state.info.limits
    count, size = state.packets + packets, state.bytes + packets * payload_len
    soft = state.dying or (count < limits.soft_packets and size < limits.soft_bytes)
    return soft and count < limits.hard_packets and size < limits.hard_bytes


def _nonces(salt: bytes, ivs: NDArray[np.uint64]) -> list[bytes]:
    """salt, IV of each packet (RFC 4106 section 4)."""
    dtype = _NONCES[len(salt)]
    nonces = np.empty(len(ivs), dtype)
    nonces["salt"] = np.void(salt)
    nonces["iv"] = ivs
    data, length = nonces.tobytes(), dtype.itemsize
    return [data[at : at + length] for at in range(0, len(data), length)]


def _aads(
    state: State, spis: NDArray[np.uint32], numbers: NDArray[np.uint64], packets: memoryview, at: int, step: int
) -> Sequence[Buffer]:
    """What is authenticated besides the payload (RFC 4106 section 5): the ESP header as it stands at offset `at` of
    each row, with ESN one that has the whole 64-bit number."""
    if not state.esn:
        return _slices(packets, at, ESP_HEADER_LEN, step)
    aads = np.empty(len(numbers), _ESN_AAD)
    aads["spi"] = spis
    aads["number"] = numbers
    data = aads.tobytes()
    return [data[at : at + ESN_AAD_LEN] for at in range(0, len(data), ESN_AAD_LEN)]


def _slices(data: memoryview, at: int, length: int, step: int) -> list[memoryview]:
    """`length` bytes from offset `at` of each row of `step` bytes."""
    return [data[start : start + length] for start in range(at, len(data), step)]
