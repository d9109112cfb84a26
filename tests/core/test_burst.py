"""core.burst: whatever is in a burst, the result is what esp.seal and esp.open make of it packet by packet.

Two equal states get the same input, one through the burst, one through the scalar path. Everything is compared: bytes,
drops and where they fell, every counter, the replay window, what the owner was told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core.algorithms import ALL, COMBINED
from tests.each import each
from tests.examples import examples
from xfrmi.core import esp
from xfrmi.core.burst import FEW, Datagram, open_burst, seal_burst
from xfrmi.core.gso import segment
from xfrmi.core.seal_train import seal_train
from xfrmi.core.state import KM_ACQ, KM_DEAD, KM_VALID, State
from xfrmi.errors import Drop
from xfrmi.wire.esp import trailer
from xfrmi.wire.ip import Buffer, ipv4_header_checksum, split_outer
from xfrmi.wire.vnet import GSO_TCPV4, GSO_TCPV6, SuperPacket
from xfrmi.wire.xfrm_const import (
    SA_XFLAG_OSEQ_MAY_WRAP,
    STATE_AF_UNSPEC,
    STATE_DECAP_DSCP,
    STATE_ESN,
    STATE_NOECN,
    XFRM_INF,
    Mode,
    SaDir,
    XfrmStat,
)
from xfrmi.wire.xfrm_types import Algorithm, Encap, Limits, Replay, ReplayEsn, Selector

NOW = 1_700_000_000.25
V4, V6 = ("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")
INNER = {4: ("198.51.100.1", "198.51.100.2"), 6: ("2001:db8:1::1", "2001:db8:1::2")}
ALGORITHMS = ("aead", "crypt", "auth", "auth_trunc")
LAST_32, LAST_64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF

SLOW = settings(deadline=None, max_examples=examples(150), suppress_health_check=[HealthCheck.too_slow])


def make(**fields: Any) -> State:
    """A state whose IVs are the same each time, with AES-GCM unless told otherwise."""
    given_: dict[str, Any] = {
        "src": V4[0],
        "dst": V4[1],
        "spi": 0x1001,
        "mode": Mode.TUNNEL,
        "random": lambda length: bytes(range(0xF0, 0xF0 + length)),
    }
    if fields.keys().isdisjoint(ALGORITHMS):
        given_["aead"] = Algorithm("rfc4106(gcm(aes))", bytes(range(20)), 128)
    return State(**given_ | fields)


def ipv4(size: int, tos: int = 0, ident: int = 0, frag: int = 0x4000, options: bytes = b"") -> bytes:
    """An IPv4 packet of max(size, header) bytes."""
    header_len = 20 + len(options)
    length = max(size, header_len)
    packet = bytearray(bytes((0x45 + len(options) // 4, tos)) + length.to_bytes(2, "big") + ident.to_bytes(2, "big"))
    packet += frag.to_bytes(2, "big") + bytes((64, 17, 0, 0, 198, 51, 100, 1, 198, 51, 100, 2)) + options
    packet[10:12] = ipv4_header_checksum(packet).to_bytes(2, "big")
    return bytes(packet) + bytes(i & 0xFF for i in range(length - header_len))


def ipv6(size: int, tos: int = 0, label: int = 0, next_header: int = 17) -> bytes:
    length = max(size - 40, 0)
    head = (6 << 28 | tos << 20 | label).to_bytes(4, "big") + length.to_bytes(2, "big") + bytes((next_header, 64))
    return head + bytes(16) + bytes(16) + bytes(i & 0xFF for i in range(length))


class Outcome(NamedTuple):
    packets: list[bytes]
    drops: list[tuple[int, XfrmStat | None, str]]
    state: dict[str, Any]
    told: list[Any]


def observe(state: State, work: Callable[[], tuple[Sequence[Buffer], list[tuple[int, Drop]]]]) -> Outcome:
    told: list[Any] = []
    state.on_limit = lambda _, hard: told.append(hard)
    state.on_mapping = lambda _, address, port: told.append((address, port))
    packets, drops = work()
    fields = ("km", "dying", "bytes", "packets", "use_time", "lastused", "iv_counter", "mapping_sport", "mapping_time")
    seen = {name: getattr(state, name) for name in fields}
    seen["snapshot"] = state.snapshot()
    seen["window"] = (state.window.top, state.window.seen)
    return Outcome(
        [bytes(packet) for packet in packets], [(at, drop.stat, drop.reason) for at, drop in drops], seen, told
    )


def one_by_one(
    step: Callable[..., Buffer], state: State, items: list[Any]
) -> tuple[list[Buffer], list[tuple[int, Drop]]]:
    packets: list[Buffer] = []
    drops = []
    for index, item in enumerate(items):
        try:
            packets.append(step(state, *item, NOW))
        except Drop as drop:
            drops.append((index, drop))
    return packets, drops


def seal_super(state: State, packet: SuperPacket) -> tuple[Sequence[Buffer], list[tuple[int, Drop]]]:
    """As core.sending does it: as a train, or where that is declined as a burst of its segments."""
    train = seal_train(state, [packet], NOW)
    return (train, []) if train is not None else seal_burst(state, segment(packet), NOW)


def assert_same_sealing(
    packets: list[Buffer], prepare: Callable[[State], None] = lambda _: None, **fields: Any
) -> Outcome:
    scalar, burst = make(**fields), make(**fields)
    prepare(scalar)
    prepare(burst)
    expected = observe(scalar, lambda: one_by_one(esp.seal, scalar, [(packet,) for packet in packets]))
    result = observe(burst, lambda: seal_burst(burst, packets, NOW))
    assert result == expected
    return result


def assert_same_opening(
    datagrams: list[Datagram], prepare: Callable[[State], None] = lambda _: None, **fields: Any
) -> Outcome:
    scalar, burst = make(**fields), make(**fields)
    prepare(scalar)
    prepare(burst)
    expected = observe(scalar, lambda: one_by_one(esp.open, scalar, datagrams))
    result = observe(burst, lambda: open_burst(burst, datagrams, NOW))
    assert result == expected
    return result


# What burst and scalar are given ------------------------------------------------------------------------------------

SIZES = st.integers(0, 150)
PACKETS4 = st.one_of(
    st.builds(ipv4, SIZES, st.sampled_from([0, 1, 3, 0xB9]), st.integers(0, 0xFFFF), st.sampled_from([0, 0x4000])),
    st.builds(ipv4, SIZES, frag=st.just(0x2001)),
    st.builds(ipv4, SIZES, options=st.sampled_from([b"\x94\x04\0\0", bytes(8)])),
)
PACKETS6 = st.builds(
    ipv6, SIZES, st.sampled_from([0, 2, 3, 0xB8]), st.sampled_from([0, 0xABCDE]), st.sampled_from([17, 0])
)
NO_PACKETS = st.sampled_from([b"", b"\x45", bytes(60)])
PACKETS = st.one_of(PACKETS4, PACKETS6, NO_PACKETS)

MIXED = [
    ipv4(100), ipv4(100, tos=3), ipv4(100, frag=0), ipv4(100, options=b"\x94\x04\0\0"), ipv4(100, options=bytes(8)),
    ipv6(100), ipv6(100, next_header=0), ipv6(100, tos=2, label=7), ipv6(100, next_header=6),
]  # fmt: skip
"""As long as each other and yet not alike."""


def repeated(packet: bytes, count: int, numbered: bool) -> list[bytes]:
    """A run as one flow makes it: equal packets, or those whose IPv4 identification counts."""
    if not numbered or packet[:1] != b"\x45" or len(packet) < 20:
        return [packet] * count
    run = []
    for ident in range(count):
        header = bytearray(packet[:20])
        header[4:6] = ident.to_bytes(2, "big")
        header[10:12] = ipv4_header_checksum(header).to_bytes(2, "big")
        run.append(bytes(header) + packet[20:])
    return run


RUNS = st.one_of(
    st.builds(repeated, PACKETS, st.sampled_from([1, 2, FEW - 1, FEW, FEW + 1, 3 * FEW]), st.booleans()),
    st.lists(st.sampled_from(MIXED), min_size=FEW, max_size=2 * FEW),
)
BURSTS = st.lists(RUNS, max_size=4).map(lambda runs: [packet for run in runs for packet in run])
KINDS = st.sampled_from([bytes, bytearray, memoryview])

NEAR_32 = st.integers(LAST_32 - 40, LAST_32)
NEAR = st.one_of(st.just(XFRM_INF), st.integers(0, 40))
NEAR_BYTES = st.one_of(st.just(XFRM_INF), st.integers(0, 4000))
NEAR_LIMITS = st.builds(Limits, NEAR_BYTES, NEAR_BYTES, NEAR, NEAR)
LIMITS = st.one_of(st.just(Limits()), st.just(Limits()), NEAR_LIMITS)


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    """Mode, families and encapsulation."""
    src, dst = draw(st.sampled_from([V4, V6]))
    mode = draw(st.sampled_from([Mode.TUNNEL, Mode.TUNNEL, Mode.TRANSPORT, Mode.BEET]))
    fields: dict[str, Any] = {"src": src, "dst": dst, "mode": mode}
    if mode == Mode.BEET:
        fields["selector"] = Selector.parse(*INNER[draw(st.sampled_from([4, 6]))])
    elif mode == Mode.TUNNEL:
        fields["flags"] = STATE_AF_UNSPEC | draw(st.sampled_from([0, STATE_NOECN, STATE_DECAP_DSCP]))
    if draw(st.booleans()):
        fields["encap"] = Encap(sport=4500, dport=4501)
    return fields | draw(st.one_of(st.just({}), st.sampled_from(list(ALL.values()))))


@st.composite
def senders(draw: st.DrawFn) -> dict[str, Any]:
    fields = draw(shapes())
    fields["limits"] = draw(LIMITS)
    if draw(st.booleans()):
        fields["flags"] = fields.get("flags", 0) | STATE_ESN
        last = draw(st.one_of(NEAR_32, st.integers(LAST_64 - 40, LAST_64), st.just(0)))
        fields["replay_esn"] = ReplayEsn((0,), oseq=last & LAST_32, oseq_hi=last >> 32, replay_window=32)
    else:
        fields["replay"] = Replay(oseq=draw(st.one_of(NEAR_32, st.just(0))))
        fields["extra_flags"] = draw(st.sampled_from([0, SA_XFLAG_OSEQ_MAY_WRAP]))
    if fields["mode"] == Mode.TUNNEL:
        fields["tfcpad"] = draw(st.sampled_from([0, 0, 100]))
    return fields


# Sealing ------------------------------------------------------------------------------------------------------------


@SLOW
@given(fields=senders(), packets=BURSTS, kind=KINDS)
def test_sealing_is_the_scalar_path(fields: dict[str, Any], packets: list[bytes], kind: Any) -> None:
    assert_same_sealing([kind(packet) for packet in packets], **fields)


@pytest.mark.parametrize("km", [KM_ACQ, KM_DEAD])
def test_an_invalid_state_seals_nothing(km: int) -> None:
    result = assert_same_sealing([ipv4(100)] * 20, lambda state: setattr(state, "km", km))
    assert {stat for _, stat, _ in result.drops} == {XfrmStat.OUT_STATE_INVALID}


def test_limits_end_inside_a_run() -> None:
    """LT-01: with packet-hard 25 exactly 25 of 40 pass; the soft limit is told on the way."""
    result = assert_same_sealing([ipv4(100)] * 40, limits=Limits(soft_packets=10, hard_packets=25))
    assert len(result.packets) == 25 and [at for at, _, _ in result.drops] == list(range(25, 40))
    assert result.told[:2] == [False, True]


@pytest.mark.parametrize("kind", ["soft_bytes", "hard_bytes", "soft_packets", "hard_packets"])
@pytest.mark.parametrize("spare", [0, 1])
def test_each_limit_ends_a_run_at_the_same_packet(kind: str, spare: int) -> None:
    """LT-01, LT-03: on the last packet of the run, and just behind it."""
    limits = Limits(**{kind: (3900 if "bytes" in kind else 39) + spare})
    for result in (assert_same_sealing([ipv4(100)] * 40, limits=limits), assert_same_opening(GOOD, limits=limits)):
        assert bool(result.told) == (not spare)


def test_limits_further_away_than_the_run_do_not_slow_it_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(esp, "seal", None)
    state = make(limits=Limits(hard_packets=41, hard_bytes=4001))
    assert len(seal_burst(state, [ipv4(100)] * 40, NOW)[0]) == 40
    dying = make(limits=Limits(soft_packets=1))
    dying.packets, dying.dying = 7, True
    assert len(seal_burst(dying, [ipv4(100)] * 40, NOW)[0]) == 40


def test_sequence_numbers_end_inside_a_run() -> None:
    """RP: after 2^32 - 1 nothing goes, for good."""
    result = assert_same_sealing([ipv4(100)] * 40, replay=Replay(oseq=LAST_32 - 25))
    assert len(result.packets) == 25
    assert {stat for _, stat, _ in result.drops} == {XfrmStat.OUT_STATE_SEQ_ERROR}


def test_sequence_numbers_wrap_inside_a_run_but_ivs_do_not() -> None:
    fields = {"replay": Replay(oseq=LAST_32 - 25), "extra_flags": SA_XFLAG_OSEQ_MAY_WRAP}
    result = assert_same_sealing([ipv4(100)] * 40, **fields)
    numbers = [int.from_bytes(packet[24:28], "big") for packet in result.packets]
    assert numbers == [*range(LAST_32 - 24, LAST_32 + 1), *range(15)]
    assert len({packet[28:36] for packet in result.packets}) == 40


def test_a_plain_run_does_not_take_the_scalar_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were it so, every comparison above would hold, and nothing would be gained."""
    monkeypatch.setattr(esp, "seal", None)
    for fields in ({}, {"src": V6[0], "dst": V6[1], "encap": Encap()}, {"mode": Mode.TRANSPORT}):
        assert len(seal_burst(make(**fields), [ipv4(100) if "src" not in fields else ipv6(100)] * FEW, NOW)[0]) == FEW


