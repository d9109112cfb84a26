"""core.algo: AES-GCM ESP against published vectors, and what the kernel answers to names, lengths and keys (4, 7.4)."""

from __future__ import annotations

import errno

import pytest

from xfrmi.core.algo import AEADS, ALIASES, AUTHS, COMPS, CRYPTS, attach, transform_for
from xfrmi.core.algo_aead import AesGcm
from xfrmi.core.transform import BadIcv, Transform
from xfrmi.errors import XfrmError
from xfrmi.wire.xfrm_types import Algorithm, StateInfo

GCM = "rfc4106(gcm(aes))"

# draft-mcgrew-gcm-test-01 section 4: (key, salt), SPI, upper half with ESN, lower half, IV, plaintext, sealed
DRAFT = [
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


def transform(key: bytes = bytes(20), bits: int = 128) -> Transform:
    return transform_for(StateInfo(aead=Algorithm(GCM, key, bits)))


@pytest.mark.parametrize("bits", [64, 96, 128])
@pytest.mark.parametrize(("key", "spi", "hi", "lo", "iv", "plaintext", "sealed"), DRAFT)
def test_published_vectors(
    bits: int, key: str, spi: str, hi: str, lo: str, iv: str, plaintext: str, sealed: str
) -> None:
    """RFC 4106; a shorter ICV is the front of the long one."""
    cipher = transform(bytes.fromhex(key), bits)
    head, upper = bytes.fromhex(spi + lo), bytes.fromhex(hi)
    expected = bytes.fromhex(sealed)[: len(plaintext) // 2 + bits // 8]
    assert cipher.seal(head, upper, bytes.fromhex(iv), bytes.fromhex(plaintext)) == expected
    assert cipher.open(head, upper, bytes.fromhex(iv), expected) == bytes.fromhex(plaintext)
    assert (cipher.iv_len, cipher.icv_len, cipher.align) == (8, bits // 8, 4)


@pytest.mark.parametrize("bits", [64, 96, 128])
def test_everything_is_authenticated(bits: int) -> None:
    """A.10: SPI, both halves of the number, IV, ciphertext, and every bit of a truncated ICV."""
    cipher = transform(bits=bits)
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


@pytest.mark.parametrize("bits", [64, 96, 128])
def test_views_are_as_good_as_bytes(bits: int) -> None:
    cipher = transform(bits=bits)
    sealed = cipher.seal(memoryview(bytes(8)), b"abcd", memoryview(bytes(8)), memoryview(b"payload!"))
    assert cipher.open(memoryview(bytes(8)), b"abcd", memoryview(bytes(8)), memoryview(sealed)) == b"payload!"


def test_a_transform_is_keyed_once_and_late() -> None:
    """The cipher context costs more than a whole idle state."""
    cipher = transform()
    assert isinstance(cipher, AesGcm) and cipher._cipher is None
    cipher.seal(bytes(8), b"", bytes(8), bytes(4))
    assert cipher.cipher is cipher.cipher is cipher._cipher


def refusal(info: StateInfo) -> tuple[int, str]:
    with pytest.raises(XfrmError) as caught:
        attach(info)
        transform_for(info)
    assert caught.value.detail, "says what is wrong with which name"
    return caught.value.errno, caught.value.extack


NOT_FOUND = [
    (StateInfo(aead=Algorithm("nosuch", bytes(20), 128)), "AEAD"),
    (StateInfo(aead=Algorithm(GCM, bytes(20), 120)), "AEAD"),
    (StateInfo(aead=Algorithm("aes", bytes(20), 128)), "AEAD"),
    (StateInfo(auth=Algorithm("nosuch", bytes(32))), "AUTH"),
    (StateInfo(auth_trunc=Algorithm("nosuch", b"", 96), auth=Algorithm("nosuch", b"")), "AUTH_TRUNC"),
    (StateInfo(crypt=Algorithm("serpent", bytes(16))), "CRYPT"),
    (StateInfo(crypt=Algorithm("cbc(twofish)", bytes(16))), "CRYPT"),
    (StateInfo(crypt=Algorithm("nosuch", bytes(16))), "CRYPT"),
    (StateInfo(comp=Algorithm("deflate", b"")), "COMP"),
    (StateInfo(comp=Algorithm("nosuch", b"")), "COMP"),
    (StateInfo(auth=Algorithm("nosuch", b""), crypt=Algorithm("nosuch", b"")), "AUTH"),
]


@pytest.mark.parametrize(("info", "kind"), NOT_FOUND)
def test_enosys_names_the_kind(info: StateInfo, kind: str) -> None:
    """Unknown names, odd ICVs, and what is not offered, as a kernel without it; AEAD, AUTH, CRYPT, COMP in order."""
    assert refusal(info) == (errno.ENOSYS, f"Requested {kind} algorithm not found")


def test_truncation_beyond_the_digest() -> None:
    info = StateInfo(auth_trunc=Algorithm("hmac(md5)", bytes(16), 129))
    assert refusal(info) == (errno.EINVAL, "Invalid length requested for truncated ICV")


@pytest.mark.parametrize("length", [0, 4, 16, 19, 21, 24, 32, 37])
def test_a_key_of_the_wrong_length(length: int) -> None:
    info = StateInfo(aead=Algorithm(GCM, b"\xaa" * length, 128))
    assert refusal(info) == (errno.EINVAL, "Kernel was unable to initialize cryptographic operations")


def test_no_cipher_at_all() -> None:
    with pytest.raises(XfrmError) as caught:
        transform_for(StateInfo())
    assert (caught.value.errno, caught.value.extack) == (errno.EINVAL, "ESP: AEAD or CRYPT must be provided")


def test_keys_stay_out_of_errors() -> None:
    key = b"\xde\xad\xbe\xef" * 4
    for info in (
        StateInfo(aead=Algorithm(GCM, key, 128)),
        StateInfo(aead=Algorithm("nosuch", key, 128)),
        StateInfo(crypt=Algorithm("twofish", key)),
        StateInfo(crypt=Algorithm("aes", key + key[:1])),
    ):
        with pytest.raises(XfrmError) as caught:
            attach(info)
            transform_for(info)
        assert "dead" not in str(caught.value) and repr(key) not in repr(caught.value)


def test_aliases_lead_somewhere() -> None:
    known = {**AEADS, **CRYPTS, **AUTHS, **COMPS}
    assert all(name in known and alias not in known for alias, name in ALIASES.items())
