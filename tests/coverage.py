"""Who has judged what: prints docs/coverage.md, from the parameters of the tests themselves.

A judge is another implementation. An algorithm of two parts counts in two rows, that of its cipher and that of what
authenticates, whatever the other part was.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tests.captures.files import OUR_OWN, OUTBOUND, vectors
from tests.core.algorithms import ALL
from tests.oracle import test_kernel_peer, test_libipsec, test_scapy, test_tshark
from tests.oracle.kernelpeer.case import MODES
from tests.oracle.libipsec.pair import INNER
from tests.oracle.libipsec.proposals import Proposal
from xfrmi.core.algo import AEADS, AUTHS, CRYPTS
from xfrmi.wire.xfrm_types import Algorithm

SALTS = {"rfc4106(gcm(aes))": 4, "rfc4309(ccm(aes))": 3, "rfc4543(gcm(aes))": 4, "rfc7539esp(chacha20,poly1305)": 4,
         "rfc3686(ctr(aes))": 4}  # fmt: skip
"""Bytes at the end of the key that are none of the cipher's."""
NO_AUTH = "digest_null"
JUDGES = "VKLSTt"
UNJUDGED = {"cbc(sm4)", "hmac(sm3)"}
"""No judge has them. A test sees to it that nothing else is empty."""


class Part(NamedTuple):
    """What has a row."""

    name: str
    key_bits: int
    """0 for what authenticates: any."""
    icv_bits: int
    """0 for ciphers: whatever the other part has."""


class Way(NamedTuple):
    mode: str
    inner: int
    outer: int
    encap: bool
    esn: bool


class Judged(NamedTuple):
    judge: str
    parts: list[Part]
    way: Way


COLUMNS = list(itertools.product((False, True), (False, True)))
"""Encapsulation, ESN."""


# What the judges have judged ---------------------------------------------------------------------------------------


def parts_of(fields: Mapping[str, Any]) -> list[Part]:
    """Of the algorithms of a state, by the names of its fields."""
    if aead := fields.get("aead"):
        return [Part(aead.name, _key_bits(aead.name, len(aead.key)), aead.bits)]
    crypt, auth = fields["crypt"], fields.get("auth_trunc") or fields.get("auth") or Algorithm(NO_AUTH, b"")
    bits = auth.bits or AUTHS[auth.name].default_bits
    return [Part(crypt.name, _key_bits(crypt.name, len(crypt.key)), 0), Part(auth.name, 0, bits)]


def _key_bits(name: str, key_len: int) -> int:
    return 8 * (key_len - SALTS.get(name, 0))


def _captures() -> Iterator[Judged]:
    for vector in vectors(OUTBOUND):
        if vector.file.parent == OUR_OWN:
            sa = vector.data["sa"]
            families = (int(vector.data[f"{side}_family"].removeprefix("ipv")) for side in ("inner", "outer"))
            yield Judged("V", parts_of(_fields(sa)), Way(sa["mode"], *families, "encap" in sa, sa.get("esn", False)))


def _fields(sa: dict[str, Any]) -> dict[str, Algorithm]:
    """Names of the capture files to ours."""
    if aead := sa.get("aead"):
        return {"aead": Algorithm(aead["name"], bytes.fromhex(aead["key"]), aead["icv_bits"])}
    fields = {"crypt": Algorithm(sa["enc"]["name"], bytes.fromhex(sa["enc"]["key"]))}
    if auth := sa.get("auth"):
        fields["auth_trunc"] = Algorithm(auth["name"], b"", auth["trunc_bits"])
    return fields


def _kernel() -> Iterator[Judged]:
    for case in test_kernel_peer.everything():
        given = case.algorithm
        if given.icv and not given.auth:
            fields = {"aead": Algorithm(given.cipher, bytes(given.key), given.icv)}
        else:
            fields = {"crypt": Algorithm(given.cipher, bytes(given.key))}
            if given.auth:
                fields["auth_trunc"] = Algorithm(given.auth, b"", given.icv)
        yield Judged("K", parts_of(fields), Way(case.mode, case.inner, case.outer, case.encap, case.esn))


