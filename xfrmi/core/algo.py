"""Algorithms: the kernel's names for them, what they demand, and the transforms that do the work (kernel-behaviour 4).

The tables list every name a Linux kernel with all its crypto knows, because the answer to a name depends on whether it
exists at all; `make` is what turns a configured algorithm into a Transform, None where none is offered here. Such a
name gets the answer of a kernel that was built without it. To add one: write its Transform, name it in the table.

A Transform is keyed when it is first used, so that 100,000 idle states cost 100,000 keys, not cipher contexts.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from xfrmi.errors import XfrmError
from xfrmi.wire.ip import Buffer
from xfrmi.wire.xfrm_types import Algorithm, StateInfo

INIT_FAILED = "Kernel was unable to initialize cryptographic operations"


class BadIcv(Exception):
    """The packet is not what the peer sealed."""


class Transform(Protocol):
    """What one state does to its payloads. Lengths in bytes.

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

    def seal(self, head: Buffer, hi: bytes, iv: Buffer, plaintext: Buffer) -> bytes:
        """Plaintext -> ciphertext and ICV."""

    def open(self, head: Buffer, hi: bytes, iv: Buffer, sealed: Buffer) -> bytes:
        """Ciphertext and ICV -> plaintext. Raises BadIcv."""


class AesGcm:
    """rfc4106(gcm(aes)) with the full ICV of 16 bytes (RFC 4106).

    The last four bytes of the configured key are the salt: nonce = salt, IV. The IV travels, so any IV is accepted.
    Authenticated besides the payload: SPI and sequence number, all 64 bits of it with ESN.
    """

    __slots__ = ("_cipher", "icv_len", "key", "salt")

    iv_len = 8
    align = 4

    def __init__(self, algorithm: Algorithm) -> None:
        self.key = algorithm.key[:-4]
        self.salt = algorithm.key[-4:]
        self.icv_len = algorithm.bits // 8
        self._cipher: AESGCM | None = None

    @property
    def cipher(self) -> AESGCM:
        """The keyed cipher, for the burst path, which makes nonces (salt, IV) and AADs itself; see `aad`."""
        if self._cipher is None:
            self._cipher = AESGCM(self.key)
        return self._cipher

    @staticmethod
    def aad(head: Buffer, hi: bytes) -> Buffer:
        """What is authenticated besides the payload: SPI, [upper half,] lower half (RFC 4106 section 5)."""
        return bytes(head[:4]) + hi + head[4:] if hi else head

    def seal(self, head: Buffer, hi: bytes, iv: Buffer, plaintext: Buffer) -> bytes:
        return self.cipher.encrypt(self.salt + iv, plaintext, self.aad(head, hi))

    def open(self, head: Buffer, hi: bytes, iv: Buffer, sealed: Buffer) -> bytes:
        try:
            return self.cipher.decrypt(self.salt + iv, sealed, self.aad(head, hi))
        except InvalidTag:
            raise BadIcv from None


class AesGcmShortIcv(AesGcm):
    """The same with the ICV cut to 8 or 12 bytes.

    AESGCM always makes and wants 16: sealing cuts them off, opening takes the slower interface that accepts fewer.
    """

    __slots__ = ()

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


def _aes_gcm(info: StateInfo) -> Transform:
    assert info.aead is not None
    return AesGcm(info.aead) if info.aead.bits == 128 else AesGcmShortIcv(info.aead)


Make = Callable[[StateInfo], Transform]


class Aead(NamedTuple):
    key_lens: tuple[int, ...]
    """Accepted key lengths in bytes, salt included."""
    icv_bits: tuple[int, ...]
    make: Make | None = None


class Crypt(NamedTuple):
    key_lens: tuple[int, ...]
    make: Make | None = None


class Auth(NamedTuple):
    full_bits: int
    """Untruncated ICV."""
    default_bits: int
    """ICV when XFRMA_ALG_AUTH names no length."""
    make: Make | None = None


class Comp(NamedTuple):
    make: Make | None = None


AEADS: dict[str, Aead] = {
    "rfc4106(gcm(aes))": Aead((20, 28, 36), (64, 96, 128), _aes_gcm),
    "rfc4309(ccm(aes))": Aead((19, 27, 35), (64, 96, 128)),
    "rfc4543(gcm(aes))": Aead((20, 28, 36), (128,)),
    "rfc7539esp(chacha20,poly1305)": Aead((36,), (128,)),
}

