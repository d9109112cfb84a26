"""core.algo_cipher: ciphers against published vectors (kernel-behaviour 4.2)."""

from __future__ import annotations

import pytest

from tests.each import each
from xfrmi.core.algo import CRYPTS
from xfrmi.core.algo_cipher import AesCtr, Cbc, Cipher
from xfrmi.errors import Drop
from xfrmi.wire.xfrm_const import XfrmStat
from xfrmi.wire.xfrm_types import Algorithm

ICMP = "".join(f"{byte:02x}" for byte in range(8, 0x38))
"""What ping fills its packets with."""
DES_KEYS = "0123456789abcdef" "23456789abcdef01" "456789abcdef0123"  # fmt: skip
FOX = b"The qufck brown fox jump".hex()

# name, source, key, IV, plaintext, ciphertext
VECTORS = [
    # RFC 3602 section 4; cases 5 to 8 are whole ESP payloads
    ("cbc(aes)", "RFC 3602 1", "06a9214036b8a15b512e03d534120006", "3dafba429d9eb430b422da802c9fac41",
     b"Single block msg".hex(), "e353779c1079aeb82708942dbe77181a"),
    ("cbc(aes)", "RFC 3602 2", "c286696d887c9aa0611bbb3e2025a45a", "562e17996d093d28ddb3ba695a2e6f58",
     bytes(range(32)).hex(), "d296cd94c2cccf8a3a863028b5e1dc0a7586602d253cfff91b8266bea6d61ab1"),
    ("cbc(aes)", "RFC 3602 5", "90d382b410eeba7ad938c46cec1a82bf", "e96e8c08ab465763fd098d45dd3ff893",
     f"08000ebda70a00008e9c083db95b0700{ICMP}0102030405060708090a0b0c0d0e0e01",
     "f663c25d325c18c6a9453e194e120849a4870b66cc6b9965330013b4898dc856a4699e523a55db080b59ec3a8e4b7e52"
     "775b07d1db34ed9c538ab50c551b874aa269add047ad2d5913ac19b7cfbad4a6"),
    ("cbc(aes)", "RFC 3602 6", "90d382b410eeba7ad938c46cec1a82bf", "69d08df7d203329db093fc4924e5bd80",
     "0800b5e8a80a0500a69c083d0b660e0077777777777777777777777701020201",
     "f51995881ec4e0c4488987ce742e8109689bb379d2d750c0d915dca346a89f75"),
    ("cbc(aes)", "RFC 3602 7", "0123456789abcdef0123456789abcdef", "f4e765244f6407adf13dc1380f673f37",
     f"45000054090400004001f988c0a87b03c0a87bc808009f76a90a0100b49c083d02a20400{ICMP}0102030405060708090a0a04",
     "773b5241a4c449225e4f3ce5ed611b0c237ca96cf74a93013c1b0ea1a0cf70f8e4ecaec78ac53aad7a0f022b859243c6"
     "47752e94a859352b8a4d4d2decd136e5c177f132ad3fbfb2201ac9904c74ee0a109e0ca1e4dfe9d5a100b842f1c22f0d"),
    ("cbc(aes)", "RFC 3602 8", "0123456789abcdef0123456789abcdef", "85d47224b5f3dd5d2101d4ea8dffab22",
     f"45000044090c00004001f990c0a87b03c0a87bc80800d63caa0a0200c69c083da3de0300{'ff' * 32}"
     "0102030405060708090a0a04",
     "15b92683819596a8047232cc00f7048fe45318e11f8a0f62ede3c3fc61203bb50f980a08c9843fd3a1b06d5c07ff9639"
     "b7eb7dfb3512e5de435e7207ed971ef3d2726d9b5ef6affc6d17a0decbb13892"),
    # RFC 3686 section 6; the key has the nonce at its end
    ("rfc3686(ctr(aes))", "RFC 3686 1", "ae6852f8121067cc4bf7a5765577f39e00000030", "0000000000000000",
     b"Single block msg".hex(), "e4095d4fb7a7b3792d6175a3261311b8"),
    ("rfc3686(ctr(aes))", "RFC 3686 2", "7e24067817fae0d743d6ce1f32539163006cb6db", "c0543b59da48d90b",
     bytes(range(32)).hex(), "5104a106168a72d9790d41ee8edad388eb2e1efc46da57c8fce630df9141be28"),
    ("rfc3686(ctr(aes))", "RFC 3686 3", "7691be035e5020a8ac6e618529f9a0dc00e0017b", "27777f3f4a1786f0",
     bytes(range(36)).hex(), "c1cf48a89f2ffdd9cf4652e9efdb72d74540a42bde6d7836d59a5ceaaef3105325b2072f"),
    ("rfc3686(ctr(aes))", "RFC 3686 4", "16af5b145fc9f579c175f93e3bfb0eed863d06ccfdb7851500000048",
     "36733c147d6d93cb", b"Single block msg".hex(), "4b55384fe259c9c84e7935a003cbe928"),
    ("rfc3686(ctr(aes))", "RFC 3686 7",
     "776beff2851db06f4c8a0542c8696f6c6a81af1eec96b4d37fc1d689e6c1c10400000060", "db5672c97aa8f0b2",
     b"Single block msg".hex(), "145ad01dbf824ec7560863dc71e3e0c0"),
    # Blocks without a chain: the IV is zero
    ("cbc(des)", "Grabbe", "133457799bbcdff1", "00" * 8, "0123456789abcdef", "85e813540f0ab405"),
    ("cbc(des3_ede)", "SP 800-67 B.1", DES_KEYS, "00" * 8, FOX[:16], "a826fd8ce53b855f"),
    ("cbc(des3_ede)", "SP 800-67 B.1", DES_KEYS, "00" * 8, FOX[16:32], "cce21c8112256fe6"),
    ("cbc(des3_ede)", "SP 800-67 B.1", DES_KEYS, "00" * 8, FOX[32:], "68d5c05dd9b6b900"),
    # RFC 2144 appendix B.1: 80 bits and fewer are 12 rounds
    ("cbc(cast5)", "RFC 2144", "0123456712345678234567893456789a", "00" * 8, "0123456789abcdef", "238b4fe5847e44b2"),
    ("cbc(cast5)", "RFC 2144", "01234567123456782345", "00" * 8, "0123456789abcdef", "eb6a711a2c02271b"),
    ("cbc(cast5)", "RFC 2144", "0123456712", "00" * 8, "0123456789abcdef", "7ac816d16e9b302e"),
    # Schneier's vectors
    ("cbc(blowfish)", "Schneier", "f0e1d2c3", "00" * 8, "fedcba9876543210", "be1e639408640f05"),
    ("cbc(blowfish)", "Schneier", "f0e1d2c3b4a5968778695a4b3c2d1e0f", "00" * 8, "fedcba9876543210",
     "93142887ee3be15c"),
    ("cbc(blowfish)", "Schneier", "0123456789abcdeff0e1d2c3b4a59687", "fedcba9876543210",
     b"7654321 Now is the time for \0\0\0\0".hex(),
     "6b77b4d63006dee605b156e27403979358deb9e7154616d959f1652bd5ff92cc"),
    # RFC 3713 appendix A
    ("cbc(camellia)", "RFC 3713", "0123456789abcdeffedcba9876543210", "00" * 16,
     "0123456789abcdeffedcba9876543210", "67673138549669730857065648eabe43"),
    ("cbc(camellia)", "RFC 3713", "0123456789abcdeffedcba98765432100011223344556677", "00" * 16,
     "0123456789abcdeffedcba9876543210", "b4993401b3e996f84ee5cee7d79b09b9"),
    ("cbc(camellia)", "RFC 3713", "0123456789abcdeffedcba987654321000112233445566778899aabbccddeeff", "00" * 16,
     "0123456789abcdeffedcba9876543210", "9acc237dff16d76c20ef7c919e3a7509"),
    # RFC 8998, GB/T 32907-2016
    ("cbc(sm4)", "GB/T 32907", "0123456789abcdeffedcba9876543210", "00" * 16,
     "0123456789abcdeffedcba9876543210", "681edf34d206965e86b3e94f536e4246"),
    ("ecb(cipher_null)", "RFC 2410", "", "", b"Network Security People Have A Strange Sense Of Humor\0\0\0".hex(),
     b"Network Security People Have A Strange Sense Of Humor\0\0\0".hex()),
]  # fmt: skip


