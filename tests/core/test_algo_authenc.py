"""core.algo_authenc: what the ICV covers, and in which order things happen (RFC 4303 3.3.2 and 3.4.4)."""

from __future__ import annotations

import hmac

import pytest

from tests.core.algorithms import AUTHS, CIPHERS
from tests.each import each
from xfrmi.core.algo import transform_for
from xfrmi.core.algo_auth import Hmac
from xfrmi.core.algo_authenc import AuthEnc
from xfrmi.core.algo_cipher import Null
from xfrmi.core.transform import BadIcv
from xfrmi.errors import Drop
from xfrmi.wire.ip import Buffer
from xfrmi.wire.xfrm_types import Algorithm, StateInfo

PAIRS = {**CIPHERS, **AUTHS}
HEAD = bytes(range(8))


@each("hi", [b"", b"\0\0\0\7"])
@each("fields", PAIRS.values(), ids=PAIRS)
def test_the_icv_is_over_what_travels_and_the_upper_half(fields: dict[str, Algorithm], hi: bytes) -> None:
    """SPI, sequence, IV, ciphertext; with ESN the upper half behind all of it (RFC 4303 2.2.1)."""
    transform = transform_for(StateInfo(**fields))
    assert isinstance(transform, AuthEnc)
    iv = bytes(range(100, 100 + transform.iv_len))
    sealed = transform.seal(HEAD, hi, iv, bytes(48))
    assert len(sealed) == 48 + transform.icv_len
    ciphertext = transform.cipher.encrypt(iv, bytes(48))
    assert sealed == ciphertext + transform.auth.icv(HEAD + iv + ciphertext + hi)
    assert transform.open(HEAD, hi, iv, sealed) == bytes(48)


def test_it_is_the_hmac_that_the_library_makes_of_it() -> None:
    transform = transform_for(StateInfo(**CIPHERS["null"]))
    icv = hmac.digest(CIPHERS["null"]["auth_trunc"].key, HEAD + b"payload." + b"\0\0\0\7", "sha256")[:16]
    assert transform.seal(HEAD, b"\0\0\0\7", b"", b"payload.") == b"payload." + icv


@each("fields", PAIRS.values(), ids=PAIRS)
def test_everything_is_authenticated(fields: dict[str, Algorithm]) -> None:
    """A bit in each byte of SPI, both halves of the number, IV, ciphertext and ICV."""
    transform = transform_for(StateInfo(**fields))
    parts = [HEAD, b"\0\0\0\1", bytes(transform.iv_len)]
    parts.append(transform.seal(*parts, bytes(16)))
    for part in range(4):
        for at in range(len(parts[part])):
            changed = bytearray(parts[part])
            changed[at] ^= 1 << at % 8
            with pytest.raises(BadIcv):
                transform.open(*parts[:part], bytes(changed), *parts[part + 1 :])
    with pytest.raises(BadIcv):
        transform.open(parts[0], b"", *parts[2:])
    assert transform.open(*parts) == bytes(16)


class Watched(Null):
    """Notes what it decrypts."""

    __slots__ = ("seen",)

    def decrypt(self, iv: Buffer, ciphertext: Buffer) -> bytes:
        self.seen = bytes(ciphertext)
        return super().decrypt(iv, ciphertext)


def test_nothing_is_decrypted_before_it_is_verified() -> None:
    cipher = Watched()
    transform = AuthEnc(cipher, Hmac("sha256", Algorithm("", b"key", 128)))
    sealed = transform.seal(HEAD, b"", b"", b"payload.")
    with pytest.raises(BadIcv):
        transform.open(HEAD, b"", b"", sealed[:-1] + b"?")
    assert not hasattr(cipher, "seen")
    transform.open(HEAD, b"", b"", sealed)
    assert cipher.seen == b"payload."


def test_a_right_icv_over_half_a_block_is_no_wrong_icv() -> None:
    """The kernel counts it as an error of the protocol, but not as an integrity failure."""
    transform = transform_for(StateInfo(**CIPHERS["cbc128"]))
    assert isinstance(transform, AuthEnc)
    icv = transform.auth.icv(HEAD + bytes(16) + b"half a block")
    with pytest.raises(Drop):
        transform.open(HEAD, b"", bytes(16), b"half a block" + icv)
