"""Transform: what a state does to its payloads, and how it says that a packet is wrong (RFC 4303 section 2).

algo_aead.py has those that encrypt and authenticate in one; algo_authenc.py makes one of a cipher (algo_cipher.py) and
of an algorithm that authenticates (algo_auth.py). algo.py knows which name means what.
"""

from __future__ import annotations

from typing import Protocol

from xfrmi.wire.ip import Buffer


class BadIcv(Exception):
    """The packet is not what the peer sealed."""


class Transform(Protocol):
    """Lengths in bytes.

    `head` is the ESP header as it travels (SPI and the lower half of the sequence number, 8 bytes), `hi` the upper
    half with ESN and empty without. `plaintext` is payload and trailer, a multiple of `align`; `sealed` is what
    follows the IV on the wire: ciphertext and ICV, `icv_len` bytes at least.
    """

    @property
    def iv_len(self) -> int: ...
    @property
    def icv_len(self) -> int: ...
    @property
    def align(self) -> int:
        """The plaintext is padded to a multiple of this: 4 or the cipher's block, a power of two."""

    @property
    def random_iv(self) -> bool:
        """Must nobody be able to foretell the IV? Otherwise it is enough that it is new, and it has 8 bytes."""

    def seal(self, head: Buffer, hi: bytes, iv: Buffer, plaintext: Buffer) -> bytes:
        """Plaintext -> ciphertext and ICV."""

    def open(self, head: Buffer, hi: bytes, iv: Buffer, sealed: Buffer) -> bytes:
        """Ciphertext and ICV -> plaintext. Raises BadIcv, and Drop if there is no decrypting it."""
