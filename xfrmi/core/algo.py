"""Algorithms: the kernel's names for them, what they demand, and what is made of them (kernel-behaviour 4).

    transform.py      what the ESP path wants of all of them
    algo_aead.py      combined modes: GCM, CCM, ChaCha20-Poly1305, GMAC
    algo_cipher.py    ciphers: CBC, counter mode, none
    algo_auth.py      what authenticates: HMACs, CMAC, XCBC, nothing
    algo_authenc.py   one of each as a Transform
    algo.py           which name means what: `attach` answers a request, `transform_for` makes the Transform

To add one: write the class in the module of its kind, name it in the table. A name in no table gets the answer of a
kernel that was built without it, and so does one that the crypto libraries of the machine cannot do after all.

A Transform is keyed when it is first used, so that 100,000 idle states cost 100,000 keys, not cipher contexts.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm

from xfrmi.core import algo_aead, algo_auth, algo_cipher
from xfrmi.core.algo_auth import Authenticator, hmac_with
from xfrmi.core.algo_authenc import AuthEnc
from xfrmi.core.algo_cipher import Cipher
from xfrmi.core.transform import Transform
from xfrmi.errors import XfrmError
from xfrmi.wire.xfrm_const import STATE_ESN
from xfrmi.wire.xfrm_types import Algorithm, StateInfo

INIT_FAILED = "Kernel was unable to initialize cryptographic operations"


class Aead(NamedTuple):
    key_lens: tuple[int, ...]
    """Accepted key lengths in bytes, salt included."""
    icv_bits: tuple[int, ...]
    make: Callable[[Algorithm], Transform]

    def try_out(self) -> None:
        self.make(Algorithm("", bytes(self.key_lens[0]), self.icv_bits[0])).seal(bytes(8), b"", bytes(8), b"")


class Crypt(NamedTuple):
    key_lens: tuple[int, ...]
    make: Callable[[Algorithm], Cipher]

    def try_out(self) -> None:
        cipher = self.make(Algorithm("", bytes(self.key_lens[0])))
        cipher.encrypt(bytes(cipher.iv_len), bytes(cipher.align))


class Auth(NamedTuple):
    full_bits: int
    """Untruncated ICV."""
    default_bits: int
    """ICV when the request names no length."""
    make: Callable[[Algorithm], Authenticator]
    """Given an algorithm whose `bits` are the length of the ICV."""
    key_lens: tuple[int, ...] = ()
    """Empty: any."""

    def try_out(self) -> None:
        self.make(Algorithm("", bytes(self.key_lens[0] if self.key_lens else 0), self.full_bits)).icv(b"")


AEADS: dict[str, Aead] = {
    "rfc4106(gcm(aes))": Aead((20, 28, 36), (64, 96, 128), algo_aead.aes_gcm),
    "rfc4309(ccm(aes))": Aead((19, 27, 35), (64, 96, 128), algo_aead.AesCcm),
    "rfc4543(gcm(aes))": Aead((20, 28, 36), (128,), algo_aead.AesGmac),
    "rfc7539esp(chacha20,poly1305)": Aead((36,), (128,), algo_aead.ChaCha20),
}

CRYPTS: dict[str, Crypt] = {
    "ecb(cipher_null)": Crypt((0,), algo_cipher.null),
    "cbc(des)": Crypt((8,), algo_cipher.des_cbc),
    "cbc(des3_ede)": Crypt((24,), algo_cipher.des3_ede_cbc),
    "cbc(cast5)": Crypt(tuple(range(5, 17)), algo_cipher.cast5_cbc),
    "cbc(blowfish)": Crypt(tuple(range(4, 57)), algo_cipher.blowfish_cbc),
    "cbc(aes)": Crypt((16, 24, 32), algo_cipher.aes_cbc),
    "cbc(camellia)": Crypt((16, 24, 32), algo_cipher.camellia_cbc),
    "rfc3686(ctr(aes))": Crypt((20, 28, 36), algo_cipher.AesCtr),
    "cbc(sm4)": Crypt((16,), algo_cipher.sm4_cbc),
}

AUTHS: dict[str, Auth] = {
    "digest_null": Auth(0, 0, algo_auth.no_auth),
    "hmac(md5)": Auth(128, 96, hmac_with("md5")),
    "hmac(sha1)": Auth(160, 96, hmac_with("sha1")),
    "hmac(sha256)": Auth(256, 96, hmac_with("sha256")),  # before RFC 4868; its 128 bits have to be asked for
    "hmac(sha384)": Auth(384, 192, hmac_with("sha384")),
    "hmac(sha512)": Auth(512, 256, hmac_with("sha512")),
    "hmac(rmd160)": Auth(160, 96, hmac_with("ripemd160")),
    "xcbc(aes)": Auth(128, 96, algo_auth.AesXcbc, (16, 24, 32)),
    "cmac(aes)": Auth(128, 96, algo_auth.AesCmac, (16, 24, 32)),
    "hmac(sm3)": Auth(256, 256, hmac_with("sm3")),
}

NOT_OFFERED = frozenset({"cbc(serpent)", "cbc(twofish)", "deflate", "lzs", "lzjh"})
"""Known to the kernel. Somebody who asks for one shall not think to have misspelt it."""

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
        _require("COMP", info.comp.name, None)


def settled(info: StateInfo) -> dict[str, Any]:
    """The fields of `info` that the kernel stores otherwise than given: long names, one authentication algorithm with
    the length of its ICV. For algorithms that `attach` has found fine."""
    changes: dict[str, Any] = {}
    if info.crypt is not None and info.crypt.name in ALIASES:
        changes["crypt"] = info.crypt._replace(name=ALIASES[info.crypt.name])
    if info.auth is not None or info.auth_trunc is not None:
        changes["auth"], changes["auth_trunc"] = None, _auth_of(info)
    return changes


def transform_for(info: StateInfo) -> Transform:
    """The transform of a state that `attach` has found fine. Raises XfrmError EINVAL for a key of the wrong length,
    an ICV that is too short, and for authentication without encryption, which takes an explicit ecb(cipher_null)."""
    if info.aead is not None:
        aead = AEADS[info.aead.name]
        _check_key(info.aead, aead.key_lens, INIT_FAILED)
        return aead.make(info.aead)
    if info.crypt is None:
        raise XfrmError(errno.EINVAL, "ESP: AEAD or CRYPT must be provided")
    algorithm = _auth_of(info)
    auth, crypt = AUTHS[algorithm.name], CRYPTS[_long(info.crypt.name)]
    shortest = 4 if info.flags & STATE_ESN else 1
    if auth.full_bits and algorithm.bits < 8 * shortest:
        detail = f"{algorithm.bits} bits of ICV are fewer than {shortest} bytes"
        raise XfrmError(errno.EINVAL, INIT_FAILED, detail)
    _check_key(info.crypt, crypt.key_lens)
    if auth.key_lens:
        _check_key(algorithm, auth.key_lens)
    return AuthEnc(crypt.make(info.crypt), auth.make(algorithm))


def _auth_of(info: StateInfo) -> Algorithm:
    """What authenticates when no combined mode does: AUTH_TRUNC, else AUTH, else nothing."""
    algorithm = info.auth_trunc or info.auth or Algorithm("digest_null", b"")
    name = _long(algorithm.name)
    return Algorithm(name, algorithm.key, algorithm.bits or AUTHS[name].default_bits)


def _check_key(algorithm: Algorithm, key_lens: tuple[int, ...], extack: str = "") -> None:
    """The kernel has words for a wrong key of a combined mode only."""
    if len(algorithm.key) not in key_lens:
        first, last = key_lens[0], key_lens[-1]
        every = key_lens == tuple(range(first, last + 1)) and last > first
        lengths = f"{first} to {last}" if every else ", ".join(map(str, key_lens))
        detail = f'"{algorithm.name}" takes keys of {lengths} bytes (salt or nonce included), not {len(algorithm.key)}'
        raise XfrmError(errno.EINVAL, extack, detail)


def _long(name: str) -> str:
    return ALIASES.get(name, name)


def _require(kind: str, name: str, entry: Aead | Auth | Crypt | None) -> None:
    if _long(name) in NOT_OFFERED:
        raise _not_found(kind, f'"{name}" is not offered here')
    if entry is None:
        raise _not_found(kind, f'"{name}" is not the name of an algorithm')
    if not _works(entry):
        raise _not_found(kind, f'the crypto libraries of this machine lack what "{name}" needs')


@cache
def _works(entry: Aead | Auth | Crypt) -> bool:
    """Old algorithms may be left out of the libraries, by whoever built them or by a policy of the machine."""
    try:
        entry.try_out()
    except (UnsupportedAlgorithm, ValueError):
        return False
    return True


def _not_found(kind: str, detail: str) -> XfrmError:
    return XfrmError(errno.ENOSYS, f"Requested {kind} algorithm not found", detail)