CRYPTS: dict[str, Crypt] = {
    "ecb(cipher_null)": Crypt((0,)),
    "cbc(des)": Crypt((8,)),
    "cbc(des3_ede)": Crypt((24,)),
    "cbc(cast5)": Crypt(tuple(range(5, 17))),
    "cbc(blowfish)": Crypt(tuple(range(4, 57))),
    "cbc(aes)": Crypt((16, 24, 32)),
    "cbc(serpent)": Crypt(tuple(range(33))),
    "cbc(camellia)": Crypt((16, 24, 32)),
    "cbc(twofish)": Crypt((16, 24, 32)),
    "rfc3686(ctr(aes))": Crypt((20, 28, 36)),
    "cbc(sm4)": Crypt((16,)),
}

AUTHS: dict[str, Auth] = {
    "digest_null": Auth(0, 0),
    "hmac(md5)": Auth(128, 96),
    "hmac(sha1)": Auth(160, 96),
    "hmac(sha256)": Auth(256, 96),  # before RFC 4868; its 128 bits have to be asked for
    "hmac(sha384)": Auth(384, 192),
    "hmac(sha512)": Auth(512, 256),
    "hmac(rmd160)": Auth(160, 96),
    "xcbc(aes)": Auth(128, 96),
    "cmac(aes)": Auth(128, 96),
    "hmac(sm3)": Auth(256, 256),
}

COMPS: dict[str, Comp] = {"deflate": Comp(), "lzs": Comp(), "lzjh": Comp()}

ALIASES = {
    "cipher_null": "ecb(cipher_null)",
    "des": "cbc(des)",
    "des3_ede": "cbc(des3_ede)",
    "cast5": "cbc(cast5)",
    "blowfish": "cbc(blowfish)",
    "aes": "cbc(aes)",
    "serpent": "cbc(serpent)",
    "camellia": "cbc(camellia)",
    "twofish": "cbc(twofish)",
    "sm4": "cbc(sm4)",
    "md5": "hmac(md5)",
    "sha1": "hmac(sha1)",
    "sha256": "hmac(sha256)",
    "rmd160": "hmac(rmd160)",
    "sm3": "hmac(sm3)",
}
"""Short names the kernel accepts for CRYPT and AUTH, never for AEAD."""


def attach(info: StateInfo) -> None:
    """Do the algorithms that `info` names exist? In the kernel's order. Raises XfrmError ENOSYS, or EINVAL for a
    truncation longer than the ICV."""
    if info.aead is not None:
        aead = AEADS.get(info.aead.name)
        if aead is not None and info.aead.bits not in aead.icv_bits:
            bits = ", ".join(map(str, aead.icv_bits))
            raise _not_found("AEAD", f'"{info.aead.name}" has ICVs of {bits} bits, not {info.aead.bits}')
        _require("AEAD", info.aead.name, aead)
    if info.auth_trunc is not None:
        auth = AUTHS.get(_long(info.auth_trunc.name))
        if auth is not None and info.auth_trunc.bits > auth.full_bits:
            detail = f'"{info.auth_trunc.name}" makes {auth.full_bits} bits, not {info.auth_trunc.bits}'
            raise XfrmError(errno.EINVAL, "Invalid length requested for truncated ICV", detail)
        _require("AUTH_TRUNC", info.auth_trunc.name, auth)
    elif info.auth is not None:
        _require("AUTH", info.auth.name, AUTHS.get(_long(info.auth.name)))
    if info.crypt is not None:
        _require("CRYPT", info.crypt.name, CRYPTS.get(_long(info.crypt.name)))
    if info.comp is not None:
        _require("COMP", info.comp.name, COMPS.get(info.comp.name))


def transform_for(info: StateInfo) -> Transform:
    """The transform of a state that `attach` has found fine. Raises XfrmError EINVAL for a key of the wrong length,
    and for authentication without encryption, which takes an explicit ecb(cipher_null)."""
    if info.aead is not None:
        aead = AEADS[info.aead.name]
        _check_key(info.aead, aead.key_lens)
        assert aead.make is not None
        return aead.make(info)
    raise XfrmError(errno.EINVAL, "ESP: AEAD or CRYPT must be provided")


def _check_key(algorithm: Algorithm, key_lens: tuple[int, ...]) -> None:
    if len(algorithm.key) not in key_lens:
        lengths = ", ".join(map(str, key_lens))
        raise XfrmError(
            errno.EINVAL,
            INIT_FAILED,
            f'"{algorithm.name}" takes keys of {lengths} bytes (salt included), not {len(algorithm.key)}',
        )


def _long(name: str) -> str:
    return ALIASES.get(name, name)


def _require(kind: str, name: str, entry: Aead | Auth | Crypt | Comp | None) -> None:
    if entry is None:
        raise _not_found(kind, f'"{name}" is not the name of an algorithm')
    if entry.make is None:
        raise _not_found(kind, f'"{name}" is not offered here, only rfc4106(gcm(aes)) is')


def _not_found(kind: str, detail: str) -> XfrmError:
    return XfrmError(errno.ENOSYS, f"Requested {kind} algorithm not found", detail)
