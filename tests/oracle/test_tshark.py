"""tshark as a judge that shares no line of code with us: it decrypts what we seal, and says whether the ICV is right.

Every mode and pair of families, all AES-GCM key and ICV lengths, plain and in UDP, and every other algorithm that its
esp_sa table has, in tunnels and transport mode; one capture, one run of tshark, a state (and so an SPI) for each case.
The last resort of a user who does not believe us is Wireshark with the keys in that table; this is that, by machine.

What tshark cannot judge: BEET, of whose pseudo header (next header 94) it knows nothing; what is inside ESP is compared
all the same. AES-CCM, ChaCha20-Poly1305, AES-GMAC, Camellia, SM4, XCBC, CMAC and HMAC-SM3, which are not in its table
for ESP. And ESN before the version whose esp_sa table has columns for it: without the upper half of the number no
ICV is right. So a packet of a Linux kernel goes along, and ours is judged where the kernel's is found right.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.captures.files import OUTBOUND, vectors
from tests.captures.machine import Machine
from tests.core.algorithms import ALL
from tests.core.packets import udp
from tests.core.pair import INNER, OUTER, Pair
from tests.each import each
from xfrmi.core import esp
from xfrmi.core.state import State
from xfrmi.formats.esp_sa import esp_sa_line
from xfrmi.wire.ip import split_outer
from xfrmi.wire.xfrm_const import STATE_AF_UNSPEC, STATE_ESN, Mode
from xfrmi.wire.xfrm_types import Encap, ReplayEsn, Selector, StateInfo

TSHARK = shutil.which("tshark")
pytestmark = pytest.mark.skipif(TSHARK is None, reason="TSHARK IS NOT INSTALLED, NOT TESTED")

NOW = 1_700_000_000.0
PORTS = {"sport": 40001, "dport": 40002}
"""No protocol that tshark knows, so that the payload stays data."""
PAYLOADS = [bytes(range(n)) for n in (0, 1, 2, 3, 255)] + [bytes(1300)]
RAW_IP = 101


# What goes in ------------------------------------------------------------------------------------------------------


ALGORITHMS = [
    "cbc128", "cbc192", "cbc256", "ctr128", "ctr192", "ctr256", "null", "des", "des3", "cast5-16", "blowfish-16",
    "md5", "sha1", "sha1-long-key", "sha256-96", "sha384", "sha512", "rmd160",
]  # fmt: skip


class Case(NamedTuple):
    mode: Mode
    inner: int
    outer: int
    algorithm: str = "gcm128-icv128"
    """One of tests.core.algorithms."""
    udp: bool = False

    def __str__(self) -> str:
        shape = f"{self.mode.name.lower()}-{self.inner}-in-{self.outer}"
        return f"{shape}-{self.algorithm}{'-udp' if self.udp else ''}"

    @property
    def ends(self) -> tuple[str, str]:
        """Addresses of the inner packet."""
        return OUTER[self.inner] if self.mode == Mode.TRANSPORT else INNER[self.inner]


SHAPES = [
    *[(mode, inner, outer) for mode in (Mode.TUNNEL, Mode.BEET) for inner in (4, 6) for outer in (4, 6)],
    *[(Mode.TRANSPORT, family, family) for family in (4, 6)],
]
GCM = [f"gcm{key_bits}-icv{icv_bits}" for key_bits in (128, 192, 256) for icv_bits in (64, 96, 128)]
CASES = [
    *[Case(*shape, algorithm, in_udp) for shape in SHAPES for algorithm in GCM for in_udp in (False, True)],
    *[
        Case(*shape, algorithm, in_udp)
        for shape, in_udp in (
            ((Mode.TUNNEL, 4, 6), False),
            ((Mode.TUNNEL, 6, 4), True),
            ((Mode.TRANSPORT, 4, 4), False),
        )
        for algorithm in ALGORITHMS
    ],
]
TAMPERED = [Case(Mode.TUNNEL, 4, 4, algorithm) for algorithm in (*GCM[:3], *ALGORITHMS)]
TOUCHED = ["sequence", "iv", "ciphertext", "icv"]

ESN_CASES = [
    Case(Mode.TUNNEL, 6, 4, "gcm128-icv64"),
    Case(Mode.TRANSPORT, 4, 4, "gcm128-icv96"),
    Case(Mode.TUNNEL, 4, 6, "gcm128-icv128"),
    Case(Mode.TUNNEL, 4, 4, "cbc128"),
    Case(Mode.TUNNEL, 4, 4, "ctr128"),
    Case(Mode.TUNNEL, 4, 4, "null"),
]
LAST = 0x5_FFFF_FFFE
"""The number after the next is the first of the next subspace."""
KERNEL_ESN = "gcm128-icv128/transport/4-in-4/esn"


def state_of(case: Case, spi: int, **fields: Any) -> State:
    src, dst = OUTER[case.outer]
    if case.mode == Mode.BEET:
        fields["selector"] = Selector.parse(*case.ends)
    elif case.inner != case.outer:
        fields["flags"] = fields.get("flags", 0) | STATE_AF_UNSPEC
    return State(
        src=src,
        dst=dst,
        spi=spi,
        mode=case.mode,
        encap=Encap(sport=4500, dport=4500) if case.udp else None,
        **ALL[case.algorithm],
        **fields,
    )


def inner_packets(case: Case) -> list[bytes]:
    return [udp(*case.ends, payload, **PORTS, ttl=7, tos=0x28) for payload in PAYLOADS]


def inside(mode: int, packet: bytes) -> bytes:
    """What ESP carries of an inner packet without options."""
    return packet if mode == Mode.TUNNEL else packet[20 if packet[0] >> 4 == 4 else 40 :]


# What tshark shows -------------------------------------------------------------------------------------------------


def esp_sa(info: StateInfo, upper: int | None = None) -> str:
    """A line of Wireshark's esp_sa table; `upper` half of the sequence numbers, or None without ESN.

    Without ESN the last two columns are left out: versions before they came warn, those after fill them in.
    """
    assert bool(info.flags & STATE_ESN) == (upper is not None)
    if upper is not None:
        assert info.replay_esn is not None
        info = replace(info, replay_esn=info.replay_esn._replace(oseq_hi=upper, seq_hi=0))
    line = esp_sa_line(info)
    assert line is not None
    return line


def pcap(packets: Iterable[bytes]) -> bytes:
    header = struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 0xFFFF, RAW_IP)
    return header + b"".join(struct.pack("=IIII", 0, 0, len(p), len(p)) + p for p in packets)


FIELDS = {
    "esp.sequence": "sequence",
    "esp.icv_good": "good",
    "esp.icv_bad": "bad",
    "esp.protocol": "protocol",
    "esp.contained_data": "contained",
    "ip.src": "ipv4_source",
    "ipv6.src": "ipv6_source",
    "ip.dsfield": "ipv4_tos",
    "ipv6.tclass": "ipv6_tos",
    "ip.ttl": "ttl",
    "ipv6.hlim": "hop_limit",
    "udp.srcport": "sport",
    "udp.dstport": "dport",
    "udp.payload": "payload",
    "udp.checksum.status": "checksum",
}


class Shown(NamedTuple):
    """One packet as tshark dissects it: the last occurrence of each field, which is the innermost, or ''."""

    sequence: str
    good: str
    bad: str
    protocol: str
    contained: str
    ipv4_source: str
    ipv6_source: str
    ipv4_tos: str
    ipv6_tos: str
    ttl: str
    hop_limit: str
    sport: str
    dport: str
    payload: str
    checksum: str

    @property
    def icv_is_good(self) -> bool:
        verdict = {("1", "0"): True, ("0", "1"): False, ("True", "False"): True, ("False", "True"): False}
        # Neither: what a touched packet decrypts to may have so absurd a trailer that tshark judges nothing.
        verdict["", ""] = False
        return verdict[self.good, self.bad]


class Capture:
    """Collects packets and the esp_sa lines to decrypt them with, then asks tshark once."""

    def __init__(self) -> None:
        self._packets: list[bytes] = []
        self._lines: list[str] = []
        self._of: dict[str, range] = {}

    def add(self, name: str, packets: list[bytes], line: str) -> None:
        start = len(self._packets)
        self._packets += packets
        self._lines.append(line)
        self._of[name] = range(start, len(self._packets))

    def ask(self, folder: Path) -> dict[str, list[Shown]]:
        """By name, in the order added. tshark looks for preferences in `folder`, not in the user's home."""
        file = folder / "xfrmi.pcap"
        file.write_bytes(pcap(self._packets))
        preferences = [
            "esp.enable_encryption_decode:TRUE",
            "esp.enable_authentication_check:TRUE",
            "udp.check_checksum:TRUE",
            *[f"uat:esp_sa:{line}" for line in self._lines],
        ]
        assert TSHARK is not None
        command = [TSHARK, "-n", "-r", str(file), "-T", "fields", "-E", "separator=|", "-E", "occurrence=l"]
        command += [word for preference in preferences for word in ("-o", preference)]
        command += [word for field in FIELDS for word in ("-e", field)]
        env = {**os.environ, "WIRESHARK_CONFIG_DIR": str(folder), "LC_ALL": "C"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
        assert done.returncode == 0, done.stderr
        shown = [Shown(*line.split("|")) for line in done.stdout.splitlines()]
        assert len(shown) == len(self._packets), done.stderr
        return {name: [shown[index] for index in indices] for name, indices in self._of.items()}


def sealed(state: State, packets: list[bytes]) -> list[bytes]:
    return [bytes(esp.seal(state, packet, NOW)) for packet in packets]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Shown]]:
    """Everything below in one capture."""
    capture, spis = Capture(), count(0x1000_0000)

    for case in CASES:
        state = state_of(case, next(spis))
        capture.add(str(case), sealed(state, inner_packets(case)), esp_sa(state.info))

    for case in TAMPERED:
        for what in TOUCHED:
            state = state_of(case, next(spis))
            offset = {"sequence": 7, "iv": 8, "ciphertext": 8 + state.transform.iv_len, "icv": -1}[what]
            packet = bytearray(sealed(state, inner_packets(case)[-2:-1])[0])
            body = len(split_outer(packet)[0])
            packet[body + offset if offset >= 0 else offset] ^= 0x01
            capture.add(f"{case} {what}", [bytes(packet)], esp_sa(state.info))

    for case in ESN_CASES:
        for oseq in (LAST, LAST + 1):
            counters = ReplayEsn((0, 0), oseq & 0xFFFFFFFF, 0, oseq >> 32, 0, 64)
            state = state_of(case, next(spis), flags=STATE_ESN, replay_esn=counters)
            line = esp_sa(state.info, upper=(oseq + 1) >> 32)
            capture.add(f"{case} esn {oseq + 1}", sealed(state, inner_packets(case)[:1]), line)

    kernel, machine = next(vector.data for vector in vectors(OUTBOUND) if vector.id == KERNEL_ESN), Machine()
    machine.set_up(kernel["commands"])
    first = kernel["packets"][0]
    line = esp_sa(machine.states()[0].info, upper=first["seq"] >> 32)
    capture.add("kernel esn", [bytes.fromhex(first["outer"])], line)

    for family in (4, 6):
        pair = Pair(family)
        state = next(state for state in pair.left.engine.states() if state.spi == 0x1000)
        capture.add(f"engine {family}", pair.emit(*burst()), esp_sa(state.info))

    return capture.ask(tmp_path_factory.mktemp("tshark"))