def test_packets_that_are_as_long_as_each_other_but_not_alike() -> None:
    """IPv4 options make one BEET payload longer; in transport mode next headers differ."""
    beet = {"mode": Mode.BEET, "selector": Selector.parse(*INNER[4])}
    for packets in ([MIXED[at] for at in (0, 3, 4)] * FEW, [MIXED[at] for at in (5, 7, 8)] * FEW):
        assert_same_sealing(packets, **beet)
        src, dst = V4 if packets[0][0] == 0x45 else V6
        result = assert_same_sealing(packets, src=src, dst=dst, mode=Mode.TRANSPORT)
        assert len(result.packets) == len(packets)


def test_headers_of_a_run_that_differ() -> None:
    """Identifications that count in transport mode and BEET, and DSCPs in a tunnel."""
    numbered = repeated(ipv4(100), 40, numbered=True)
    assert_same_sealing(numbered, mode=Mode.TRANSPORT)
    assert_same_sealing(numbered, mode=Mode.BEET, encap=Encap())
    for src, dst in (V4, V6):
        assert_same_sealing([ipv4(100, tos) for tos in range(40)], src=src, dst=dst, encap=Encap())


def test_tfc_padding() -> None:
    result = assert_same_sealing([ipv4(100)] * 40, tfcpad=600)
    assert {len(packet) for packet in result.packets} == {20 + 16 + 604 + 16}


