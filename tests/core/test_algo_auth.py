"""core.algo_auth: ICVs against published vectors (kernel-behaviour 4.3)."""

from __future__ import annotations

import pytest

from tests.each import each
from xfrmi.core.algo import AUTHS
from xfrmi.core.algo_auth import AesCmac, AesXcbc, Hmac
from xfrmi.wire.xfrm_types import Algorithm

AES_KEY = "000102030405060708090a0b0c0d0e0f"
NIST_KEY = "2b7e151628aed2a6abf7158809cf4f3c"
NIST_TEXT = (
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
NIST_192 = "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b"
NIST_256 = "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"


def text(string: str) -> str:
    return string.encode().hex()


JEFE = text("Jefe"), text("what do ya want for nothing?")
SHORT = text("Test With Truncation")
LARGER = text("Test Using Larger Than Block-Size Key - Hash Key First")

# name, source, key, data, ICV (or the front of it)
VECTORS = [
    ("hmac(md5)", "RFC 2202 1", "0b" * 16, text("Hi There"), "9294727a3638bb1c13f48ef8158bfc9d"),
    ("hmac(md5)", "RFC 2202 2", *JEFE, "750c783e6ab0b503eaa86e310a5db738"),
    ("hmac(md5)", "RFC 2202 5", "0c" * 16, SHORT, "56461ef2342edc00f9bab995"),
    ("hmac(md5)", "RFC 2202 6", "aa" * 80, LARGER, "6b1ab7fe4bd7bf8f0b62e6ce61b9d0cd"),
    ("hmac(sha1)", "RFC 2202 1", "0b" * 20, text("Hi There"), "b617318655057264e28bc0b6fb378c8ef146be00"),
    ("hmac(sha1)", "RFC 2202 2", *JEFE, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
    ("hmac(sha1)", "RFC 2202 5", "0c" * 20, SHORT, "4c1a03424b55e07fe7f27be1"),
    ("hmac(sha1)", "RFC 2202 6", "aa" * 80, LARGER, "aa4ae5e15272d00e95705637ce8a3b55ed402112"),
    ("hmac(sha256)", "RFC 4231 1", "0b" * 20, text("Hi There"),
     "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
    ("hmac(sha256)", "RFC 4231 5", "0c" * 20, SHORT, "a3b6167473100ee06e0c796c2955552b"),
    ("hmac(sha384)", "RFC 4231 1", "0b" * 20, text("Hi There"),
     "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59cfaea9ea9076ede7f4af152e8b2fa9cb6"),
    ("hmac(sha384)", "RFC 4231 5", "0c" * 20, SHORT, "3abf34c3503b2a23a46efc619baef897"),
    ("hmac(sha512)", "RFC 4231 1", "0b" * 20, text("Hi There"),
     "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cde"
     "daa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854"),
    ("hmac(sha512)", "RFC 4231 5", "0c" * 20, SHORT, "415fad6271580a531d4179bc891d87a6"),
    ("hmac(rmd160)", "RFC 2286 1", "0b" * 20, text("Hi There"), "24cb4bd67d20fc1a5d2ed7732dcc39377f0a5668"),
    ("hmac(sm3)", "GM/T 0042 D.3", bytes(range(1, 33)).hex(),
     text("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq" * 2),
     "ca05e144ed05d1857840d1f318a4a8669e559fc8391f414485bfdf7bb408963a"),
    ("xcbc(aes)", "RFC 3566 1", AES_KEY, "", "75f0251d528ac01c4573dfd584d79f29"),
    ("xcbc(aes)", "RFC 3566 2", AES_KEY, "000102", "5b376580ae2f19afe7219ceef172756f"),
    ("xcbc(aes)", "RFC 3566 3", AES_KEY, AES_KEY, "d2a246fa349b68a79998a4394ff7a263"),
    ("xcbc(aes)", "RFC 3566 4", AES_KEY, bytes(range(20)).hex(), "47f51b4564966215b8985c63055ed308"),
    ("xcbc(aes)", "RFC 3566 5", AES_KEY, bytes(range(32)).hex(), "f54f0ec8d2b9f3d36807734bd5283fd4"),
    ("xcbc(aes)", "RFC 3566 6", AES_KEY, bytes(range(34)).hex(), "becbb3bccdb518a30677d5481fb6b4d8"),
    ("xcbc(aes)", "RFC 3566 7", AES_KEY, "00" * 1000, "f0dafee895db30253761103b5d84528f"),
    ("cmac(aes)", "RFC 4493 1", NIST_KEY, "", "bb1d6929e95937287fa37d129b756746"),
    ("cmac(aes)", "RFC 4493 2", NIST_KEY, NIST_TEXT[:32], "070a16b46b4d4144f79bdd9dd04a287c"),
    ("cmac(aes)", "RFC 4493 3", NIST_KEY, NIST_TEXT[:80], "dfa66747de9ae63030ca32611497c827"),
    ("cmac(aes)", "RFC 4493 4", NIST_KEY, NIST_TEXT, "51f0bebf7e3b9d92fc49741779363cfe"),
    ("cmac(aes)", "SP 800-38B", NIST_192, NIST_TEXT[:32], "9e99a7bf31e710900662f65e617c5184"),
    ("cmac(aes)", "SP 800-38B", NIST_256, NIST_TEXT[:32], "28a7023f452e8f82bd4bf28d8c37c35c"),
    ("digest_null", "nothing", "00" * 9, text("anything"), ""),
]  # fmt: skip


@each(
    ("name", "key", "data", "icv"),
    [pytest.param(name, *rest, id=f"{name} {source}") for name, source, *rest in VECTORS],
)
def test_published_vectors(name: str, key: str, data: str, icv: str) -> None:
    """Whole, truncated as by default, and to a byte; again and again, since the key is worked on only once."""
    entry = AUTHS[name]
    for bits in {entry.full_bits, entry.default_bits, min(8, entry.full_bits)}:
        authenticator = entry.make(Algorithm(name, bytes.fromhex(key), bits))
        assert authenticator.icv_len == bits // 8
        for _ in range(3):
            made = authenticator.icv(bytes.fromhex(data)).hex()
            assert len(made) == bits // 4
            assert made[: len(icv)] == icv[: len(made)]


def test_every_authenticator_has_a_vector() -> None:
    assert {vector[0] for vector in VECTORS} == set(AUTHS)


def test_authenticators_are_keyed_late() -> None:
    key = Algorithm("", bytes(16), 96)
    assert Hmac("sha256", key)._context is AesCmac(key)._context is AesXcbc(key)._keys is None