def burst() -> list[bytes]:
    """Long enough for the vectorised path, and of both families."""
    return [udp(*INNER[6 if n >= 30 else 4], bytes([n]) * 600, **PORTS) for n in range(40)]


# The verdicts ------------------------------------------------------------------------------------------------------


@each("case", CASES, ids=str)
def test_tshark_decrypts_what_we_seal(case: Case, shown: dict[str, list[Shown]]) -> None:
    packets = inner_packets(case)
    assert len(shown[str(case)]) == len(packets)
    for number, (packet, payload, seen) in enumerate(zip(packets, PAYLOADS, shown[str(case)], strict=True), 1):
        assert seen.icv_is_good
        assert int(seen.sequence) == number
        assert bytes.fromhex(seen.contained) == inside(case.mode, packet)
        assert int(seen.protocol, 0) == (17 if case.mode != Mode.TUNNEL else 4 if case.inner == 4 else 41)
        assert (int(seen.sport), int(seen.dport)) == (40001, 40002)
        if payload:  # otherwise the last one shown is that of the UDP around ESP
            assert bytes.fromhex(seen.payload) == payload
        if case.mode == Mode.TUNNEL:
            source, tos, ttl = (
                (seen.ipv4_source, seen.ipv4_tos, seen.ttl)
                if case.inner == 4
                else (seen.ipv6_source, seen.ipv6_tos, seen.hop_limit)
            )
            assert (source, int(tos, 0), int(ttl)) == (case.ends[0], 0x28, 7)
        if case.mode != Mode.BEET:  # in BEET the checksum is over addresses that do not travel
            assert seen.checksum in ("1", "Good")


