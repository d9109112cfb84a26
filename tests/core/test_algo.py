"""core.algo: what the kernel answers to names, lengths and keys of algorithms, and what it keeps of them (4, 7.4)."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from cryptography.exceptions import UnsupportedAlgorithm

from tests.core.algorithms import ALL, CHACHA, CTR, GCM, NULL
from tests.each import each
from xfrmi.core.algo import (
    AEADS,
    ALIASES,
    AUTHS,
    CRYPTS,
    INIT_FAILED,
    NOT_OFFERED,
    Auth,
    Crypt,
    attach,
    settled,
    transform_for,
)
from xfrmi.core.algo_auth import NoAuth
from xfrmi.core.algo_authenc import AuthEnc
from xfrmi.errors import XfrmError
from xfrmi.wire.xfrm_const import STATE_ESN
from xfrmi.wire.xfrm_types import Algorithm, StateInfo

NO_CIPHER = "ESP: AEAD or CRYPT must be provided"
CBC = Algorithm("cbc(aes)", bytes(16))


def refusal(info: StateInfo) -> tuple[int, str]:
    with pytest.raises(XfrmError) as caught:
        attach(info)
        transform_for(info)
    assert caught.value.detail or caught.value.extack == NO_CIPHER, "says what is wrong with which name"
    return caught.value.errno, caught.value.extack


# Names ---------------------------------------------------------------------------------------------------------------

NOT_FOUND = [
    (StateInfo(aead=Algorithm("nosuch", bytes(20), 128)), "AEAD"),
    (StateInfo(aead=Algorithm(GCM, bytes(20), 120)), "AEAD"),
    (StateInfo(aead=Algorithm(CHACHA, bytes(36), 96)), "AEAD"),
    (StateInfo(aead=Algorithm("rfc4543(gcm(aes))", bytes(20), 96)), "AEAD"),
    (StateInfo(aead=Algorithm("aes", bytes(20), 128)), "AEAD"),
    (StateInfo(auth=Algorithm("nosuch", bytes(32)), crypt=CBC), "AUTH"),
    (StateInfo(auth=Algorithm("sha384", bytes(48)), crypt=CBC), "AUTH"),
    (StateInfo(auth_trunc=Algorithm("nosuch", b"", 96), auth=Algorithm("nosuch", b"")), "AUTH_TRUNC"),
    (StateInfo(crypt=Algorithm("serpent", bytes(16))), "CRYPT"),
    (StateInfo(crypt=Algorithm("cbc(twofish)", bytes(16))), "CRYPT"),
    (StateInfo(crypt=Algorithm("nosuch", bytes(16))), "CRYPT"),
    (StateInfo(crypt=Algorithm("rfc3686", bytes(20))), "CRYPT"),
    (StateInfo(comp=Algorithm("deflate", b"")), "COMP"),
    (StateInfo(comp=Algorithm("nosuch", b"")), "COMP"),
    (StateInfo(auth=Algorithm("nosuch", b""), crypt=Algorithm("nosuch", b"")), "AUTH"),
]


@each(("info", "kind"), NOT_FOUND)
def test_enosys_names_the_kind(info: StateInfo, kind: str) -> None:
    """Unknown names, odd ICVs, and what is not offered, as a kernel without it; AEAD, AUTH, CRYPT, COMP in order."""
    assert refusal(info) == (errno.ENOSYS, f"Requested {kind} algorithm not found")


@each("alias", ALIASES)
def test_old_names_are_the_new_ones(alias: str) -> None:
    name = ALIASES[alias]
    assert alias not in {**AEADS, **CRYPTS, **AUTHS}
    if name in NOT_OFFERED:
        assert refusal(StateInfo(crypt=Algorithm(alias, bytes(16))))[0] == errno.ENOSYS
        return
    if name in CRYPTS:
        fields: dict[str, Any] = {"crypt": Algorithm(alias, bytes(CRYPTS[name].key_lens[0]))}
    else:
        fields = {"crypt": Algorithm(NULL, b""), "auth": Algorithm(alias, bytes(16))}
    attach(StateInfo(**fields))
    kinds = "crypt" if name in CRYPTS else "auth_trunc"
    assert settled(StateInfo(**fields))[kinds].name == name
    long = {
        kind: algorithm._replace(name=ALIASES.get(algorithm.name, algorithm.name)) for kind, algorithm in fields.items()
    }
    one, other = transform_for(StateInfo(**fields)), transform_for(StateInfo(**long))
    iv = bytes(one.iv_len)
    assert one.seal(bytes(8), b"", iv, bytes(16)) == other.seal(bytes(8), b"", iv, bytes(16))


def test_not_offered_is_another_sentence_than_unknown() -> None:
    for name in ("cbc(twofish)", "twofish", "nosuch"):
        with pytest.raises(XfrmError) as caught:
            attach(StateInfo(crypt=Algorithm(name, bytes(16))))
        assert ("not offered here" in caught.value.detail) == (name != "nosuch")
    assert NOT_OFFERED.isdisjoint({**AEADS, **CRYPTS, **AUTHS})


@pytest.mark.parametrize("error", [UnsupportedAlgorithm("no such cipher"), ValueError("disabled by policy")])
def test_what_the_libraries_lack_is_not_found(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Not every build of OpenSSL has old algorithms: the answer comes with the request, not with the first packet."""

    def unavailable(_: Algorithm) -> Any:
        raise error

    monkeypatch.setitem(CRYPTS, "cbc(des)", Crypt((8,), unavailable))
    monkeypatch.setitem(AUTHS, "hmac(rmd160)", Auth(160, 96, unavailable))
    assert refusal(StateInfo(crypt=Algorithm("des", bytes(8)))) == (errno.ENOSYS, "Requested CRYPT algorithm not found")
    info = StateInfo(crypt=CBC, auth=Algorithm("rmd160", b""))
    assert refusal(info) == (errno.ENOSYS, "Requested AUTH algorithm not found")