def _libipsec() -> Iterator[Judged]:
    for connection, inner in itertools.product(test_libipsec.CONNECTIONS, INNER):
        yield Judged("L", parts_of(_proposed(connection.proposal)), Way("tunnel", inner, connection.outer, True, False))


def _proposed(proposal: Proposal) -> dict[str, Algorithm]:
    words = proposal.words.split()
    key_len = proposal.key_bits // 8
    if words[0] == "aead":
        return {"aead": Algorithm(words[1], bytes(key_len + SALTS[words[1]]), int(words[3]))}
    crypt, auth = words.index("enc") + 1, words.index("auth-trunc") + 1
    return {
        "crypt": Algorithm(words[crypt], bytes(key_len + SALTS.get(words[crypt], 0))),
        "auth_trunc": Algorithm(words[auth], b"", int(words[auth + 2])),
    }


def _scapy() -> Iterator[Judged]:
    for esn, cases in ((False, test_scapy.CASES), (True, test_scapy.SOME)):
        for case in cases:
            way = Way(case.mode.name.lower(), case.inner, case.outer, case.udp, esn)
            yield Judged("S", parts_of(test_scapy.ALGORITHMS[case.algorithm].ours), way)


def _tshark() -> Iterator[Judged]:
    for judge, cases in (("T", test_tshark.CASES), ("t", test_tshark.ESN_CASES)):
        for case in cases:
            way = Way(case.mode.name.lower(), case.inner, case.outer, case.udp, judge == "t")
            yield Judged(judge, parts_of(ALL[case.algorithm]), way)


# The table ---------------------------------------------------------------------------------------------------------

Verdicts = dict[Part, dict[Way, set[str]]]


def verdicts() -> Verdicts:
    """For every part that is offered, by way: the judges."""
    found: Verdicts = {part: {} for fields in ALL.values() for part in parts_of(fields) if part.name in UNJUDGED}
    for judged in itertools.chain(_captures(), _kernel(), _libipsec(), _scapy(), _tshark()):
        for part in judged.parts:
            found.setdefault(part, {}).setdefault(judged.way, set()).add(judged.judge)
    return found


def cell(ways: Mapping[Way, set[str]], mode: str, encap: bool, esn: bool) -> str:
    """`K` for all pairs of families, `V44,66` for some."""
    words = []
    for judge in JUDGES:
        pairs = [pair for pair in MODES[mode] if judge in ways.get(Way(mode, *pair, encap, esn), ())]
        if pairs:
            some = len(pairs) < len(MODES[mode])
            words.append(judge + ",".join(f"{inner}{outer}" for inner, outer in sorted(pairs)) * some)
    return " ".join(words) or "-"


def rows(found: Verdicts, mode: str) -> Iterator[tuple[str, list[str]]]:
    """(label, cells): in the order of the tables of xfrmi; lengths of keys that were judged alike share a row."""
    names = [*AEADS, *CRYPTS, *AUTHS]
    order = sorted(found, key=lambda part: (names.index(part.name), part.icv_bits, part.key_bits))
    cells = {part: [cell(found[part], mode, *column) for column in COLUMNS] for part in order}
    for (name, icv, shown), group in itertools.groupby(order, lambda p: (p.name, p.icv_bits, cells[p])):
        keys = [str(part.key_bits) for part in group if part.key_bits]
        words = ["no integrity" if name == NO_AUTH else f"`{name}`"]
        words += [f"key {'/'.join(keys)}"] * bool(keys) + [f"ICV {icv}"] * bool(icv)
        yield ", ".join(words), shown


def table(found: Verdicts, mode: str) -> Iterator[str]:
    yield "| algorithm | raw | raw, ESN | UDP | UDP, ESN |"
    yield "|---|---|---|---|---|"
    for label, shown in rows(found, mode):
        yield f"| {' | '.join([label, *shown])} |"


