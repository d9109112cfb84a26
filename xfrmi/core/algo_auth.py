"""Algorithms that authenticate and leave encryption to a cipher (kernel-behaviour 4.3).

    name          RFC         full ICV, bits  by default    key
    hmac(md5)     2403             128         96           any, as for every HMAC
    hmac(sha1)    2404             160         96
    hmac(sha256)  4868             256         96           128 in the RFC, which Linux gives who asks for them
    hmac(sha384)  4868             384        192
    hmac(sha512)  4868             512        256
    hmac(rmd160)  2857             160         96
    hmac(sm3)     draft            256        256
    xcbc(aes)     3566             128         96           16 (and 24 and 32, which no RFC knows and Linux takes)
    cmac(aes)     4494             128         96           16, 24, 32
    digest_null                      0          0           any

All are asked for the ICV of the bytes that it covers, in one piece.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Protocol

from cryptography.hazmat.primitives.ciphers import Cipher as Context
from cryptography.hazmat.primitives.ciphers import algorithms, modes
from cryptography.hazmat.primitives.cmac import CMAC

from xfrmi.core.algo_cipher import Cipher, aes_cbc
from xfrmi.wire.xfrm_types import Algorithm

BLOCK_LEN = 16
"""Of AES, bytes."""


class Authenticator(Protocol):
    @property
    def icv_len(self) -> int:
        """Bytes, once truncated."""

    def icv(self, data: bytes) -> bytes: ...


class NoAuth:
    """digest_null: whoever knows nothing but the SPI may send."""

    __slots__ = ()

    icv_len = 0

    def icv(self, data: bytes) -> bytes:
        return b""


class Hmac:
    """hmac(...) (RFC 2104). The key is hashed once; each packet goes on from a copy of that."""

    __slots__ = ("_context", "_digest", "icv_len", "key")

    def __init__(self, digest: str, algorithm: Algorithm) -> None:
        self._digest = digest
        self.key = algorithm.key
        self.icv_len = algorithm.bits // 8
        self._context: hmac.HMAC | None = None

    def icv(self, data: bytes) -> bytes:
        if self._context is None:
            self._context = hmac.new(self.key, digestmod=self._digest)
        context = self._context.copy()
        context.update(data)
        return context.digest()[: self.icv_len]


class AesCmac:
    """cmac(aes) (RFC 4493)."""

    __slots__ = ("_context", "icv_len", "key")

    def __init__(self, algorithm: Algorithm) -> None:
        self.key = algorithm.key
        self.icv_len = algorithm.bits // 8
        self._context: CMAC | None = None

    def icv(self, data: bytes) -> bytes:
        if self._context is None:
            self._context = CMAC(algorithms.AES(self.key))
        context = self._context.copy()
        context.update(data)
        return context.finalize()[: self.icv_len]


class AesXcbc:
    """xcbc(aes) (RFC 3566): the last block of AES-CBC from an IV of zeros, with keys made from the key.

    The last block of the data is XORed with one of two more such keys: one where it is whole, one where it had to be
    padded.
    """

    __slots__ = ("_keys", "icv_len", "key")

    def __init__(self, algorithm: Algorithm) -> None:
        self.key = algorithm.key
        self.icv_len = algorithm.bits // 8
        self._keys: tuple[Cipher, int, int] | None = None

    def _make_keys(self) -> tuple[Cipher, int, int]:
        """The cipher, and what the last block is XORed with: when it is whole, and when it is padded."""
        ecb = Context(algorithms.AES(self.key), modes.ECB()).encryptor()
        first, whole, padded = (ecb.update(bytes((number,)) * BLOCK_LEN) for number in (1, 2, 3))
        return aes_cbc(Algorithm("", first)), int.from_bytes(whole, "big"), int.from_bytes(padded, "big")

    def icv(self, data: bytes) -> bytes:
        if self._keys is None:
            self._keys = self._make_keys()
        cipher, whole, padded = self._keys
        start = max(len(data) - 1, 0) // BLOCK_LEN * BLOCK_LEN
        last = data[start:]
        if len(last) == BLOCK_LEN:
            mask = whole
        else:
            mask = padded
            last = (last + b"\x80").ljust(BLOCK_LEN, b"\0")
        masked = (int.from_bytes(last, "big") ^ mask).to_bytes(BLOCK_LEN, "big")
        return cipher.encrypt(bytes(BLOCK_LEN), data[:start] + masked)[-BLOCK_LEN:][: self.icv_len]


def no_auth(_: Algorithm) -> Authenticator:
    return NoAuth()


def hmac_with(digest: str) -> Callable[[Algorithm], Authenticator]:
    """What makes an Authenticator of an algorithm with a key; `digest` is hashlib's name."""

    def make(algorithm: Algorithm) -> Authenticator:
        return Hmac(digest, algorithm)

    return make
