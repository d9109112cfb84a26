"""core.algo_aead: combined modes against published vectors (kernel-behaviour 4.1)."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests.core.algorithms import CCM, CHACHA, COMBINED, GCM, GMAC, combined, key
from tests.each import each
from xfrmi.core.algo import transform_for
from xfrmi.core.algo_aead import CombinedMode
from xfrmi.core.transform import BadIcv, Transform
from xfrmi.wire.xfrm_types import Algorithm, StateInfo

# draft-mcgrew-gcm-test-01: (key, salt), SPI, upper half with ESN, lower half, IV, plaintext, sealed
GCM_VECTORS = [
    pytest.param(
        "4c80cdefbb5d10da906ac73c3613a6342e443b68", "00004321", "87654321", "00000000", "4956ed7e3b244cfe",
        "45000048699a000080114db7c0a80102c0a801010a9bf15638d30100000100000000"
        "0000045f736970045f756470037369700963796265726369747902646b000021000101020201",
        "fecf537e729d5b07dc30df528dd22b768d1b98736696a6fd348509fa13ceac34cfa2436f14a3f3cf65925bf1f4a13c5d"
        "15b21e1884f5ff6247aeabb786b93bce61bc17d768fd9732" "459018148f6cbe722fd04796562dfdb4",
        id="128 bits, ESN",
    ),
    pytest.param(
        "feffe9928665731c6d6a8f9467308308feffe9928665731ccafebabe", "0000a5f8", "", "0000000a", "facedbaddecaf888",
        "45000028a4ad4000400678800a01038f0a010612802306b8cb712602dd6bb03e501016d075680001",
        "a5b1f8066029aea40e598b8122de02420938b3ab33f828e687b8858b5bfbdbd0315b27452144cc77"
        "95457b9652037f5318027b5b4cd7a636",
        id="192 bits",
    ),
    pytest.param(
        "abbccddef00112233445566778899aababbccddef00112233445566778899aab11223344", "4a2cbfe3", "", "00000002",
        "0102030405060708",
        "4500003069a6400080062690c0a801029389155e0a9e008b2dc57ee0000000007002400020bf0000020405b40101040201020201",
        "ff425c9b724599df7a3bcd510194e00d6a78107f1b0b1cbf06efae9d65a5d763748a637985771d347f0545659f14e99def842d8e"
        "b335f4eecfdbf831824b4c4915956c96",
        id="256 bits",
    ),
]  # fmt: skip


def transform(name: str, key: str, bits: int = 128) -> Transform:
    return transform_for(StateInfo(aead=Algorithm(name, bytes.fromhex(key), bits)))


def assert_seals(cipher: Transform, head: str, hi: str, iv: str, plaintext: str, sealed: str) -> None:
    """And opens again; `sealed` is as long as its ICV."""
    parts = bytes.fromhex(head), bytes.fromhex(hi), bytes.fromhex(iv)
    assert cipher.seal(*parts, bytes.fromhex(plaintext)).hex() == sealed
    assert cipher.open(*parts, bytes.fromhex(sealed)).hex() == plaintext


@pytest.mark.parametrize("bits", [64, 96, 128])
@pytest.mark.parametrize(("key", "spi", "hi", "lo", "iv", "plaintext", "sealed"), GCM_VECTORS)
def test_rfc_4106(bits: int, key: str, spi: str, hi: str, lo: str, iv: str, plaintext: str, sealed: str) -> None:
    """A shorter ICV is the front of the long one."""
    cipher = transform(GCM, key, bits)
    assert_seals(cipher, spi + lo, hi, iv, plaintext, sealed[: len(plaintext) + bits // 4])
    assert (cipher.iv_len, cipher.icv_len, cipher.align, cipher.random_iv) == (8, bits // 8, 4, False)


def test_rfc_4543() -> None:
    """draft-mcgrew-gcm-test-01 section 5."""
    plaintext = (
        "45000030da3a00008001df3bc0a80005c0a800010800c6cd02000700"
        "6162636465666768696a6b6c6d6e6f707172737401020201"
    )  # fmt: skip
    cipher = transform(GMAC, "4c80cdefbb5d10da906ac73c3613a63422433c64")
    icv = "f2a9a836e155106aa8dcd618e4099aaa"
    assert_seals(cipher, "0000432100000007", "", "0000000000000000", plaintext, plaintext + icv)


def test_rfc_7634() -> None:
    """Appendix A."""
    plaintext = (
        "45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec100007362708090a0b0c0d0e0f1011121314151617"
        "18191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f303132333435363701020204"
    )
    sealed = (
        "24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c614ee8099d52844eb61aa95dfab4c02f72aa71e7c"
        "4c4f64c9befe2facc638e8f3cbec163fac469b502773f6fb94e664da9165b82829f641e0"
        "76aaa8266b7fb0f7b11b369907e1ad43"
    )
    cipher = transform(CHACHA, bytes(range(0x80, 0xA4)).hex())
    assert_seals(cipher, "0102030400000005", "", "1011121314151617", plaintext, sealed)


def ccm(key: bytes, nonce: bytes, aad: bytes, plaintext: bytes, icv_len: int) -> bytes:
    """CCM as in RFC 3610 section 2, with a length field of 4 bytes (RFC 4309 section 4): CBC-MAC, then counters."""

    def blocks(data: bytes) -> bytes:
        return data + bytes(-len(data) % 16)

    first = bytes((0x40 | (icv_len - 2) // 2 << 3 | 3,)) + nonce + len(plaintext).to_bytes(4, "big")
    covered = first + blocks(len(aad).to_bytes(2, "big") + aad) + blocks(plaintext)
    mac = Cipher(algorithms.AES(key), modes.CBC(bytes(16))).encryptor().update(covered)[-16:]
    counters = Cipher(algorithms.AES(key), modes.CTR(b"\x03" + nonce + bytes(4))).encryptor()
    mask = counters.update(bytes(16))
    return counters.update(plaintext) + bytes(a ^ b for a, b in zip(mac, mask, strict=True))[:icv_len]


@each("hi", [b"", b"\0\0\0\7"])
@each("bits", [64, 96, 128])
@each("key_len", [19, 27, 35])
def test_rfc_4309(key_len: int, bits: int, hi: bytes) -> None:
    """The RFC has no vectors: the mode is put together from AES once more. Kernel captures cover it too."""
    material, head, iv = key(key_len), b"SPI.\0\0\0\1", b"87654321"
    cipher = transform(CCM, material.hex(), bits)
    for length in (0, 4, 16, 20, 1400):
        plaintext = key(length)
        sealed = ccm(material[:-3], material[-3:] + iv, head[:4] + hi + head[4:], plaintext, bits // 8)
        assert_seals(cipher, head.hex(), hi.hex(), iv.hex(), plaintext.hex(), sealed.hex())


@each("fields", COMBINED.values(), ids=COMBINED)
def test_everything_is_authenticated(fields: dict[str, Algorithm]) -> None:
    """A.10: SPI, both halves of the number, IV, ciphertext, and every bit of a truncated ICV."""
    cipher = transform_for(StateInfo(**fields))
    head, hi, iv, plaintext = bytes(range(8)), b"\x00\x00\x00\x01", bytes(8), b"payload!"
    sealed = cipher.seal(head, hi, iv, plaintext)
    assert cipher.open(head, hi, iv, sealed) == plaintext
    for part in range(4):
        parts = [head, hi, iv, sealed]
        for bit in range(8 * len(parts[part])):
            changed = bytearray(parts[part])
            changed[bit // 8] ^= 1 << bit % 8
            with pytest.raises(BadIcv):
                cipher.open(*parts[:part], bytes(changed), *parts[part + 1 :])
    with pytest.raises(BadIcv):
        cipher.open(head, b"", iv, sealed)


@pytest.mark.parametrize("name", [GCM, CCM, GMAC, CHACHA])
def test_a_combined_mode_is_keyed_once_and_late(name: str) -> None:
    """The cipher context costs more than a whole idle state."""
    cipher = transform_for(StateInfo(**combined(name, {CCM: 19, CHACHA: 36}.get(name, 20))))
    assert isinstance(cipher, CombinedMode) and cipher._cipher is None
    cipher.seal(bytes(8), b"", bytes(8), bytes(4))
    assert cipher.cipher is cipher.cipher is cipher._cipher