def test_packets_too_large_for_an_outer_header() -> None:
    result = assert_same_sealing([ipv4(65500)] * FEW)
    assert {stat for _, stat, _ in result.drops} == {XfrmStat.OUT_STATE_PROTO_ERROR}


def super_packet(size: int, gso_size: int, version: int = 4) -> SuperPacket:
    """A TCP super-packet with `size` bytes of payload, as a TUN hands it over."""
    packet = bytearray(ipv4(40 + size, tos=0xB9)) if version == 4 else bytearray(ipv6(60 + size, 0xB9, 0xABCDE, 6))
    upper = 20 if version == 4 else 40
    packet[upper : upper + 20] = bytes((0, 80, 0, 81)) + bytes(8) + bytes((0x50, 0x98, 1, 0, 0, 0, 0, 0))
    if version == 4:
        packet[9] = 6
        packet[10:12] = ipv4_header_checksum(packet[:20]).to_bytes(2, "big")
    gso_type = GSO_TCPV4 if version == 4 else GSO_TCPV6
    return SuperPacket(memoryview(packet), gso_type, upper + 20, gso_size, upper, 16)


@each("version", [4, 6])
@each("size", [900, 60 * (FEW - 1), 60 * FEW, 60 * FEW + 1, 60 * 40 + 59])
@each(
    "fields",
    [
        {},
        {"flags": STATE_AF_UNSPEC, "src": V6[0], "dst": V6[1], "encap": Encap()},
        {"flags": STATE_AF_UNSPEC | STATE_ESN, "replay_esn": ReplayEsn((0,), oseq=9, oseq_hi=2, replay_window=32)},
        {"replay": Replay(oseq=LAST_32 - 10)},
        {"limits": Limits(hard_packets=17)},
        {"tfcpad": 200},
        {"mode": Mode.TRANSPORT},
    ],
    ids=["plain", "udp6", "esn", "numbers end", "limit", "tfc", "transport"],
)
def test_a_super_packet_is_its_segments(version: int, size: int, fields: dict[str, Any]) -> None:
    whole = super_packet(size, 60, version)
    cut = segment(whole)
    expected = assert_same_sealing(list(cut), **fields)
    state = make(**fields)
    assert observe(state, lambda: seal_super(state, whole)) == expected
    assert len(expected.packets) + len(expected.drops) == whole.segments == len(cut)