def document() -> str:
    found = verdicts()
    return "\n".join(itertools.chain([HEAD], *(_section(found, mode) for mode in MODES), [LEGEND]))


def _section(found: Verdicts, mode: str) -> Iterable[str]:
    return (f"\n## {NAMES[mode]}\n", *table(found, mode))


NAMES = {"tunnel": "Tunnel mode", "transport": "Transport mode", "beet": "BEET mode"}
HEAD = """\
# Who has judged what

Made by `make coverage` from the parameters of the tests; a test compares. The judges are implementations that share no
line of code with xfrmi:

- **V**, captures: what a Linux 6.12 with its own xfrm interface has sent. xfrmi's bytes are the same, and it opens the
  kernel's (`tests/captures`).
- **K**, the kernel in qemu, Debian's 6.12: echoes and TCP from either end, both ends count alike
  (`tests/oracle/kernelpeer`). In `make interop`.
- **L**, libipsec, strongSwan's ESP in userspace: echoes, fragments and TCP from either end, both ends count alike
  (`tests/oracle/libipsec`). All of it in `make interop`, a quarter in `make test`.
- **S**, scapy: opens what xfrmi seals, seals what xfrmi opens; with ESN across 2^32 (`tests/oracle/test_scapy.py`).
- **T**, tshark: decrypts what xfrmi seals and finds the ICV right, and wrong where a bit was turned
  (`tests/oracle/test_tshark.py`).
- **t**, tshark with ESN: it decrypts; only versions that know ESN judge the ICV, 4.0 does not.

A letter alone: all pairs of families. With figures: only these, the inner family first: `46` is IPv4 in IPv6. Rows: an
algorithm of two parts counts in two rows, that of its cipher (with any that authenticates) and that of what
authenticates (with any cipher). UDP is ESP in UDP, RFC 3948.\
"""
LEGEND = """
## Why a letter is missing

- **-, no judge at all**: `cbc(sm4)` and `hmac(sm3)`. Debian's kernel is built without them, and neither libipsec,
  scapy nor tshark has them for ESP. They are held against the examples of their standards (GB/T 32907, GM/T 0042) in
  `tests/core`, and are the same classes as the other ciphers and HMACs in all else.
- **V**: a fixed set of captures. No `cbc()` of anything but AES, no AES-XCBC, AES-CMAC or RIPEMD-160, no encryption
  alone; BEET and 4 in 6, 6 in 4 with AES-GCM-128 and its full ICV only. K goes on where it ends.
- **K** has no holes but SM3 and SM4, and of ICVs the lengths that are standards. In transport mode the kernel's end has
  its states and policies outside of its xfrm interface, for it sends no transport mode through one; xfrmi's end goes
  through its interface.
- **L**: libipsec does tunnel mode in UDP only, has no ESN ("ESN not supported"), no GMAC and no HMAC-SHA-256 cut to 96
  bits; IKE has no name for HMAC-RIPEMD-160 in ESP, and offers no encryption without integrity.
- **S**: scapy has no BEET, no ICVs of 64 and 96 bits of AES-GCM, no `hmac(sha256)` with 96 bits, no `hmac(rmd160)`,
  `xcbc(aes)` or `cbc(camellia)`. All but AES-GCM go through three shapes (4 in 4; 6 in 4 in UDP; transport over IPv6),
  with ESN through the first: mode and algorithm do not know of each other. AES-GCM has ESN with the key of 128 bits.
- **T**: tshark's table for ESP has no AES-CCM, ChaCha20-Poly1305, AES-GMAC, Camellia, XCBC and CMAC, and is not asked
  about encryption without integrity. All but AES-GCM go through three shapes (4 in 6; 6 in 4 in UDP; transport over
  IPv4).
- **t**: six cases, to see whether this tshark can judge ESN at all; a packet of a kernel goes along, and where that is
  not found right, ours need not be.
"""


if __name__ == "__main__":
    print(document(), end="")