# Lengths -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "bits"), [("hmac(md5)", 129), ("md5", 256), ("digest_null", 8), ("xcbc(aes)", 136)])
def test_truncation_beyond_the_digest(name: str, bits: int) -> None:
    info = StateInfo(crypt=CBC, auth_trunc=Algorithm(name, bytes(16), bits))
    assert refusal(info) == (errno.EINVAL, "Invalid length requested for truncated ICV")


@pytest.mark.parametrize(("bits", "icv_len"), [(0, 12), (8, 1), (96, 12), (100, 12), (128, 16), (160, 20)])
def test_any_truncation_in_bytes(bits: int, icv_len: int) -> None:
    """0 is the default; what is not a whole number of bytes is rounded down."""
    info = StateInfo(crypt=CBC, auth_trunc=Algorithm("hmac(sha1)", bytes(20), bits))
    attach(info)
    assert transform_for(info).icv_len == icv_len


def test_an_icv_of_no_byte_is_none() -> None:
    """The crypto layer of the kernel refuses it; nothing at all has to be asked for by name."""
    info = StateInfo(crypt=CBC, auth_trunc=Algorithm("hmac(sha1)", bytes(20), 7))
    assert refusal(info) == (errno.EINVAL, INIT_FAILED)
    assert transform_for(StateInfo(crypt=CBC, auth=Algorithm("digest_null", b""))).icv_len == 0


@pytest.mark.parametrize(("bits", "fine"), [(8, False), (31, False), (32, True)])
def test_esn_takes_four_bytes_of_icv(bits: int, fine: bool) -> None:
    """As many as its upper half has: the kernel puts that where the ICV will be."""
    info = StateInfo(crypt=CBC, auth_trunc=Algorithm("hmac(sha1)", bytes(20), bits), flags=STATE_ESN)
    if fine:
        assert transform_for(info).icv_len == 4
    else:
        assert refusal(info) == (errno.EINVAL, INIT_FAILED)
    assert transform_for(StateInfo(crypt=CBC, flags=STATE_ESN)).icv_len == 0


KEY_LENS = [
    *[("aead", name, entry.key_lens, entry.icv_bits[0]) for name, entry in AEADS.items()],
    *[("crypt", name, entry.key_lens, 0) for name, entry in CRYPTS.items()],
    *[("auth_trunc", name, entry.key_lens, 96) for name, entry in AUTHS.items() if entry.key_lens],
]


@each(("kind", "name", "key_lens", "bits"), KEY_LENS, ids=[name for _, name, *_ in KEY_LENS])
def test_keys_of_every_length(kind: str, name: str, key_lens: tuple[int, ...], bits: int) -> None:
    for length in range(65):
        fields: dict[str, Any] = {kind: Algorithm(name, b"\xaa" * length, bits)}
        if kind == "auth_trunc":
            fields["crypt"] = CBC
        if length in key_lens:
            attach(StateInfo(**fields))
            transform = transform_for(StateInfo(**fields))
            transform.seal(bytes(8), b"", bytes(transform.iv_len), bytes(16))
        else:
            extack = INIT_FAILED if kind == "aead" else ""
            assert refusal(StateInfo(**fields)) == (errno.EINVAL, extack)


@each("name", [name for name in AUTHS if name.startswith("hmac")])
@each("length", [0, 1, 20, 64, 129, 512])
def test_hmac_keys_are_as_long_as_one_likes(name: str, length: int) -> None:
    info = StateInfo(crypt=Algorithm(NULL, b""), auth=Algorithm(name, bytes(length)))
    attach(info)
    transform_for(info).seal(bytes(8), b"", b"", bytes(16))


# Which with which ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "info", [StateInfo(), StateInfo(auth=Algorithm("sha1", b"")), StateInfo(auth_trunc=Algorithm("sha1", b"", 96))]
)
def test_no_cipher_at_all(info: StateInfo) -> None:
    """4.2: authentication alone has to say ecb(cipher_null)."""
    assert refusal(info) == (errno.EINVAL, NO_CIPHER)


