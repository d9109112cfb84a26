"""AuthEnc: one Transform of a cipher and an algorithm that authenticates (RFC 4303 3.3.2; the kernel's authenc()).

The payload is encrypted first; the ICV is over what travels, from the SPI on, and with ESN over the upper half of the
sequence number behind it, which does not travel:

    SPI | sequence | IV | ciphertext | [upper half]
"""

from __future__ import annotations

from hmac import compare_digest

from xfrmi.core.algo_auth import Authenticator
from xfrmi.core.algo_cipher import Cipher
from xfrmi.core.transform import BadIcv
from xfrmi.wire.ip import Buffer


class AuthEnc:
    __slots__ = ("align", "auth", "cipher", "icv_len", "iv_len", "random_iv")

    def __init__(self, cipher: Cipher, auth: Authenticator) -> None:
        self.cipher = cipher
        self.auth = auth
        self.iv_len = cipher.iv_len
        self.align = cipher.align
        self.random_iv = cipher.random_iv
        self.icv_len = auth.icv_len

    def seal(self, head: Buffer, hi: bytes, iv: Buffer, plaintext: Buffer) -> bytes:
        ciphertext = self.cipher.encrypt(iv, plaintext)
        return ciphertext + self.auth.icv(b"".join((head, iv, ciphertext, hi)))

    def open(self, head: Buffer, hi: bytes, iv: Buffer, sealed: Buffer) -> bytes:
        end = len(sealed) - self.icv_len
        ciphertext = sealed[:end]
        # In constant time: how many bytes of a forged ICV were right is nobody's business.
        if not compare_digest(self.auth.icv(b"".join((head, iv, ciphertext, hi))), sealed[end:]):
            raise BadIcv
        return self.cipher.decrypt(iv, ciphertext)