def test_an_invalid_state_seals_no_super_packet() -> None:
    state = make()
    state.km = KM_DEAD
    sealed, drops = seal_super(state, super_packet(60 * 40, 60))
    assert not sealed and [(at, drop.stat) for at, drop in drops] == [
        (at, XfrmStat.OUT_STATE_INVALID) for at in range(40)
    ]


# Opening ------------------------------------------------------------------------------------------------------------


def seal_all(fields: dict[str, Any], packets: list[bytes], last: int) -> list[Datagram]:
    """What a peer sends whose last number was `last`."""
    fields = {name: value for name, value in fields.items() if name not in ("replay_esn", "replay_window", "replay")}
    if fields.get("flags", 0) & STATE_ESN:
        fields["replay_esn"] = ReplayEsn((0,), oseq=last & LAST_32, oseq_hi=last >> 32, replay_window=32)
    else:
        fields["replay"] = Replay(oseq=last)
        fields["extra_flags"] = SA_XFLAG_OSEQ_MAY_WRAP
    fields.pop("limits", None)
    peer = make(**fields)
    datagrams = []
    for packet in packets:
        try:
            header, packet_ = split_outer(bytes(esp.seal(peer, packet, NOW)))
        except (Drop, ValueError):  # a fragment in transport mode cannot be split off
            continue
        datagrams.append((header, packet_))
    return datagrams