def test_a_cipher_alone_authenticates_nothing() -> None:
    transform = transform_for(StateInfo(crypt=CBC))
    assert isinstance(transform, AuthEnc) and isinstance(transform.auth, NoAuth)
    assert (transform.iv_len, transform.icv_len, transform.align) == (16, 0, 16)


def test_auth_trunc_wins_over_auth() -> None:
    """Of both, the kernel looks at AUTH_TRUNC only, even at its name only."""
    info = StateInfo(crypt=CBC, auth=Algorithm("nosuch", bytes(16)), auth_trunc=Algorithm("sha256", bytes(32), 128))
    attach(info)
    assert transform_for(info).icv_len == 16
    assert settled(info) == {"auth": None, "auth_trunc": Algorithm("hmac(sha256)", bytes(32), 128)}


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"crypt": CBC}, {}),
        ({"aead": Algorithm(GCM, bytes(20), 128)}, {}),
        ({"crypt": Algorithm("aes", bytes(16))}, {"crypt": CBC}),
        (
            {"crypt": CBC, "auth": Algorithm("hmac(sha512)", b"k")},
            {"auth": None, "auth_trunc": Algorithm("hmac(sha512)", b"k", 256)},
        ),
        (
            {"crypt": CBC, "auth_trunc": Algorithm("md5", b"k")},
            {"auth": None, "auth_trunc": Algorithm("hmac(md5)", b"k", 96)},
        ),
    ],
)
def test_what_the_kernel_keeps(fields: dict[str, Any], kept: dict[str, Any]) -> None:
    """4.3: long names, and the length of the ICV."""
    assert settled(StateInfo(**fields)) == kept


@each("fields", ALL.values(), ids=ALL)
def test_every_algorithm_is_found(fields: dict[str, Any]) -> None:
    attach(StateInfo(**fields))
    transform = transform_for(StateInfo(**fields))
    assert transform.align in (4, 8, 16) and transform.iv_len in (0, 8, 16)


@pytest.mark.parametrize(
    ("name", "key_len", "iv_len", "align"),
    [
        ("cbc(aes)", 16, 16, 16), ("cbc(des3_ede)", 24, 8, 8), ("cbc(des)", 8, 8, 8), (CTR, 20, 8, 4), (NULL, 0, 0, 4),
        ("cbc(camellia)", 16, 16, 16), ("cbc(sm4)", 16, 16, 16), ("cbc(cast5)", 16, 8, 8), ("cbc(blowfish)", 16, 8, 8),
    ],
)  # fmt: skip
def test_4_2_lengths(name: str, key_len: int, iv_len: int, align: int) -> None:
    transform = transform_for(StateInfo(crypt=Algorithm(name, bytes(key_len))))
    assert (transform.iv_len, transform.align) == (iv_len, align)


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("hmac(md5)", 96), ("hmac(sha1)", 96), ("hmac(sha256)", 96), ("hmac(sha384)", 192), ("hmac(sha512)", 256),
        ("hmac(rmd160)", 96), ("hmac(sm3)", 256), ("xcbc(aes)", 96), ("cmac(aes)", 96), ("digest_null", 0),
    ],
)  # fmt: skip
def test_4_3_default_lengths(name: str, bits: int) -> None:
    assert transform_for(StateInfo(crypt=CBC, auth=Algorithm(name, bytes(16)))).icv_len == bits // 8


# Secrets -------------------------------------------------------------------------------------------------------------


def test_keys_stay_out_of_errors() -> None:
    key = b"\xde\xad\xbe\xef" * 4
    for info in (
        StateInfo(aead=Algorithm(GCM, key, 128)),
        StateInfo(aead=Algorithm("nosuch", key, 128)),
        StateInfo(crypt=Algorithm("twofish", key)),
        StateInfo(crypt=Algorithm("aes", key + key[:1])),
        StateInfo(crypt=CBC, auth=Algorithm("xcbc(aes)", key[:5])),
        StateInfo(crypt=CBC, auth_trunc=Algorithm("md5", key, 1000)),
    ):
        with pytest.raises(XfrmError) as caught:
            attach(info)
            transform_for(info)
        assert "dead" not in str(caught.value) and repr(key)[2:8] not in repr(caught.value)


def test_views_are_as_good_as_bytes() -> None:
    for fields in ALL.values():
        transform = transform_for(StateInfo(**fields))
        iv = memoryview(bytes(transform.iv_len))
        sealed = transform.seal(memoryview(bytes(8)), b"abcd", iv, memoryview(b"payload of 16 b."))
        opened = transform.open(memoryview(bytes(8)), b"abcd", iv, memoryview(sealed))
        assert (type(sealed), type(opened), opened) == (bytes, bytes, b"payload of 16 b.")
