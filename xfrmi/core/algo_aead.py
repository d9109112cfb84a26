"""Combined modes: one algorithm encrypts and authenticates (kernel-behaviour 4.1).

    name                           RFC         salt  ICV        authenticated besides the payload
    rfc4106(gcm(aes))              4106           4  8, 12, 16  SPI, [upper half,] lower half
    rfc4309(ccm(aes))              4309           3  8, 12, 16  the same
    rfc7539esp(chacha20,poly1305)  7634           4  16         the same
    rfc4543(gcm(aes))              4543           4  16         the same and the IV; the payload is not encrypted

The last bytes of the configured key are the salt; salt and IV are the nonce. The IV travels, so any IV is accepted.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305

from xfrmi.core.transform import BadIcv
from xfrmi.wire.ip import Buffer
from xfrmi.wire.xfrm_types import Algorithm


class Aead(Protocol):
    """What the ciphers of the library have in common; their ICV follows the ciphertext."""

    def encrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer, /) -> bytes: ...
    def decrypt(self, nonce: Buffer, data: Buffer, associated_data: Buffer, /) -> bytes: ...
    def encrypt_into(self, nonce: Buffer, data: Buffer, associated_data: Buffer, buf: Buffer, /) -> int: ...
    def decrypt_into(self, nonce: Buffer, data: Buffer, associated_data: Buffer, buf: Buffer, /) -> int: ...


class CombinedMode:
    """What they have in common; what is left for each is `_make`."""

    __slots__ = ("_cipher", "icv_len", "key", "salt")

    iv_len = 8
    align = 4
    random_iv = False
    salt_len: ClassVar = 4
    in_rows: ClassVar = True
    """Does `cipher` do all of the work, so that burst.py can call it itself?"""

    def __init__(self, algorithm: Algorithm) -> None:
        self.key = algorithm.key[: -self.salt_len]
        self.salt = algorithm.key[-self.salt_len :]
        self.icv_len = algorithm.bits // 8
        self._cipher: Aead | None = None

    def _make(self) -> Aead:
        raise NotImplementedError

    @property
    def cipher(self) -> Aead:
        """The keyed cipher, for the burst path, which makes nonces (salt, IV) and AADs itself; see `aad`."""
        if self._cipher is None:
            self._cipher = self._make()
        return self._cipher

    @staticmethod
    def aad(head: Buffer, hi: bytes) -> Buffer:
        """What is authenticated besides the payload: SPI, [upper half,] lower half (RFC 4106 section 5)."""
        return bytes(head[:4]) + hi + head[4:] if hi else head

    def seal(self, head: Buffer, hi: bytes, iv: Buffer, plaintext: Buffer) -> bytes:
        cipher = self._cipher or self.cipher
        return cipher.encrypt(self.salt + iv, plaintext, self.aad(head, hi) if hi else head)

    def open(self, head: Buffer, hi: bytes, iv: Buffer, sealed: Buffer) -> bytes:
        cipher = self._cipher or self.cipher
        try:
            return cipher.decrypt(b"".join((self.salt, iv)), sealed, self.aad(head, hi) if hi else head)
        except InvalidTag:
            raise BadIcv from None


class AesGcm(CombinedMode):
    """rfc4106(gcm(aes)) with the full ICV of 16 bytes (RFC 4106)."""

    __slots__ = ()

    def _make(self) -> Aead:
        return AESGCM(self.key)


class AesGcmShortIcv(AesGcm):
    """The same with the ICV cut to 8 or 12 bytes.

    AESGCM always makes and wants 16: sealing cuts them off, opening takes the slower interface that accepts fewer.
    """

    __slots__ = ()

    in_rows = False

    def seal(self, head: Buffer, hi: bytes, iv: Buffer, plaintext: Buffer) -> bytes:
        return super().seal(head, hi, iv, plaintext)[: self.icv_len - 16]

    def open(self, head: Buffer, hi: bytes, iv: Buffer, sealed: Buffer) -> bytes:
        mode = modes.GCM(self.salt + iv, bytes(sealed[-self.icv_len :]), min_tag_length=self.icv_len)
        decryptor = Cipher(algorithms.AES(self.key), mode).decryptor()
        decryptor.authenticate_additional_data(self.aad(head, hi))
        plaintext = decryptor.update(sealed[: -self.icv_len])
        try:
            return plaintext + decryptor.finalize()
        except InvalidTag:
            raise BadIcv from None


class AesGmac(AesGcm):
    """rfc4543(gcm(aes)): AES-GCM that encrypts nothing and authenticates IV and payload too (RFC 4543 section 3)."""

    __slots__ = ()

    in_rows = False

    def seal(self, head: Buffer, hi: bytes, iv: Buffer, plaintext: Buffer) -> bytes:
        everything = b"".join((self.aad(head, hi), iv, plaintext))
        return bytes(plaintext) + self.cipher.encrypt(self.salt + iv, b"", everything)

    def open(self, head: Buffer, hi: bytes, iv: Buffer, sealed: Buffer) -> bytes:
        plaintext = bytes(sealed[: -self.icv_len])
        everything = b"".join((self.aad(head, hi), iv, plaintext))
        try:
            self.cipher.decrypt(self.salt + iv, sealed[-self.icv_len :], everything)
        except InvalidTag:
            raise BadIcv from None
        return plaintext


class AesCcm(CombinedMode):
    """rfc4309(ccm(aes)) (RFC 4309)."""

    __slots__ = ()

    salt_len = 3

    def _make(self) -> Aead:
        return AESCCM(self.key, tag_length=self.icv_len)


class ChaCha20(CombinedMode):
    """rfc7539esp(chacha20,poly1305), named after the first RFC of the cipher (RFC 7634)."""

    __slots__ = ()

    def _make(self) -> Aead:
        return ChaCha20Poly1305(self.key)


def aes_gcm(algorithm: Algorithm) -> AesGcm:
    """rfc4106(gcm(aes)) with the ICV that `algorithm` asks for."""
    return AesGcm(algorithm) if algorithm.bits == 128 else AesGcmShortIcv(algorithm)
