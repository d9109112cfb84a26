"""Memory for bursts, laid out once and used again: the rows of burst.py, with a view of every field in them.

To slice one row costs a tenth of its encryption, and fresh memory costs page faults. So each shape of row (how long
header, text and ICV are) has a shelf of rows with all their slices made, and a burst takes the next that is free:

    SealRows    | outer header | SPI | sequence | IV | text, encrypted in place | ICV |      given away: whole rows
    OpenRows    | SPI | sequence | IV |     and apart from it   | text |                     given away: payloads

Both have nonces (salt, IV) apart, and with ESN what is authenticated (SPI, whole number), as neither is in the packet
in one piece; without ESN that is the ESP header where it stands.

Rows are free when nobody holds one of those given away, or a slice of one; reference counts tell: of the views
themselves, and of the buffer that they, and all slices of them, hold. **A row is its holder's, to read, for as long as
he keeps it or anything made of it.**
"""

from __future__ import annotations

from collections.abc import Callable
from gc import get_referents
from itertools import islice
from sys import getrefcount
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from xfrmi.wire.esp import ESP_HEADER_LEN

if TYPE_CHECKING:
    from xfrmi.core.train import Ramp

IV_LEN: Final = 8
HEAD_LEN: Final = ESP_HEADER_LEN + IV_LEN
ESN_AAD_LEN: Final = 12

STEP: Final = 64
"""Rows are made for so many packets, or a multiple of it."""
SHAPES: Final = 16
SHELF: Final = 4
"""Shelves, and sets of rows on each: what is beyond is not kept. With full-size packets that is 100 KB a set."""

NUMBERS: Final = np.arange(1 << 16, dtype=np.uint64)
"""0, 1, 2 ..: what sequence numbers and IVs of a burst go up by."""

_HEAD: Final = np.dtype([("spi", ">u4"), ("seq", ">u4"), ("iv", ">u8")])
_ESN_AAD: Final = np.dtype([("spi", ">u4"), ("number", ">u8")])


class Rows:
    """What both kinds have. The first `given` of `kept` have been given away."""

    __slots__ = (
        "_buffer", "_salt", "_salts", "_views", "aads", "given", "kept", "nonce_ivs", "nonces", "numbers", "shelf",
        "spis",
    )  # fmt: skip

    def __init__(self, capacity: int, salt_len: int, esn: int, shelf: tuple[object, ...]) -> None:
        self.shelf = shelf
        self.given = 0
        nonces = np.empty((capacity, salt_len + IV_LEN), np.uint8)
        self.nonces = slices(nonces, 0, salt_len + IV_LEN)
        self._salts = nonces[:, :salt_len]
        self._salt = b""
        self.nonce_ivs: NDArray[np.uint64] = np.ndarray(capacity, ">u8", nonces, salt_len, nonces.strides[:1])
        if esn:
            aads = np.empty((capacity, ESN_AAD_LEN), np.uint8)
            self.aads = slices(aads, 0, ESN_AAD_LEN)
            fields: NDArray[Any] = np.ndarray(capacity, _ESN_AAD, aads)
            self.spis, self.numbers = fields["spi"], fields["number"]
            """Only with ESN, as are what is authenticated."""

    def use_salt(self, salt: bytes) -> None:
        if self._salt != salt:
            self._salt = salt
            self._salts[:] = np.frombuffer(salt, np.uint8)

    def keep(self, array: NDArray[np.uint8], length: int) -> None:
        """`kept` are the first `length` bytes of each row of `array`."""
        self.kept = slices(array, 0, length)
        self._buffer = _buffer_of(self.kept[0])
        self._views = getrefcount(self._buffer)

    def idle(self) -> bool:
        if getrefcount(self._buffer) != self._views:
            return False
        return sum(map(getrefcount, islice(self.kept, self.given))) == self.given * _HELD_BY_US


class SealRows(Rows):
    __slots__ = ("array", "ivs", "prefix", "sealed", "seqs", "text", "texts")

    def __init__(self, capacity: int, header_len: int, text_len: int, icv_len: int, salt_len: int, esn: int) -> None:
        super().__init__(capacity, salt_len, esn, (SealRows, capacity, header_len, text_len, icv_len, salt_len, esn))
        text_at = header_len + HEAD_LEN
        width = text_at + text_len + icv_len
        self.array = array = np.empty((capacity, width), np.uint8)
        self.keep(array, width)
        self.texts = slices(array, text_at, text_len)
        self.text = array[:, text_at : text_at + text_len]
        self.sealed = slices(array, text_at, text_len + icv_len)
        head: NDArray[Any] = np.ndarray(capacity, _HEAD, array, header_len, array.strides[:1])
        self.seqs, self.ivs = head["seq"], head["iv"]
        self.prefix = b""
        """What all rows begin with, up to the SPI, if that is the same: the header as it was before it was finished."""
        if not esn:
            self.aads = slices(array, header_len, ESP_HEADER_LEN)