def forge(fields: dict[str, Any], seq: int, plaintext: bytes) -> bytes:
    """An ESP packet with any plaintext, well sealed: what a peer with the key but without manners sends."""
    state = make(**{name: fields[name] for name in ALGORITHMS if name in fields})
    iv = bytes(state.transform.iv_len)
    head = state.spi_bytes + (seq & LAST_32).to_bytes(4, "big")
    hi = (seq >> 32).to_bytes(4, "big") if fields.get("flags", 0) & STATE_ESN else b""
    return head + iv + state.transform.seal(head, hi, iv, plaintext)


def touch(packet: Buffer, at: int) -> bytes:
    touched = bytearray(packet)
    if touched:
        touched[at % len(touched)] ^= 1
    return bytes(touched)


@st.composite
def receptions(draw: st.DrawFn) -> tuple[dict[str, Any], list[Datagram]]:
    """A receiver, and a burst that was tampered with."""
    fields = draw(shapes())
    top = draw(st.sampled_from([0, 100, LAST_32 - 30]))
    if draw(st.booleans()):
        fields["flags"] = fields.get("flags", 0) | STATE_ESN
        top = draw(st.sampled_from([top, (5 << 32) + 3, (6 << 32) - 20]))
        size = draw(st.sampled_from([1, 32, 64]))
        fields["replay_esn"] = ReplayEsn((0, 0), seq=top & LAST_32, seq_hi=top >> 32, replay_window=size)
    else:
        fields["replay"] = Replay(seq=top)
        fields["replay_window"] = draw(st.sampled_from([0, 0, 32]))
    fields["limits"] = draw(LIMITS)
    datagrams = seal_all(fields, draw(BURSTS), top + draw(st.sampled_from([0, 0, 5, -3])) if top else 0)
    for _ in range(draw(st.integers(0, 4)) if datagrams else 0):
        at = draw(st.integers(0, len(datagrams) - 1))
        header, packet = datagrams[at]
        number = int.from_bytes(packet[4:8], "big") + (top >> 32 << 32)
        change = draw(st.sampled_from(["touch", "replay", "swap", "lose", "header", "forge", "cut", "moved", "ce"]))
        if change == "touch":
            datagrams[at] = header, touch(packet, draw(st.integers(4, 200)))
        elif change == "replay":
            datagrams.insert(draw(st.integers(0, len(datagrams))), datagrams[at])
        elif change == "swap":
            datagrams[at], datagrams[0] = datagrams[0], datagrams[at]
        elif change == "lose" and len(datagrams) > 1:
            del datagrams[at]
        elif change == "header":
            plain = ipv4(20)[:9] + b"\x32" + bytes(10) if header[0] >> 4 == 4 else ipv6(40, next_header=50)
            datagrams[at] = plain, packet
        elif change == "forge":
            pad_len = draw(st.sampled_from([0, 2, 30, 250]))
            next_header = draw(st.sampled_from([4, 17, 41, 59, 94]))
            text = bytes(draw(st.sampled_from([0, 2, 22, 70])))
            datagrams[at] = header, forge(fields, number, text + trailer(pad_len, next_header)[-2:])
        elif change == "cut":
            datagrams[at] = header, packet[: draw(st.integers(0, len(packet)))]
        elif change == "moved" and len(header) > 27:
            datagrams[at] = bytes(header[:-8]) + b"\x99\x99" + bytes(header[-6:]), packet
        elif change == "ce":
            marked = bytearray(header)
            marked[1] |= 3 if marked[0] >> 4 == 4 else 0x30
            datagrams[at] = bytes(marked), packet
    return fields, datagrams


