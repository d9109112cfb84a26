"""Received trains in one go: esp.open for all packets of one, decrypted where the device received them.

esp.py says what is right; nothing is decided here. A train whose packets might not all end alike is declined as long as
nothing has happened: numbers that do not simply go up by one, ahead of the window, limits within reach. Once decrypted,
packets with a wrong ICV are dropped and the others of such a train accepted one by one.

    1  state    may it be opened, and did it come this way
    2  replay   one SPI, numbers going up by one, all ahead of the window
    3  lifetime far enough away for all
    4  decrypt  row by row, in place: the ciphertext is gone afterwards
    5  trailer  all the same? Otherwise, or if the peer has moved, the rest is esp.accept's
    6  commit   together, and count
    7  unwrap   asked once, as all have the same outer header

The packets that come out lie in the device's memory, until it receives again (dev/device.py).
"""

from __future__ import annotations

from collections import deque
from operator import length_hint
from typing import TYPE_CHECKING, Final

import numpy as np
from cryptography.exceptions import InvalidTag

from xfrmi.core import esp
from xfrmi.core.algo_aead import CombinedMode
from xfrmi.core.mode import framing
from xfrmi.core.mode_tunnel import Tunnel
from xfrmi.core.rows import HEAD_LEN, NUMBERS, Rows, field, fields
from xfrmi.core.state import KM_VALID
from xfrmi.core.train import HEAD_WORDS
from xfrmi.errors import Drop
from xfrmi.wire.esp import ESP_HEADER_LEN, TRAILER_LEN
from xfrmi.wire.ip import Buffer
from xfrmi.wire.xfrm_const import IPPROTO_NONE, Mode, SaDir, XfrmStat

if TYPE_CHECKING:
    from xfrmi.core.burst import Drops
    from xfrmi.core.state import State
    from xfrmi.core.train import Arrived, Block, Ramp

_STEPS: Final = np.array([[0, number] for number in range(1 << 12)], np.uint32)
"""What SPI and sequence number of a train grow by."""


class OpenViews(Rows):
    """The fields of a block's packets, for one kind of transform."""

    __slots__ = (
        "_array", "_firsts", "_nexts", "_pads", "_payload_len", "_ramp", "_rows", "check_words", "checks", "fits",
        "heads", "ivs", "native_words", "payloads", "ramp_words", "sealed", "segments", "texts", "width", "words",
    )  # fmt: skip

    def __init__(self, block: Block, salt_len: int, icv_len: int, esn: bool) -> None:
        self._array = array = block.array
        super().__init__(len(array), salt_len, esn, ())
        self.fits = salt_len, icv_len, esn
        self.width = width = array.shape[1] - HEAD_LEN - icv_len
        """Of a decrypted text, with its trailer."""
        self.heads = fields(array, 0, ESP_HEADER_LEN, ">u4")
        self.ivs = field(array, ESP_HEADER_LEN, ">u8")
        self.sealed = [row[HEAD_LEN:] for row in block.rows]
        self.texts = [row[HEAD_LEN : HEAD_LEN + width] for row in block.rows]
        if not esn:
            self.aads = [row[:ESP_HEADER_LEN] for row in block.rows]
        self._pads = field(array, HEAD_LEN + width - 2, "u1")
        self._nexts = field(array, HEAD_LEN + width - 1, "u1")
        self._firsts = field(array, HEAD_LEN, "u1")
        self._payload_len = -1
        self._ramp: Ramp | None = None
        self._rows = slice(0)
        self.segments: list[memoryview] = []
        self.payloads: list[memoryview] = []

    def trailers(self, rows: slice) -> tuple[int, int] | None:
        """(pad length, next header) of these texts, if all have the same."""
        pads, nexts = self._pads[rows].tobytes(), self._nexts[rows].tobytes()
        if pads.count(pads[0]) == nexts.count(nexts[0]) == len(pads):
            return pads[0], nexts[0]
        return None

    def firsts(self, rows: slice) -> bytes:
        """The first byte of each of these texts."""
        return self._firsts[rows].tobytes()

    def cut(self, payload_len: int) -> None:
        """Make `payloads` the texts without trailers."""
        if self._payload_len != payload_len:
            self._payload_len = payload_len
            self.payloads = [text[:payload_len] for text in self.texts]

    def lay_out(self, ramp: Ramp, upper: int, rows: slice) -> None:
        """For payloads that are segments of one kind of super-packet (gro_train.py)."""
        length = ramp.header_len + ramp.size
        if self._ramp is not ramp:
            self._ramp, self._rows = ramp, slice(0)
            self.segments = [text[ramp.header_len : length] for text in self.texts]
        if self._rows == rows:
            return
        self._rows = rows
        array = self._array[rows]
        self.ramp_words = ramp.words[: len(array), HEAD_WORDS:]
        self.words = fields(array, HEAD_LEN, ramp.header_len, ">u4")
        self.native_words = np.empty(self.words.shape, np.uint32)
        self.checks = field(array, HEAD_LEN + ramp.check_at, "<u2")
        self.check_words = fields(array, HEAD_LEN + upper, length - upper, "<u2")
        """All that the upper-layer checksum covers of a packet."""


