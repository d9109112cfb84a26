"""Ciphers that encrypt and leave authentication to another algorithm (kernel-behaviour 4.2).

    name                RFC         key          IV  block
    ecb(cipher_null)    2410          0           0      4  (1, but ESP wants 4)
    rfc3686(ctr(aes))   3686        20, 28, 36    8      4  the last 4 bytes of the key are the nonce
    cbc(aes)            3602        16, 24, 32   16     16
    cbc(des3_ede)       2451        24            8      8
    cbc(des)            2405        8             8      8
    cbc(cast5)          2451        5 to 16       8      8
    cbc(blowfish)       2451        4 to 56       8      8
    cbc(camellia)       4312        16, 24, 32   16     16
    cbc(sm4)            draft       16           16     16

A context costs more to make than a packet costs to encrypt, so each direction of a state has one for life.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from cryptography.hazmat.decrepit.ciphers import algorithms as old
from cryptography.hazmat.primitives.ciphers import (
    BlockCipherAlgorithm,
    CipherContext,
    algorithms,
    modes,
)
from cryptography.hazmat.primitives.ciphers import Cipher as Context

from xfrmi.errors import Drop
from xfrmi.wire.ip import Buffer
from xfrmi.wire.xfrm_const import XfrmStat
from xfrmi.wire.xfrm_types import Algorithm

BlockCipher: TypeAlias = Callable[[bytes], BlockCipherAlgorithm]
"""A block cipher of the library, to be given the key."""


class Cipher(Protocol):
    """Lengths in bytes. `align` and `random_iv` as in Transform. What is decrypted has been authenticated."""

    @property
    def iv_len(self) -> int: ...
    @property
    def align(self) -> int: ...
    @property
    def random_iv(self) -> bool: ...

    def encrypt(self, iv: Buffer, plaintext: Buffer) -> bytes:
        """`plaintext` is a multiple of `align`."""

    def decrypt(self, iv: Buffer, ciphertext: Buffer) -> bytes:
        """Raises Drop if there is no decrypting it."""


class Null:
    """ecb(cipher_null): no encryption (RFC 2410)."""

    __slots__ = ()

    iv_len = 0
    align = 4
    random_iv = True

    def encrypt(self, iv: Buffer, plaintext: Buffer) -> bytes:
        return bytes(plaintext)

    def decrypt(self, iv: Buffer, ciphertext: Buffer) -> bytes:
        return bytes(ciphertext)


class AesCtr:
    """rfc3686(ctr(aes)): counter mode. An IV used twice under one key would give both plaintexts away (RFC 3686)."""

    __slots__ = ("_context", "key", "nonce")

    iv_len = 8
    align = 4
    random_iv = False

    def __init__(self, algorithm: Algorithm) -> None:
        self.key = algorithm.key[:-4]
        self.nonce = algorithm.key[-4:]
        self._context: CipherContext | None = None

    def encrypt(self, iv: Buffer, plaintext: Buffer) -> bytes:
        block = b"".join((self.nonce, iv, b"\0\0\0\1"))  # the first counter block (RFC 3686 section 4)
        if self._context is None:
            self._context = Context(algorithms.AES(self.key), modes.CTR(block)).encryptor()
        else:
            self._context.reset_nonce(block)
        return self._context.update(plaintext)

    decrypt = encrypt


class Cbc:
    """Cipher block chaining: each block is XORed with the ciphertext of the one before it, the first with the IV.

    A context goes on from the last block of the packet before. Decrypting takes the IV along: the block that it comes
    out as is wrong and dropped, those behind it are right. Encrypting XORs the first block with that last block once
    more, which takes it out again.
    """

    __slots__ = ("_block_cipher", "_decryptor", "_encryptor", "_last", "align", "iv_len", "key")

    random_iv = True

    def __init__(self, block_cipher: BlockCipher, block_len: int, key: bytes) -> None:
        self._block_cipher = block_cipher
        self.key = key
        self.iv_len = self.align = block_len
        self._encryptor: CipherContext | None = None
        self._decryptor: CipherContext | None = None
        self._last = 0
        """The last block encrypted, as a number."""

    def _context(self) -> Context[modes.CBC]:
        return Context(self._block_cipher(self.key), modes.CBC(bytes(self.iv_len)))

    def encrypt(self, iv: Buffer, plaintext: Buffer) -> bytes:
        if self._encryptor is None:
            self._encryptor = self._context().encryptor()
        length = self.iv_len
        first = int.from_bytes(plaintext[:length], "big") ^ int.from_bytes(iv, "big") ^ self._last
        ciphertext = self._encryptor.update(b"".join((first.to_bytes(length, "big"), plaintext[length:])))
        self._last = int.from_bytes(ciphertext[-length:], "big")
        return ciphertext

    def decrypt(self, iv: Buffer, ciphertext: Buffer) -> bytes:
        length = self.iv_len
        if len(ciphertext) % length:
            raise Drop(XfrmStat.IN_STATE_PROTO_ERROR, "not a whole number of blocks")
        if self._decryptor is None:
            self._decryptor = self._context().decryptor()
        return self._decryptor.update(b"".join((iv, ciphertext)))[length:]


def null(_: Algorithm) -> Cipher:
    return Null()


def cbc(block_cipher: BlockCipher, block_len: int) -> Callable[[Algorithm], Cipher]:
    """What makes a Cipher of an algorithm with a key."""

    def make(algorithm: Algorithm) -> Cipher:
        return Cbc(block_cipher, block_len, algorithm.key)

    return make


def des(key: bytes) -> BlockCipherAlgorithm:
    """DES is triple DES with one key three times: encrypt, decrypt, encrypt."""
    return old.TripleDES(key * 3)


aes_cbc = cbc(algorithms.AES, 16)
des3_ede_cbc = cbc(old.TripleDES, 8)
des_cbc = cbc(des, 8)
cast5_cbc = cbc(old.CAST5, 8)
blowfish_cbc = cbc(old.Blowfish, 8)
camellia_cbc = cbc(old.Camellia, 16)
sm4_cbc = cbc(algorithms.SM4, 16)