@SLOW
@given(reception=receptions(), kind=KINDS)
def test_opening_is_the_scalar_path(reception: tuple[dict[str, Any], list[Datagram]], kind: Any) -> None:
    fields, datagrams = reception
    assert_same_opening([(kind(header), kind(packet)) for header, packet in datagrams], **fields)


GOOD = seal_all({}, [ipv4(100)] * 40, 0)


@pytest.mark.parametrize(("field", "value"), [("km", KM_ACQ), ("km", KM_DEAD), ("dir", SaDir.OUT)])
def test_a_state_that_may_not_receive_opens_nothing(field: str, value: int) -> None:
    assert not assert_same_opening(GOOD, lambda state: setattr(state, field, value)).packets


@pytest.mark.parametrize("esn", [False, True])
def test_wrong_icvs_in_the_middle(esn: bool) -> None:
    fields: dict[str, Any] = {"replay_window": 32}
    if esn:
        fields = {"flags": STATE_ESN, "replay_esn": ReplayEsn((0, 0), replay_window=64)}
    burst = seal_all(fields, [ipv4(100)] * 40, 0)
    for at in (0, 7, 8, 39):
        burst[at] = burst[at][0], touch(burst[at][1], 20 + at)
    result = assert_same_opening(burst, **fields)
    assert [at for at, _, _ in result.drops] == [0, 7, 8, 39]
    assert {stat for _, stat, _ in result.drops} == {XfrmStat.IN_STATE_PROTO_ERROR}
    assert result.state["snapshot"].stats.integrity_failed == 4