def cipher(name: str, key: str) -> Cipher:
    return CRYPTS[name].make(Algorithm(name, bytes.fromhex(key)))


@each(
    ("name", "key", "iv", "plaintext", "ciphertext"),
    [pytest.param(name, *rest, id=f"{name} {source} {8 * len(rest[0]) // 2}") for name, source, *rest in VECTORS],
)
def test_published_vectors(name: str, key: str, iv: str, plaintext: str, ciphertext: str) -> None:
    """Three times each: a context that has encrypted another packet before encrypts the next one as well."""
    one = cipher(name, key)
    assert len(iv) == 2 * one.iv_len and len(key) // 2 in CRYPTS[name].key_lens
    for _ in range(3):
        assert one.encrypt(bytes.fromhex(iv), bytes.fromhex(plaintext)).hex() == ciphertext
        assert one.decrypt(bytes.fromhex(iv), bytes.fromhex(ciphertext)).hex() == plaintext


def test_every_cipher_offered_has_a_vector() -> None:
    assert {vector[0] for vector in VECTORS} == set(CRYPTS)


@pytest.mark.parametrize("name", ["cbc(aes)", "cbc(des3_ede)"])
def test_what_is_not_a_number_of_blocks_is_dropped_and_spoils_nothing(name: str) -> None:
    """As the kernel: an error, not a wrong ICV."""
    key = "0123456789abcdef" * 3
    one, other = cipher(name, key), cipher(name, key)
    iv = bytes(one.iv_len)
    for length in (1, one.iv_len - 1, one.iv_len + 1):
        with pytest.raises(Drop) as caught:
            one.decrypt(iv, bytes(length))
        assert caught.value.stat == XfrmStat.IN_STATE_PROTO_ERROR
    assert one.decrypt(iv, bytes(32)) == other.decrypt(iv, bytes(32))
    assert one.decrypt(iv, b"") == b""


def test_ciphers_are_keyed_late() -> None:
    cbc, ctr = cipher("cbc(aes)", "00" * 16), cipher("rfc3686(ctr(aes))", "00" * 20)
    assert isinstance(cbc, Cbc) and cbc._encryptor is cbc._decryptor is None
    assert isinstance(ctr, AesCtr) and ctr._context is None


def test_which_ivs_must_be_random() -> None:
    """RFC 3602 section 3 and RFC 3686 section 3.1: unpredictable for CBC, never repeated for counter mode."""
    random = {name: cipher(name, "00" * entry.key_lens[-1]).random_iv for name, entry in CRYPTS.items()}
    assert [name for name, chance in random.items() if not chance] == ["rfc3686(ctr(aes))"]