def open_train(state: State, train: Arrived, now: float) -> tuple[list[Buffer], Drops, OpenViews | None] | None:
    """Open the packets of `train`, in order: (inner packets, drops, where the packets are if they came out alike, of
    one length and as they were sealed). None if they have to be opened one by one."""
    # 1 state
    transform, header = state.transform, train.header
    if not isinstance(transform, CombinedMode) or not transform.in_rows or state.km != KM_VALID:
        return None
    if state.dir == SaDir.OUT or state.mode != Mode.TUNNEL or esp.encap_type(header) != state.encap_type:
        return None
    views, count = train.block.views, train.count
    if views is None or views.fits != (transform.salt_len, transform.icv_len, state.esn):
        views = train.block.views = OpenViews(train.block, transform.salt_len, transform.icv_len, state.esn)
    if views.width < TRAILER_LEN:
        return None
    # 2 replay
    rows = slice(train.start, train.start + count)
    heads = (views.heads[rows] - _STEPS[:count]).tobytes()
    if heads != heads[:ESP_HEADER_LEN] * count:
        return None
    first = int.from_bytes(train.block.rows[train.start][4:8], "big")
    hi = state.window.ahead(first, first + count - 1)
    # 3 lifetime
    if hi is None or not state.limits_are_far(count, views.width):
        return None
    state.check_limits(now, XfrmStat.IN_STATE_EXPIRED)
    # 4 decrypt
    views.nonce_ivs[rows] = views.ivs[rows]
    views.use_salt(transform.salt)
    number = hi << 32 | first
    if state.esn:
        views.spis[rows] = views.heads[rows, 0]
        views.numbers[rows] = NUMBERS[:count] + number
    wrong = _decrypt(transform, views, rows)
    # 5 trailer
    trailers = None if wrong else views.trailers(rows)
    pad_len, next_header = trailers or (0, IPPROTO_NONE)
    payload_len = views.width - TRAILER_LEN - pad_len
    if payload_len <= 0 or next_header == IPPROTO_NONE or esp.has_moved(state, header):
        return *_accept_each(state, train, views, wrong, first, hi, now), None
    # 6 commit
    state.window.advance(range(number, number + count))
    state.count(count, count * payload_len, now)
    # 7 unwrap
    views.cut(payload_len)
    payloads: list[Buffer] = [*views.payloads[rows]]
    way = framing(state)
    assert isinstance(way, Tunnel)
    version = way.passes(header, payload_len, next_header)
    firsts = views.firsts(rows)
    if version and firsts[0] >> 4 == version and firsts.count(firsts[0]) == count:
        return payloads, [], views
    opened: list[Buffer] = []
    drops: Drops = []
    for index, payload in enumerate(payloads):
        try:
            opened.append(way.unwrap(header, payload, next_header))
        except Drop as drop:
            drops.append((index, drop))
    return opened, drops, None


def _accept_each(
    state: State, train: Arrived, views: OpenViews, wrong: set[int], first: int, hi: int, now: float
) -> tuple[list[Buffer], Drops]:
    opened: list[Buffer] = []
    drops: Drops = []
    for index in range(train.count):
        try:
            if index in wrong:
                raise esp.wrong_icv(state)
            text = views.texts[train.start + index]
            opened.append(esp.accept(state, train.header, text, first + index & 0xFFFFFFFF, hi, now))
        except Drop as drop:
            drops.append((index, drop))
    return opened, drops


def _decrypt(transform: CombinedMode, views: OpenViews, rows: slice) -> set[int]:
    """Into views.texts, from the same place; returns which of these rows have wrong ICVs, counted from the first."""
    wrong: set[int] = set()
    texts = views.texts[rows]
    left = iter(texts)
    jobs = map(transform.cipher.decrypt_into, views.nonces[rows], views.sealed[rows], views.aads[rows], left)
    while True:
        try:
            deque(jobs, maxlen=0)
            return wrong
        except InvalidTag:
            wrong.add(len(texts) - length_hint(left) - 1)
