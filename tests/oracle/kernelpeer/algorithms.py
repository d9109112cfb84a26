"""Every algorithm that xfrmi offers and the kernel has, as a kernel names it. Debian's has no SM3 and no SM4."""

from __future__ import annotations

from tests.oracle.kernelpeer.case import Algorithm

GCM = Algorithm("rfc4106(gcm(aes))", 20, 128)

AEAD = [
    *(Algorithm("rfc4106(gcm(aes))", key, icv) for key in (20, 28, 36) for icv in (64, 96, 128)),
    *(Algorithm("rfc4309(ccm(aes))", key, icv) for key in (19, 27, 35) for icv in (64, 96, 128)),
    *(Algorithm("rfc4543(gcm(aes))", key, 128) for key in (20, 28, 36)),
    Algorithm("rfc7539esp(chacha20,poly1305)", 36, 128),
]

CIPHERS = {
    "cbc(aes)": (16, 24, 32),
    "rfc3686(ctr(aes))": (20, 28, 36),
    "cbc(des3_ede)": (24,),
    "ecb(cipher_null)": (0,),
    "cbc(camellia)": (16, 24, 32),
    "cbc(cast5)": (16,),
    "cbc(blowfish)": (16,),
    "cbc(des)": (8,),
}
AUTHS = [
    ("hmac(md5)", 16, 96), ("hmac(sha1)", 20, 96), ("hmac(sha256)", 32, 96), ("hmac(sha256)", 32, 128),
    ("hmac(sha384)", 48, 192), ("hmac(sha512)", 64, 256), ("xcbc(aes)", 16, 96), ("cmac(aes)", 16, 96),
    ("hmac(rmd160)", 20, 96),
]  # fmt: skip
"""Name, length of the key in bytes, of the ICV in bits."""

COMBINED = [
    # Every key of every cipher with one auth, every auth with one cipher, and integrity or secrecy alone.
    *(Algorithm(cipher, key, 128, "hmac(sha256)", 32) for cipher, keys in CIPHERS.items() for key in keys),
    *(Algorithm("cbc(aes)", 16, bits, auth, key) for auth, key, bits in AUTHS if (auth, bits) != ("hmac(sha256)", 128)),
    Algorithm("ecb(cipher_null)", 0, 96, "cmac(aes)", 16),
    Algorithm("cbc(aes)", 32),
    Algorithm("rfc3686(ctr(aes))", 20),
]

ALGORITHMS = AEAD + COMBINED
