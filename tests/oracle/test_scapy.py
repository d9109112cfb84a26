"""scapy as a peer that shares no line of code with us: what we seal it opens, what it seals we open.

Every mode and pair of families that scapy.layers.ipsec has: tunnel 4-in-4, 6-in-4, 4-in-6, 6-in-6, transport over both,
each plain and in UDP, with and without ESN, all AES-GCM key lengths; and every other algorithm that scapy and we have,
in tunnels and transport mode. What scapy cannot judge:

 - BEET: scapy has no such mode. Kernel captures cover it, see tests/core/test_mode.py.
 - AES-GCM with ICVs of 8 and 12 bytes: scapy's always makes and wants 16, whatever crypt_icv_size says.
 - hmac(sha256) with 96 bits, hmac(rmd160), hmac(sm3), xcbc(aes), cbc(camellia), cbc(sm4): scapy has none of them.
 - the UDP checksum over IPv6: scapy sends 0, which a real stack drops before ESP sees it, and checks none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from tests.each import each
from tests.examples import some, thinned

pytest.importorskip("scapy.layers.ipsec")

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting
from scapy.layers.ipsec import ESP, IPSecIntegrityError, SecurityAssociation
from scapy.packet import Raw, raw

from xfrmi.core import esp
from xfrmi.core.burst import FEW, open_burst, seal_burst
from xfrmi.core.state import State
from xfrmi.errors import Drop
from xfrmi.wire.ip import Buffer, split_outer, trim
from xfrmi.wire.xfrm_const import STATE_AF_UNSPEC, STATE_ESN, Mode, XfrmStat
from xfrmi.wire.xfrm_types import Algorithm, Encap, ReplayEsn

NOW = 1_700_000_000.0
SPI = 0x1001
OUTER = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}


CRYPTS = {
    "aes128": ("AES-CBC", "cbc(aes)", 16),
    "aes192": ("AES-CBC", "cbc(aes)", 24),
    "aes256": ("AES-CBC", "cbc(aes)", 32),
    "ctr128": ("AES-CTR", "rfc3686(ctr(aes))", 20),
    "ctr192": ("AES-CTR", "rfc3686(ctr(aes))", 28),
    "ctr256": ("AES-CTR", "rfc3686(ctr(aes))", 36),
    "null": ("NULL", "ecb(cipher_null)", 0),
    "des": ("DES", "cbc(des)", 8),
    "3des": ("3DES", "cbc(des3_ede)", 24),
    "cast5": ("CAST", "cbc(cast5)", 16),
    "blowfish": ("Blowfish", "cbc(blowfish)", 16),
}
AUTHS = {
    "md5": ("HMAC-MD5-96", "hmac(md5)", 16, 96),
    "sha1": ("HMAC-SHA1-96", "hmac(sha1)", 20, 96),
    "sha256": ("SHA2-256-128", "hmac(sha256)", 32, 128),
    "sha384": ("SHA2-384-192", "hmac(sha384)", 48, 192),
    "sha512": ("SHA2-512-256", "hmac(sha512)", 64, 256),
    "cmac": ("AES-CMAC-96", "cmac(aes)", 16, 96),
}
AEADS = {
    "gcm": ("AES-GCM", "rfc4106(gcm(aes))", 4, (128, 192, 256), (128,)),
    "gmac": ("AES-NULL-GMAC", "rfc4543(gcm(aes))", 4, (128, 192, 256), (128,)),
    "ccm": ("AES-CCM", "rfc4309(ccm(aes))", 3, (128, 192, 256), (64, 96, 128)),
    "chacha": ("CHACHA20-POLY1305", "rfc7539esp(chacha20,poly1305)", 4, (256,), (128,)),
}


class Names(NamedTuple):
    """One algorithm, or two, as each side wants it."""

    ours: dict[str, Algorithm]
    scapys: dict[str, Any]


def pair(crypt: str, auth: str) -> Names:
    theirs, name, key_len = CRYPTS[crypt]
    key = bytes(range(7, 7 + key_len))
    ours, scapys = {"crypt": Algorithm(name, key)}, {"crypt_algo": theirs, "crypt_key": key}
    if auth:
        theirs, name, key_len, bits = AUTHS[auth]
        key = bytes(range(100, 100 + key_len))
        ours["auth_trunc"] = Algorithm(name, key, bits)
        scapys |= {"auth_algo": theirs, "auth_key": key}
    return Names(ours, scapys)


def combined(name: str, key_bits: int, icv_bits: int) -> Names:
    theirs, ours, salt_len, _, _ = AEADS[name]
    key = bytes(range(7, 7 + key_bits // 8 + salt_len))
    scapys = {"crypt_algo": theirs, "crypt_key": key, "crypt_icv_size": icv_bits // 8}
    return Names({"aead": Algorithm(ours, key, icv_bits)}, scapys)


ALGORITHMS: dict[str, Names] = {
    **{
        f"{name}{key_bits}{'' if icv_bits == 128 else f'-icv{icv_bits}'}": combined(name, key_bits, icv_bits)
        for name, (_, _, _, key_sizes, icv_sizes) in AEADS.items()
        for key_bits in key_sizes
        for icv_bits in icv_sizes
    },
    **{f"{crypt}-sha256": pair(crypt, "sha256") for crypt in CRYPTS},
    **{f"aes128-{auth}": pair("aes128", auth) for auth in AUTHS},
    **{f"null-{auth}": pair("null", auth) for auth in AUTHS},
    "aes128-alone": pair("aes128", ""),
    "ctr128-alone": pair("ctr128", ""),
}


class Case(NamedTuple):
    mode: Mode
    inner: int
    outer: int
    udp: bool = False
    algorithm: str = "gcm128"

    def __str__(self) -> str:
        shape = f"{self.inner}-in-{self.outer}" if self.mode == Mode.TUNNEL else f"ipv{self.outer}"
        return f"{self.mode.name.lower()}-{shape}{'-udp' if self.udp else ''}-{self.algorithm}"


SHAPES = [
    *[(Mode.TUNNEL, inner, outer) for inner in (4, 6) for outer in (4, 6)],
    *[(Mode.TRANSPORT, family, family) for family in (4, 6)],
]
GCM = [f"gcm{bits}" for bits in (128, 192, 256)]
OTHERS = [
    Case(*shape, algorithm)
    for shape in ((Mode.TUNNEL, 4, 4, False), (Mode.TUNNEL, 6, 4, True), (Mode.TRANSPORT, 6, 6, False))
    for algorithm in ALGORITHMS
    if algorithm not in GCM
]
CASES = [Case(*shape, udp, algorithm) for shape in SHAPES for udp in (False, True) for algorithm in GCM] + OTHERS
SOME = [case for case in CASES if case.algorithm == "gcm128" or case in OTHERS[: len(ALGORITHMS) - len(GCM)]]
AUTHENTICATED = [case for case in SOME if not case.algorithm.endswith("alone")]


def state_of(case: Case, **fields: Any) -> State:
    src, dst = OUTER[case.outer]
    return State(
        src=src,
        dst=dst,
        spi=SPI,
        mode=case.mode,
        flags=fields.pop("flags", 0) | (STATE_AF_UNSPEC if case.inner != case.outer else 0),
        **ALGORITHMS[case.algorithm].ours,
        encap=Encap(sport=4500, dport=4500) if case.udp else None,
        **fields,
    )


def association_of(case: Case, **fields: Any) -> SecurityAssociation:
    src, dst = OUTER[case.outer]
    header = None
    if case.mode == Mode.TUNNEL:
        header = IP(src=src, dst=dst) if case.outer == 4 else IPv6(src=src, dst=dst)
    return SecurityAssociation(
        ESP,
        spi=SPI,
        **ALGORITHMS[case.algorithm].scapys,
        tunnel_header=header,
        nat_t_header=UDP(sport=4500, dport=4500) if case.udp else None,
        **fields,
    )


def packets_of(case: Case) -> list[bytes]:
    """Inner packets of all alignments, and of every kind that changes how a header is treated."""
    if case.mode == Mode.TRANSPORT:
        src, dst = OUTER[case.inner]
    else:
        src, dst = ("198.51.100.1", "198.51.100.2") if case.inner == 4 else ("2001:db8:1::1", "2001:db8:1::2")
    ip: Callable[..., Any]
    if case.inner == 4:

        def ip(**fields: Any) -> Any:
            return IP(src=src, dst=dst, id=0x1234, **fields)

        special = [ip(flags="DF", tos=0xB9) / ICMP() / Raw(bytes(56)), ip(ttl=1) / TCP(flags="S")]
        if not case.udp:  # scapy loses the options behind a UDP header
            special.append(ip(options=[IPOption_Router_Alert()]) / UDP(sport=1, dport=2))
    else:

        def ip(**fields: Any) -> Any:
            return IPv6(src=src, dst=dst, **fields)

        special = [ip(tc=0xB9, fl=0xABCDE) / ICMPv6EchoRequest(data=bytes(56)), ip(hlim=1) / TCP(flags="S")]
        if case.mode == Mode.TUNNEL or not case.udp:
            chain = IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting() / IPv6ExtHdrDestOpt()
            special.append(ip() / chain / UDP(sport=1, dport=2))
    sized = [ip() / UDP(sport=1111, dport=2222) / Raw(bytes(n)) for n in (0, 1, 2, 3, 4, 13, 400, 1399)]
    return [raw(packet) for packet in special + sized]


def reparse(case: Case, packet: Buffer) -> Any:
    return (IP if case.outer == 4 else IPv6)(bytes(packet))


@thinned
@each("case", some(CASES), ids=str)
def test_scapy_opens_what_we_seal(case: Case) -> None:
    state, association = state_of(case), association_of(case)
    for number, packet in enumerate(packets_of(case), 1):
        outer = reparse(case, esp.seal(state, packet, NOW))
        assert (outer[ESP].spi, outer[ESP].seq) == (SPI, number)
        if case.udp:
            assert (outer[UDP].sport, outer[UDP].dport, outer[UDP].len) == (4500, 4500, len(outer[UDP]))
        assert raw(association.decrypt(outer)) == packet


@thinned
@each("case", some(CASES), ids=str)
def test_we_open_what_scapy_seals(case: Case) -> None:
    state, association = state_of(case, replay_window=32), association_of(case)
    for packet in packets_of(case):
        sealed = raw(association.encrypt(reparse_inner(case, packet)))
        assert bytes(esp.open(state, *split_outer(sealed), NOW)) == packet
        with pytest.raises(Drop) as caught:
            esp.open(state, *split_outer(sealed), NOW)
        assert caught.value.stat == XfrmStat.IN_STATE_SEQ_ERROR


def reparse_inner(case: Case, packet: bytes) -> Any:
    return (IP if case.inner == 4 else IPv6)(packet)


@each("case", SOME, ids=str)
def test_bursts_agree_with_scapy(case: Case) -> None:
    """The vectorised path: a burst of equal packets among others, both directions."""
    packets = packets_of(case)
    packets[5:5] = [packets[-1]] * (FEW + 4)
    state, association = state_of(case), association_of(case)
    outers, drops = seal_burst(state, packets, NOW)
    assert not drops
    assert [raw(association.decrypt(reparse(case, outer))) for outer in outers] == packets

    state, association = state_of(case, replay_window=32), association_of(case)
    sealed = [split_outer(raw(association.encrypt(reparse_inner(case, packet)))) for packet in packets]
    inners, drops = open_burst(state, sealed, NOW)
    assert not drops
    assert [bytes(inner) for inner in inners] == packets


def esn(oseq: int = 0, seq: int = 0) -> dict[str, Any]:
    lo = 0xFFFFFFFF
    counters = ReplayEsn((0, 0), oseq & lo, seq & lo, oseq >> 32, seq >> 32, 64)
    return {"flags": STATE_ESN, "replay_esn": counters}


LAST = 0x5_FFFF_FFFD
"""The third number from here is the first of the next subspace."""


@each("case", AUTHENTICATED, ids=str)
def test_scapy_opens_our_esn_across_the_subspace(case: Case) -> None:
    """RFC 4304: the upper half is authenticated, not sent."""
    state, association = state_of(case, **esn(oseq=LAST)), association_of(case, esn_en=True)
    packet = packets_of(case)[0]
    for number in range(LAST + 1, LAST + 5):
        outer = reparse(case, esp.seal(state, packet, NOW))
        assert outer[ESP].seq == number & 0xFFFFFFFF
        again = reparse(case, raw(outer))
        association.esn = number >> 32
        assert raw(association.decrypt(outer)) == packet
        association.esn += 1
        with pytest.raises(IPSecIntegrityError):
            association.decrypt(again)


@each("case", SOME, ids=str)
def test_we_open_scapys_esn_across_the_subspace(case: Case) -> None:
    state, association = state_of(case, **esn(seq=LAST)), association_of(case, esn_en=True)
    packet = packets_of(case)[0]
    for number in range(LAST + 1, LAST + 5):
        association.seq_num, association.esn = number & 0xFFFFFFFF, number >> 32
        sealed = raw(association.encrypt(reparse_inner(case, packet)))
        assert bytes(esp.open(state, *split_outer(sealed), NOW)) == packet


@each("case", AUTHENTICATED, ids=str)
def test_nobody_opens_what_was_touched(case: Case) -> None:
    """One bit anywhere from the sequence number on; scapy and we refuse alike."""
    packet = packets_of(case)[0]
    sealed = bytes(esp.seal(state_of(case), packet, NOW))
    header_len = len(split_outer(sealed)[0])
    for position in [header_len + 4, header_len + 8, header_len + 16, len(sealed) - 17, len(sealed) - 1]:
        touched = bytearray(sealed)
        touched[position] ^= 0x10
        with pytest.raises(IPSecIntegrityError):
            association_of(case).decrypt(reparse(case, touched))
        state = state_of(case)
        with pytest.raises(Drop) as caught:
            esp.open(state, *split_outer(touched), NOW)
        assert caught.value.stat == XfrmStat.IN_STATE_PROTO_ERROR
        assert state.stats_integrity_failed == 1


@each("case", [case for case in SOME if case.mode == Mode.TUNNEL], ids=str)
def test_scapy_sees_tfc_padding_behind_the_packet(case: Case) -> None:
    """5.1: zeros between the inner packet and the padding."""
    state, association = state_of(case, tfcpad=600), association_of(case)
    for packet in packets_of(case):
        opened = raw(association.decrypt(reparse(case, esp.seal(state, packet, NOW))))
        assert bytes(trim(opened)) == packet
        assert len(opened) == max(600, len(packet)) and not any(opened[len(packet) :])
