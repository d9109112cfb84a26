"""xfrmi.wire.esp: the ESP trailer (RFC 4303 2.4, kernel-behaviour 5.1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xfrmi.wire import esp


@given(st.integers(0, 70000), st.sampled_from((4, 8, 16, 32)))
def test_padding_fills_the_block_and_no_more(payload_len: int, align: int) -> None:
    pad_len = esp.pad_length(payload_len, align)
    assert 0 <= pad_len < align
    assert (payload_len + pad_len + 2) % align == 0


@pytest.mark.parametrize("inner_len, pad_len", [(84, 2), (86, 0), (85, 1), (87, 3)])
def test_size_oracle(inner_len: int, pad_len: int) -> None:
    """5.1: an 84-byte ping in GCM-16, IPv4 tunnel, is 140 bytes."""
    assert esp.pad_length(inner_len, 4) == pad_len
    if inner_len == 84:
        assert 20 + 8 + 8 + len(esp.trailer(pad_len, 4)) + inner_len + 16 == 140


@pytest.mark.parametrize("pad_len", [0, 1, 15, 16, 254, 255])
def test_trailer(pad_len: int) -> None:
    assert esp.trailer(pad_len, 41) == bytes(range(1, pad_len + 1)) + bytes((pad_len, 41))


def test_table_is_the_function() -> None:
    for pad_len, row in enumerate(esp.TRAILERS):
        assert row == tuple(esp.trailer(pad_len, next_header) for next_header in range(256))


@given(st.binary(max_size=50), st.integers(0, 255), st.integers(0, 255))
def test_parse_takes_off_what_trailer_put_on(payload: bytes, pad_len: int, next_header: int) -> None:
    plaintext = payload + esp.trailer(pad_len, next_header)
    assert esp.parse_trailer(plaintext) == (len(payload), next_header)
    assert esp.parse_trailer(memoryview(plaintext)) == (len(payload), next_header)


def test_padding_contents_are_not_verified() -> None:
    """5.1: the kernel does not look."""
    assert esp.parse_trailer(b"abc" + b"\xff\xff" + b"\x02\x04") == (3, 4)


@pytest.mark.parametrize("plaintext", [b"", b"\x04", b"\x01\x04", b"ab\x03\x04", b"\xff" * 256])
def test_padding_longer_than_the_packet(plaintext: bytes) -> None:
    """5.1: EINVAL in the kernel, XfrmInStateProtoError."""
    with pytest.raises(ValueError):
        esp.parse_trailer(plaintext)


def test_everything_may_be_padding() -> None:
    assert esp.parse_trailer(b"\xff" * 257) == (0, 255)
