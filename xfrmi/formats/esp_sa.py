"""States as lines of Wireshark's table of ESP keys, `esp_sa`: with them it decrypts what it shows.

The names of algorithms are Wireshark's. AES-CCM, AES-GMAC, Camellia, SM4, XCBC, CMAC and HMAC-SM3 are not in its table,
and ChaCha20-Poly1305 only with an IV that does not travel; packets of such states stay encrypted.
"""

from __future__ import annotations

from collections.abc import Iterable

from xfrmi.wire.address import format_address
from xfrmi.wire.xfrm_const import IPPROTO_ESP, STATE_ESN
from xfrmi.wire.xfrm_types import StateInfo

_GCM = "rfc4106(gcm(aes))"
_CIPHERS = {
    "ecb(cipher_null)": "NULL",
    "cbc(aes)": "AES-CBC [RFC3602]",
    "rfc3686(ctr(aes))": "AES-CTR [RFC3686]",
    "cbc(des)": "DES-CBC [RFC2405]",
    "cbc(des3_ede)": "TripleDES-CBC [RFC2451]",
    "cbc(cast5)": "CAST5-CBC [RFC2144]",
    "cbc(blowfish)": "BLOWFISH-CBC [RFC2451]",
}
_OF_128_BITS = ("cbc(cast5)", "cbc(blowfish)")
"""Wireshark takes no other keys for these."""
_AUTHS = {
    ("hmac(md5)", 96): "HMAC-MD5-96 [RFC2403]",
    ("hmac(sha1)", 96): "HMAC-SHA-1-96 [RFC2404]",
    ("hmac(sha256)", 96): "HMAC-SHA-256-96 [draft-ietf-ipsec-ciph-sha-256-00]",
    ("hmac(sha256)", 128): "HMAC-SHA-256-128 [RFC4868]",
    ("hmac(sha384)", 192): "HMAC-SHA-384-192 [RFC4868]",
    ("hmac(sha512)", 256): "HMAC-SHA-512-256 [RFC4868]",
    ("hmac(rmd160)", 96): "MAC-RIPEMD-160-96 [RFC2857]",
}
_UNCHECKED = (64, 96, 128, 192, 256)
"""Lengths of ICVs, in bits, that Wireshark can step over without checking them."""


def esp_sa_line(info: StateInfo, whole: bool = False) -> str | None:
    """One line, without newline; None for a state whose algorithms Wireshark does not know. It holds the keys.

    `whole` writes all ten columns also without ESN, as a secrets block wants them; older
    versions of Wireshark have eight and warn. With ESN the upper half of the numbers is that which the state has
    reached.
    """
    if info.proto != IPPROTO_ESP or not info.spi or (algorithms := _algorithms(info)) is None:
        return None
    family = "IPv4" if len(info.dst) == 4 else "IPv6"
    columns = [family, format_address(info.src), format_address(info.dst), f"0x{info.spi:08x}", *algorithms]
    if info.flags & STATE_ESN and info.replay_esn is not None:
        columns += ["64-bit", f"0x{max(info.replay_esn.oseq_hi, info.replay_esn.seq_hi):08x}"]
    elif whole:
        columns += ["32-bit", "0x00000000"]
    return ",".join(f'"{column}"' for column in columns)


def esp_sa_lines(infos: Iterable[StateInfo], whole: bool = False) -> tuple[str, int]:
    """(the lines of all states that Wireshark can decrypt, how many states it cannot)."""
    lines = [esp_sa_line(info, whole) for info in infos]
    known = [line for line in lines if line is not None]
    return "".join(f"{line}\n" for line in known), len(lines) - len(known)


def _algorithms(info: StateInfo) -> tuple[str, str, str, str] | None:
    if info.aead is not None:
        if info.aead.name != _GCM:
            return None
        return f"AES-GCM with {info.aead.bits // 8} octet ICV [RFC4106]", _hex(info.aead.key), "NULL", ""
    if info.crypt is None or info.crypt.name not in _CIPHERS:
        return None
    if info.crypt.name in _OF_128_BITS and len(info.crypt.key) != 16:
        return None
    cipher, key = _CIPHERS[info.crypt.name], _hex(info.crypt.key)
    auth = info.auth_trunc or info.auth
    if auth is None or auth.name == "digest_null":
        return cipher, key, "NULL", ""
    if (auth.name, auth.bits) in _AUTHS:
        return cipher, key, _AUTHS[auth.name, auth.bits], _hex(auth.key)
    return (cipher, key, f"ANY {auth.bits} bit authentication [no checking]", "") if auth.bits in _UNCHECKED else None


def _hex(key: bytes) -> str:
    return f"0x{key.hex()}" if key else ""