def test_replays_in_the_middle() -> None:
    """T-08: the second of two equal packets in one burst is a replay, and counted as one."""
    burst = [*GOOD[:20], GOOD[10], *GOOD[20:], GOOD[0]]
    result = assert_same_opening(burst, replay_window=32)
    assert [at for at, _, _ in result.drops] == [20, 41]
    stats = result.state["snapshot"].stats
    assert (stats.replay, stats.replay_window) == (1, 1)


@pytest.mark.parametrize("addresses", [V4, V6])
@pytest.mark.parametrize("encap", [None, Encap()])
def test_plain_runs_there_and_back(addresses: tuple[str, str], encap: Encap | None) -> None:
    """With ESN in a higher subspace; over UDP and IPv6 each packet has its own checksum."""
    counters = ReplayEsn((0, 0), oseq=7, oseq_hi=3, seq=7, seq_hi=3, replay_window=64)
    esn = {"flags": STATE_ESN | STATE_AF_UNSPEC, "replay_esn": counters}
    for fields in ({"replay_window": 32}, esn):
        shape = {"src": addresses[0], "dst": addresses[1], "encap": encap, **fields}
        packets = [ipv4(100 + at % 2) for at in range(2)] + [ipv4(101)] * 40
        sealed = assert_same_sealing(packets, **shape).packets
        assert assert_same_opening([split_outer(packet) for packet in sealed], **shape).packets == packets


@each("esn", [False, True], ids=["plain", "esn"])
@each("algorithm", ALL.values(), ids=ALL)
def test_every_algorithm_there_and_back(algorithm: dict[str, Any], esn: bool) -> None:
    """Runs, packets between them, a super-packet; one packet was touched on the way."""
    fields = {**algorithm, "replay_window": 32}
    if esn:
        fields = {**algorithm, "flags": STATE_ESN, "replay_esn": ReplayEsn((0, 0), replay_window=64)}
    packets = [*[ipv4(100)] * 20, ipv4(63), *[ipv4(77)] * 20]
    sealed = assert_same_sealing(packets, **fields).packets
    datagrams = [split_outer(packet) for packet in sealed]
    assert assert_same_opening(datagrams, **fields).packets == packets
    datagrams[5] = datagrams[5][0], touch(datagrams[5][1], -1)
    result = assert_same_opening(datagrams, **fields)
    assert [at for at, _, _ in result.drops] == [5]  # its ICV, or its next header where there is none
    whole, state = super_packet(60 * 40 + 59, 60), make(**fields)
    expected = assert_same_sealing(list(segment(whole)), **fields)
    assert observe(state, lambda: seal_super(state, whole)) == expected


ROWS = [name for name in COMBINED if name.startswith(("ccm", "chacha")) or (name[:3] == "gcm" and name[-3:] == "128")]


