"""Every algorithm a state can have here, as fields of StateInfo: combined modes with each key and ICV length, each
cipher with its key lengths, each algorithm that authenticates with lengths of its own."""

from __future__ import annotations

from typing import Any

from xfrmi.wire.xfrm_types import Algorithm


def key(length: int, first: int = 0x81) -> bytes:
    return bytes((first + 7 * at) & 0xFF for at in range(length))


def combined(name: str, key_len: int, bits: int = 128) -> dict[str, Any]:
    return {"aead": Algorithm(name, key(key_len), bits)}


def pair(crypt: str, key_len: int, auth: str = "", auth_key_len: int = 0, bits: int | None = None) -> dict[str, Any]:
    """`auth` with the ICV that it has by default, unless `bits` are given."""
    fields: dict[str, Any] = {"crypt": Algorithm(crypt, key(key_len))}
    if auth and bits is None:
        fields["auth"] = Algorithm(auth, key(auth_key_len, 0x12))
    elif auth:
        fields["auth_trunc"] = Algorithm(auth, key(auth_key_len, 0x12), bits)
    return fields


GCM, CCM = "rfc4106(gcm(aes))", "rfc4309(ccm(aes))"
GMAC, CHACHA = "rfc4543(gcm(aes))", "rfc7539esp(chacha20,poly1305)"
CTR, NULL, SHA256 = "rfc3686(ctr(aes))", "ecb(cipher_null)", "hmac(sha256)"
SIZES = ((16, 128), (24, 192), (32, 256))
ICVS = (64, 96, 128)

COMBINED: dict[str, dict[str, Any]] = {
    **{f"gcm{name}-icv{bits}": combined(GCM, size + 4, bits) for size, name in SIZES for bits in ICVS},
    **{f"ccm{name}-icv{bits}": combined(CCM, size + 3, bits) for size, name in SIZES for bits in ICVS},
    **{f"gmac{name}": combined(GMAC, size + 4) for size, name in SIZES},
    "chacha20poly1305": combined(CHACHA, 36),
}

CIPHERS: dict[str, dict[str, Any]] = {
    **{f"cbc{name}": pair("cbc(aes)", size, SHA256, 32, 128) for size, name in SIZES},
    **{f"ctr{name}": pair(CTR, size + 4, SHA256, 32, 128) for size, name in SIZES},
    **{f"camellia{name}": pair("cbc(camellia)", size, SHA256, 32, 128) for size, name in SIZES},
    **{f"cast5-{size}": pair("cbc(cast5)", size, SHA256, 32, 128) for size in (5, 10, 11, 16)},
    **{f"blowfish-{size}": pair("cbc(blowfish)", size, SHA256, 32, 128) for size in (4, 16, 56)},
    "null": pair(NULL, 0, SHA256, 32, 128),
    "des": pair("cbc(des)", 8, SHA256, 32, 128),
    "des3": pair("cbc(des3_ede)", 24, SHA256, 32, 128),
    "sm4": pair("cbc(sm4)", 16, SHA256, 32, 128),
}

AUTHS: dict[str, dict[str, Any]] = {
    "md5": pair("cbc(aes)", 16, "hmac(md5)", 16),
    "sha1": pair("cbc(aes)", 16, "hmac(sha1)", 20),
    "sha256-96": pair("cbc(aes)", 16, "hmac(sha256)", 32),
    "sha384": pair("cbc(aes)", 16, "hmac(sha384)", 48),
    "sha512": pair("cbc(aes)", 16, "hmac(sha512)", 64),
    "sha512-full": pair("cbc(aes)", 16, "hmac(sha512)", 64, 512),
    "sha1-32": pair("cbc(aes)", 16, "hmac(sha1)", 20, 32),
    "sha1-long-key": pair("cbc(aes)", 16, "hmac(sha1)", 200),
    "sha1-no-key": pair("cbc(aes)", 16, "hmac(sha1)", 0),
    "rmd160": pair("cbc(aes)", 16, "hmac(rmd160)", 20),
    "sm3": pair("cbc(aes)", 16, "hmac(sm3)", 32),
    "xcbc": pair("cbc(aes)", 16, "xcbc(aes)", 16),
    "xcbc256": pair("cbc(aes)", 16, "xcbc(aes)", 32, 128),
    "cmac": pair("cbc(aes)", 16, "cmac(aes)", 16),
    "cmac192": pair(CTR, 20, "cmac(aes)", 24, 128),
    "null-xcbc": pair(NULL, 0, "xcbc(aes)", 16),
}

UNAUTHENTICATED: dict[str, dict[str, Any]] = {
    "cbc-alone": pair("cbc(aes)", 16),
    "ctr-alone": pair(CTR, 20),
    "null-alone": pair(NULL, 0),
    "des3-digest_null": pair("cbc(des3_ede)", 24, "digest_null", 0),
}

AUTHENTICATED: dict[str, dict[str, Any]] = {**COMBINED, **CIPHERS, **AUTHS}
ALL: dict[str, dict[str, Any]] = {**AUTHENTICATED, **UNAUTHENTICATED}
