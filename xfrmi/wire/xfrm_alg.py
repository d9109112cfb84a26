"""Attributes of a state that are structs themselves: algorithms with keys, encapsulation, replay windows."""

from __future__ import annotations

from errno import EINVAL
from struct import Struct, pack, unpack_from
from typing import Final

from xfrmi.errors import XfrmError
from xfrmi.wire.netlink import Attrs, attr
from xfrmi.wire.xfrm_attr import Xfrma
from xfrmi.wire.xfrm_const import AF_INET, REPLAY_ESN_MAX
from xfrmi.wire.xfrm_types import Algorithm, Encap, Replay, ReplayEsn

_ALGO: Final = Struct("=64sI")
"""xfrm_algo: name, key length in bits; the key follows."""
_ALGO_BITS: Final = Struct("=64sII")
"""xfrm_algo_aead, xfrm_algo_auth: name, key length in bits, ICV or truncation length in bits; the key follows."""
_NAME_LEN: Final = 63
_ENCAP: Final = Struct("=H2s2s2x16s")
"""xfrm_encap_tmpl: the type is in host order, the ports are in network order."""
_REPLAY: Final = Struct("=3I")
_REPLAY_ESN: Final = Struct("=6I")
_SEC_CTX: Final = Struct("=HHBBH")
_MAX_WORDS: Final = REPLAY_ESN_MAX // 32
NO_REPLAY: Final = Replay()


def algorithm_attr(kind: int, algorithm: Algorithm) -> bytes:
    """XFRMA_ALG_AUTH, _CRYPT or _COMP."""
    return attr(kind, _ALGO.pack(_packed(algorithm.name), len(algorithm.key) * 8) + algorithm.key)


def algorithm_bits_attr(kind: int, algorithm: Algorithm) -> bytes:
    """XFRMA_ALG_AEAD or _AUTH_TRUNC."""
    return attr(kind, _ALGO_BITS.pack(_packed(algorithm.name), len(algorithm.key) * 8, algorithm.bits) + algorithm.key)


def get_algorithm(attrs: Attrs, kind: int) -> Algorithm | None:
    if (value := attrs.get(kind)) is None:
        return None
    name, key_bits = _ALGO.unpack_from(value)
    return Algorithm(_name(name), _key(value, _ALGO.size, key_bits, "AUTH/CRYPT/COMP"))


def get_algorithm_bits(attrs: Attrs, kind: int) -> Algorithm | None:
    if (value := attrs.get(kind)) is None:
        return None
    name, key_bits, bits = _ALGO_BITS.unpack_from(value)
    which = "AEAD" if kind == Xfrma.ALG_AEAD else "AUTH_TRUNC"
    return Algorithm(_name(name), _key(value, _ALGO_BITS.size, key_bits, which), bits)


def _packed(name: str) -> bytes:
    """Bytes that are no UTF-8 come from command lines as surrogates, and are in no name that anybody has. As much as
    there is room for, whole characters: those that messages have instead of such bytes are longer."""
    return name.encode("utf-8", "replace")[:_NAME_LEN].decode("utf-8", "ignore").encode()


def _name(wire: bytes) -> str:
    return wire[:_NAME_LEN].partition(b"\0")[0].decode("utf-8", "replace")


def _key(value: memoryview, start: int, bits: int, which: str) -> bytes:
    end = start + (bits + 7) // 8
    if end > len(value):
        detail = f"a key of {bits} bits in an attribute with room for {len(value) - start} bytes"
        raise XfrmError(EINVAL, f"Invalid {which} attribute length", detail)
    return bytes(value[start:end])


def encap_attr(encap: Encap) -> bytes:
    sport, dport = encap.sport.to_bytes(2, "big"), encap.dport.to_bytes(2, "big")
    return attr(Xfrma.ENCAP, _ENCAP.pack(encap.type, sport, dport, encap.oa))


def get_encap(attrs: Attrs, family: int) -> Encap | None:
    """`family` is the state's: it decides the length of `oa`."""
    if (value := attrs.get(Xfrma.ENCAP)) is None:
        return None
    kind, sport, dport, oa = _ENCAP.unpack_from(value)
    oa = oa[:4] if family == AF_INET else oa
    return Encap(kind, int.from_bytes(sport, "big"), int.from_bytes(dport, "big"), oa)


def replay_attr(replay: Replay) -> bytes:
    return attr(Xfrma.REPLAY_VAL, _REPLAY.pack(replay.oseq, replay.seq, replay.bitmap))


def get_replay(attrs: Attrs) -> Replay | None:
    if (value := attrs.get(Xfrma.REPLAY_VAL)) is None:
        return None
    oseq, seq, bitmap = _REPLAY.unpack_from(value)
    return Replay(oseq, seq, bitmap) if oseq or seq or bitmap else NO_REPLAY


def replay_esn_attr(replay: ReplayEsn) -> bytes:
    words = replay.bitmap
    head = _REPLAY_ESN.pack(
        len(words), replay.oseq, replay.seq, replay.oseq_hi, replay.seq_hi, replay.replay_window
    )  # fmt: skip
    return attr(Xfrma.REPLAY_ESN_VAL, head + pack(f"={len(words)}I", *words))


def get_replay_esn(attrs: Attrs) -> ReplayEsn | None:
    """The bitmap may be left out (as a whole): it is then clear, as long as the head says."""
    if (value := attrs.get(Xfrma.REPLAY_ESN_VAL)) is None:
        return None
    length, oseq, seq, oseq_hi, seq_hi, window = _REPLAY_ESN.unpack_from(value)
    if length > _MAX_WORDS:
        raise XfrmError(EINVAL, f"ESN bitmap length must be <= {_MAX_WORDS}", f"it is {length}")
    words: tuple[int, ...] = (0,) * length
    if len(value) != _REPLAY_ESN.size:
        if len(value) < _REPLAY_ESN.size + 4 * length:
            detail = f"{length} words in {len(value) - _REPLAY_ESN.size} bytes"
            raise XfrmError(EINVAL, "ESN attribute is too short to fit the full bitmap length", detail)
        words = unpack_from(f"={length}I", value, _REPLAY_ESN.size)
    return ReplayEsn(words, oseq, seq, oseq_hi, seq_hi, window)


def get_sec_ctx(attrs: Attrs) -> bytes | None:
    """xfrm_user_sec_ctx as it came: a label that only a security module could read."""
    if (value := attrs.get(Xfrma.SEC_CTX)) is None:
        return None
    length, _, _, _, context = _SEC_CTX.unpack_from(value)
    if length > len(value) or length != _SEC_CTX.size + context:
        raise XfrmError(EINVAL, "Invalid security context length", f"{length} bytes with a context of {context}")
    return bytes(value[:length])