@pytest.mark.parametrize("algorithm", ROWS)
def test_which_algorithms_are_done_in_rows(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that the library does in one call; the others go packet by packet."""
    fields = COMBINED[algorithm]
    burst = seal_all(fields, [ipv4(100)] * 40, 0)
    for name in ("seal", "open", "accept"):
        monkeypatch.setattr(esp, name, None)
    assert len(seal_burst(make(**fields), [ipv4(100)] * 40, NOW)[0]) == 40
    assert len(open_burst(make(**fields), burst, NOW)[0]) == 40


def test_esn_crosses_the_subspace_inside_a_run() -> None:
    fields = {"flags": STATE_ESN, "replay_esn": ReplayEsn((0, 0), seq=LAST_32 - 20, seq_hi=4, replay_window=64)}
    burst = seal_all(fields, [ipv4(100)] * 40, (5 << 32) - 21)
    result = assert_same_opening(burst, **fields)
    assert len(result.packets) == 40 and result.state["window"][0] == (5 << 32) + 19


def test_dummy_packets_among_others() -> None:
    """RP-10, T-20."""
    burst = list(GOOD)
    burst[20] = burst[20][0], forge({}, 21, bytes(100) + trailer(2, 59))
    result = assert_same_opening(burst, replay_window=32)
    assert [(at, stat) for at, stat, _ in result.drops] == [(20, XfrmStat.IN_STATE_PROTO_ERROR)]


@pytest.mark.parametrize(
    "plaintext",
    [
        bytes(100) + trailer(2, 59),
        trailer(2, 4),
        trailer(102, 4),
        b"\xff" * 100,
        bytes(2),
        b"",
        ipv4(22) + trailer(0, 17),
    ],
    ids=["dummy", "empty", "only padding", "padding too long", "two bytes", "nothing", "no tunnel"],
)
def test_runs_of_what_a_peer_should_not_send(plaintext: bytes) -> None:
    """5.1: the drops and counters are those of each packet alone, whatever a peer with the key makes up."""
    header = GOOD[0][0]
    result = assert_same_opening([(header, forge({}, seq, plaintext)) for seq in range(1, 41)], replay_window=32)
    assert [at for at, _, _ in result.drops] == list(range(40))


@pytest.mark.parametrize("at", [0, 20])
def test_encapsulated_packets_among_plain_ones(at: int) -> None:
    """5.10: XfrmInStateMismatch, in both directions."""
    udp = seal_all({"encap": Encap()}, [ipv4(100)] * 40, 0)
    for fields, ours, theirs in (({}, GOOD, udp), ({"encap": Encap()}, udp, GOOD)):
        result = assert_same_opening([*ours[:at], theirs[at], *ours[at + 1 :]], **fields)
        assert [(index, stat) for index, stat, _ in result.drops] == [(at, XfrmStat.IN_STATE_MISMATCH)]


@pytest.mark.parametrize("addresses", [V4, V6])
def test_a_peer_moves_inside_a_run(addresses: tuple[str, str]) -> None:
    """T-22: accepted, and each packet from elsewhere is told (3.8)."""
    fields = {"src": addresses[0], "dst": addresses[1], "encap": Encap(sport=4500)}
    burst = seal_all(fields, [ipv4(100)] * 40, 0)
    source = slice(12, 16) if addresses is V4 else slice(8, 24)
    for at in range(20, 40):
        header = bytearray(burst[at][0])
        if at < 30:
            header[-8:-6] = b"\x99\x99"
        else:
            header[source] = header[source][::-1]
        burst[at] = bytes(header), burst[at][1]
    result = assert_same_opening(burst, **fields)
    assert len(result.packets) == 40 and len(result.told) == 20


def test_runs_too_short_for_an_icv() -> None:
    result = assert_same_opening([(GOOD[0][0], bytes(8 + length)) for length in range(24) for _ in range(FEW)])
    assert {stat for _, stat, _ in result.drops} == {XfrmStat.IN_STATE_PROTO_ERROR}


def test_a_limit_ends_inside_an_inbound_run() -> None:
    result = assert_same_opening(GOOD, limits=Limits(soft_packets=5, hard_packets=30), replay_window=32)
    assert len(result.packets) == 30 and result.told[:2] == [False, True]


def test_a_plain_inbound_run_does_not_take_the_scalar_path(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("open", "accept"):
        monkeypatch.setattr(esp, name, None)
    assert len(open_burst(make(replay_window=32), GOOD, NOW)[0]) == 40
    fields = {"flags": STATE_ESN, "replay_esn": ReplayEsn((0, 0), replay_window=64), "encap": Encap(sport=4500)}
    assert len(open_burst(make(**fields), seal_all(fields, [ipv4(100)] * 40, 0), NOW)[0]) == 40


def test_rows_stay_as_they_are() -> None:
    """What a burst returned is not touched by the bursts that follow."""
    state, peer = make(), make()
    first, _ = seal_burst(state, [ipv4(100)] * 40, NOW)
    kept = [bytes(packet) for packet in first]
    second, _ = seal_burst(state, [ipv4(100)] * 40, NOW)
    assert [bytes(packet) for packet in first] == kept
    opened, _ = open_burst(peer, [split_outer(packet) for packet in first], NOW)
    kept = [bytes(packet) for packet in opened]
    open_burst(peer, [split_outer(packet) for packet in second], NOW)
    assert [bytes(packet) for packet in opened] == kept


def test_nothing_in_nothing_out() -> None:
    state = make()
    assert seal_burst(state, [], NOW) == ([], []) and open_burst(state, [], NOW) == ([], [])
    assert state.km == KM_VALID and not state.packets