class TrainRows(Rows):
    """ESP packets behind each other, without outer headers; given away: `flat`, as a whole."""

    __slots__ = (
        "_array", "_layout", "checks", "flat", "head_ivs", "heads", "ivs", "native_checks", "native_words", "payloads",
        "sealed", "sums", "tails", "text", "texts", "width", "words",
    )  # fmt: skip

    def __init__(self, capacity: int, text_len: int, icv_len: int, salt_len: int, esn: int) -> None:
        super().__init__(capacity, salt_len, esn, (TrainRows, capacity, text_len, icv_len, salt_len, esn))
        self.width = HEAD_LEN + text_len + icv_len
        self._array = array = np.empty((capacity, self.width), np.uint8)
        self.texts = slices(array, HEAD_LEN, text_len)
        self.sealed = slices(array, HEAD_LEN, text_len + icv_len)
        self.text = array[:, HEAD_LEN : HEAD_LEN + text_len]
        self.heads = fields(array, 0, ESP_HEADER_LEN, ">u4")
        """SPI and sequence number."""
        self.head_ivs = field(array, ESP_HEADER_LEN, ">u8")
        if not esn:
            self.aads = slices(array, 0, ESP_HEADER_LEN)
        self._layout: tuple[Ramp, int, int, int] | None = None
        self.kept = []
        self.flat = array.reshape(-1).data
        self._buffer = _buffer_of(self.flat)
        self._views = getrefcount(self._buffer)

    def lay_out(self, ramp: Ramp, tail_len: int, count: int, full: int) -> None:
        """For `count` segments of one kind of super-packet with trailers of so many bytes, of which the first `full`
        have a full payload. Most trains are as the one before, and to slice an array costs as much as to add two."""
        layout = ramp, tail_len, count, full
        if self._layout == layout:
            return
        self._layout = layout
        array, start, size = self._array, HEAD_LEN + ramp.header_len, ramp.size
        self.native_words = np.empty((count, start // 4), np.uint32)
        """Room for the words in the machine's own byte order."""
        self.words = fields(array, 0, start, ">u4")[:count]
        self.ivs = self.head_ivs[:count]
        self.native_checks = np.empty(full, np.int64)
        self.checks = field(array, HEAD_LEN + ramp.check_at, "<u2")[:full]
        self.payloads = array[:, start : start + size]
        self.sums = fields(array, start, size, "<u2")[:full]
        """The payloads as what a checksum sums up; the order of the bytes only swaps those of the sum."""
        self.tails = array[:full, start + size : start + size + tail_len]


class OpenRows(Rows):
    __slots__ = ("_flat", "_payload_len", "array", "heads", "ivs", "texts")

    def __init__(self, capacity: int, text_len: int, salt_len: int, esn: int) -> None:
        super().__init__(capacity, salt_len, esn, (OpenRows, capacity, text_len, salt_len, esn))
        self.heads = np.empty((capacity, HEAD_LEN), np.uint8)
        fields: NDArray[Any] = np.ndarray(capacity, _HEAD, self.heads)
        self.ivs = fields["iv"]
        self.array = np.empty((capacity, text_len), np.uint8)
        self._flat = self.array.reshape(-1).data
        self.texts = slices(self.array, 0, text_len)
        self._payload_len = text_len
        self.keep(self.array, text_len)
        if not esn:
            self.aads = slices(self.heads, 0, ESP_HEADER_LEN)

    def column(self, offset: int, count: int) -> bytes:
        """This byte of each of the first `count` texts."""
        width = self.array.shape[1]
        return bytes(self._flat[offset % width : count * width : width])

    def payloads(self, length: int, count: int) -> list[memoryview]:
        """The first `length` bytes of `count` texts, to be given away."""
        if self._payload_len != length:
            self._payload_len = length
            self.keep(self.array, length)
        self.given = count
        return self.kept[:count]


def field(array: NDArray[np.uint8], at: int, dtype: str) -> NDArray[Any]:
    """The value of this type at offset `at` of each row, as a view."""
    return fields(array, at, np.dtype(dtype).itemsize, dtype)[:, 0]


def fields(array: NDArray[np.uint8], at: int, width: int, dtype: str) -> NDArray[Any]:
    """`width` bytes from offset `at` of each row as values of this type, as a view."""
    made: NDArray[Any] = array[:, at : at + width].view(dtype)
    return made


def slices(rows: NDArray[np.uint8], at: int, length: int) -> list[memoryview]:
    """`length` bytes from offset `at` of each row."""
    step = rows.shape[1]
    flat = rows.reshape(-1).data
    return [flat[start + at : start + at + length] for start in range(0, len(flat), step)]


def _buffer_of(view: memoryview) -> object:
    """What a view and all slices of it hold, one reference each; nothing else does."""
    (buffer,) = get_referents(view)
    return cast(object, buffer)


# Shelves ------------------------------------------------------------------------------------------------------------

_R = TypeVar("_R", bound=Rows)
_shelves: dict[tuple[object, ...], list[Any]] = {}
_HELD_BY_US: Final = max(map(getrefcount, islice([memoryview(b"")], 1)))


def take(make: Callable[..., _R], count: int, *shape: int) -> _R:
    """Rows for `count` packets which nobody uses; nobody else is given them before `put`."""
    capacity = count + -count % STEP
    shelf: list[_R] = _shelves.get((make, capacity, *shape), [])
    for _ in range(len(shelf)):
        rows = shelf.pop(0)
        if rows.idle():
            return rows
        shelf.append(rows)
    return make(capacity, *shape)


def put(rows: Rows) -> None:
    """Give back what `take` gave. Its first `given` rows may have holders by now."""
    shelf = _shelves.get(rows.shelf)
    if shelf is None:
        if len(_shelves) >= SHAPES:
            _shelves.clear()
        shelf = _shelves[rows.shelf] = []
    if len(shelf) < SHELF:
        shelf.append(rows)