@each("what", TOUCHED)
@each("case", TAMPERED, ids=str)
def test_tshark_shows_that_a_packet_was_touched(case: Case, what: str, shown: dict[str, list[Shown]]) -> None:
    (seen,) = shown[f"{case} {what}"]
    assert not seen.icv_is_good


@pytest.mark.parametrize("family", [4, 6])
def test_tshark_decrypts_a_burst_of_the_engine(family: int, shown: dict[str, list[Shown]]) -> None:
    seen = shown[f"engine {family}"]
    assert all(packet.icv_is_good for packet in seen)
    assert [bytes.fromhex(packet.contained) for packet in seen] == burst()
    assert [int(packet.sequence) for packet in seen] == list(range(1, 41))


@pytest.mark.parametrize("number", [LAST + 1, LAST + 2])
@pytest.mark.parametrize("case", ESN_CASES, ids=str)
def test_tshark_and_esn(case: Case, number: int, shown: dict[str, list[Shown]]) -> None:
    """RFC 4304: the upper half is authenticated, not sent. What is encrypted does not depend on it."""
    (seen,) = shown[f"{case} esn {number}"]
    assert int(seen.sequence) == number & 0xFFFFFFFF
    assert bytes.fromhex(seen.contained) == inside(case.mode, inner_packets(case)[0])
    (kernel,) = shown["kernel esn"]
    if not kernel.icv_is_good:
        pytest.skip("THIS TSHARK FINDS NO ESN PACKET RIGHT, NOT EVEN A KERNEL'S: ICV NOT TESTED")
    assert seen.icv_is_good
