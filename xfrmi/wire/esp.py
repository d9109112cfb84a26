"""The ESP layout (RFC 4303 section 2, kernel-behaviour 5.1): SPI, sequence number, and the trailer.

    SPI 4 | sequence 4 | IV | ciphertext { payload | TFC zeros | 1, 2, 3 .. | pad length | next header } | ICV
"""

from __future__ import annotations

from typing import Final

from xfrmi.wire.ip import Buffer

ESP_HEADER_LEN: Final = 8
SPI: Final = slice(0, 4)
SEQ: Final = slice(4, 8)
TRAILER_LEN: Final = 2
"""Pad length and next header: the part of the trailer that is always there."""

_PADDING: Final = bytes(range(1, 256))

TRAILERS: Final = tuple(
    tuple(_PADDING[:pad_len] + bytes((pad_len, next_header)) for next_header in range(256)) for pad_len in range(16)
)
"""TRAILERS[pad_len][next_header]: padding 1, 2, 3 .., pad length, next header. Enough for every cipher
block up to 16 bytes; longer padding is built by `trailer`."""


def pad_length(payload_len: int, align: int) -> int:
    """Padding bytes so that payload, padding and the two trailer bytes fill a multiple of `align` (a power of two,
    at least 4)."""
    return -(payload_len + TRAILER_LEN) & (align - 1)


def trailer(pad_len: int, next_header: int) -> bytes:
    """The whole trailer: padding 1, 2, 3 .. (RFC 4303 2.4), pad length, next header. pad_len is 0..255."""
    if pad_len < len(TRAILERS):
        return TRAILERS[pad_len][next_header]
    return _PADDING[:pad_len] + bytes((pad_len, next_header))


def parse_trailer(plaintext: Buffer) -> tuple[int, int]:
    """(payload length, next header) of a decrypted payload. What the padding contains is not verified, as in the
    kernel; TFC padding stays part of the payload (5.1).

    ValueError if pad length + 2 is more than there is.
    """
    if len(plaintext) < TRAILER_LEN:
        raise ValueError("no room for the ESP trailer")
    payload_len = len(plaintext) - TRAILER_LEN - plaintext[-2]
    if payload_len < 0:
        raise ValueError("ESP padding longer than the packet")
    return payload_len, plaintext[-1]
