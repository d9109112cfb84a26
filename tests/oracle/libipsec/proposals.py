"""What libipsec can do, in strongSwan's words, and the same in ours.

libipsec 5.9.8 refuses ESN ("ESN not supported"), GMAC and HMAC-SHA-256 cut to 96 bits; transport mode, BEET and ESP
without UDP are not for it at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Proposal:
    name: str
    """As `esp_proposals` of swanctl.conf has it."""
    words: str
    """As `state add` has it, {enc} and {auth} for the keys."""

    @property
    def key_bits(self) -> int:
        """Of the cipher."""
        if match := re.match(r"(?:aes|camellia|blowfish|cast)(\d+)", self.name):
            return int(match[1])
        return {"3des": 192, "des": 64, "null": 0, "chacha20poly1305": 256}[self.name.partition("-")[0]]

    @property
    def secret(self) -> bool:
        return "null" not in self.name

    def with_keys(self, keys: dict[str, bytes]) -> str:
        return self.words.format(**{name: "0x" + key.hex() for name, key in keys.items()})


AEAD = [
    *(
        Proposal(f"aes{bits}{mode}{icv}", f"aead {name} {{enc}} {8 * icv}")
        for mode, name in (("gcm", "rfc4106(gcm(aes))"), ("ccm", "rfc4309(ccm(aes))"))
        for bits in (128, 192, 256)
        for icv in (8, 12, 16)
    ),
    Proposal("chacha20poly1305", "aead rfc7539esp(chacha20,poly1305) {enc} 128"),
]

AUTHS = {
    "md5": "auth-trunc hmac(md5) {auth} 96",
    "sha1": "auth-trunc hmac(sha1) {auth} 96",
    "sha256": "auth-trunc hmac(sha256) {auth} 128",
    "sha384": "auth-trunc hmac(sha384) {auth} 192",
    "sha512": "auth-trunc hmac(sha512) {auth} 256",
    "aesxcbc": "auth-trunc xcbc(aes) {auth} 96",
    "aescmac": "auth-trunc cmac(aes) {auth} 96",
}
CIPHERS = {
    **{f"aes{bits}": "enc cbc(aes) {enc}" for bits in (128, 192, 256)},
    **{f"aes{bits}ctr": "enc rfc3686(ctr(aes)) {enc}" for bits in (128, 192, 256)},
    **{f"camellia{bits}": "enc cbc(camellia) {enc}" for bits in (128, 192, 256)},
    "cast128": "enc cbc(cast5) {enc}",
    "blowfish128": "enc cbc(blowfish) {enc}",
    "des": "enc cbc(des) {enc}",
    "3des": "enc cbc(des3_ede) {enc}",
    "null": "enc ecb(cipher_null) ''",
}
COMBINED = [
    # Every cipher with one auth, every auth with one cipher, and integrity alone.
    *(Proposal(f"{cipher}-sha256", f"{AUTHS['sha256']} {words}") for cipher, words in CIPHERS.items()),
    *(Proposal(f"aes128-{auth}", f"{words} {CIPHERS['aes128']}") for auth, words in AUTHS.items() if auth != "sha256"),
    *(Proposal(f"null-{auth}", f"{AUTHS[auth]} {CIPHERS['null']}") for auth in ("sha1", "aescmac")),
]

PROPOSALS = AEAD + COMBINED
