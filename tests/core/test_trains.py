"""core.train, seal_train, open_train: a train is what esp.seal and esp.open make of its packets one by one, or it is
declined and nothing has happened.

Two equal states get the same input, one as a train, one packet by packet; all that can be seen of them is compared, as
in test_burst.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core.algorithms import COMBINED
from tests.core.test_burst import (
    LAST_32,
    LAST_64,
    LIMITS,
    NOW,
    V4,
    V6,
    Outcome,
    forge,
    ipv4,
    ipv6,
    make,
    observe,
    one_by_one,
    seal_all,
    touch,
)
from tests.core.trains import TIMESTAMPS, Memory, arrived, ident_of, super_packet
from tests.each import each
from tests.examples import examples, some, thinned
from xfrmi.core import esp
from xfrmi.core.burst import Datagram
from xfrmi.core.gso import segment
from xfrmi.core.mode_tunnel import OtherFamily
from xfrmi.core.open_train import open_train
from xfrmi.core.seal_train import joins, seal_train
from xfrmi.core.state import KM_DEAD, State
from xfrmi.core.train import Train
from xfrmi.wire.esp import trailer
from xfrmi.wire.ip import split_outer
from xfrmi.wire.vnet import SuperPacket
from xfrmi.wire.xfrm_const import (
    SA_XFLAG_DONT_ENCAP_DSCP,
    SA_XFLAG_OSEQ_MAY_WRAP,
    STATE_AF_UNSPEC,
    STATE_DECAP_DSCP,
    STATE_ESN,
    STATE_NOECN,
    STATE_NOPMTUDISC,
    Mode,
    SaDir,
)
from xfrmi.wire.xfrm_types import Encap, Limits, Replay, ReplayEsn

SLOW = settings(deadline=None, max_examples=examples(200), suppress_health_check=[HealthCheck.too_slow])
ROWS = [name for name in COMBINED if name.startswith(("ccm", "chacha")) or (name[:3] == "gcm" and name[-3:] == "128")]
UNTOUCHED: tuple[list[Any], list[Any]] = ([], [])


# Sealing ------------------------------------------------------------------------------------------------------------


def assert_same_sealing(packets: list[SuperPacket], **fields: Any) -> Train | None:
    scalar, state = make(**fields), make(**fields)
    cut = [(bytes(piece),) for packet in packets for piece in segment(packet)]
    expected = observe(scalar, lambda: one_by_one(esp.seal, scalar, cut))
    made: list[Train | None] = []

    def work() -> tuple[Any, Any]:
        made.append(seal_train(state, packets, NOW))
        return made[0] or [], []

    result = observe(state, work)
    (train,) = made
    if train is None:
        fresh = make(**fields)
        assert result == observe(fresh, lambda: UNTOUCHED)
    else:
        assert result == expected
        assert len(train) == len(cut)
    return train


@st.composite
def streams(draw: st.DrawFn) -> list[SuperPacket]:
    """Super-packets of one flow that follow each other, each of which joins the next."""
    version, udp = draw(st.sampled_from([4, 6])), draw(st.booleans())
    size = draw(st.sampled_from([2, 8, 60, 62, 100, 536, 1398, 1400, 7, 61]))
    seq = draw(st.sampled_from([1, LAST_32 - 40 * size, LAST_32 - 4 * size + 1, LAST_32 - 2]))
    fixed: dict[str, Any] = {
        "version": version, "udp": udp, "options": draw(st.sampled_from([b"", TIMESTAMPS])), "df": draw(st.booleans()),
        "alert": draw(st.sampled_from([False, False, True])), "summed": draw(st.sampled_from([True, True, False])),
        "tos": draw(st.sampled_from([0, 3, 0xB9])),
    }  # fmt: skip
    if not udp:
        fixed["summed"] = True
    ident = draw(st.one_of(st.just(7), st.integers(0xFFFF - 40, 0xFFFF), st.integers(0, 0xFFFF)))
    check = draw(st.one_of(st.none(), st.none(), st.integers(0, 60)))
    packets: list[SuperPacket] = []
    for number in range(draw(st.integers(1, 4))):
        count = draw(st.sampled_from([1, 2, 5, 6, 17, 40, 64, 70]))
        count = min(count, 60000 // size)
        short = draw(st.sampled_from([0, 0, 1, size // 2, size - 1, size]))
        packet = super_packet(
            size, max(count * size - short, 0), seq=seq, ident=ident, check=check,
            flags=draw(st.one_of(st.just(0x10), st.integers(0, 255))), seed=draw(st.integers(0, 5)), **fixed,
        )  # fmt: skip
        if packets and not joins(packets[-1], packet):
            break
        packets.append(packet)
        seq, ident, check = seq + count * size, ident_of(packet) + count, None
        if draw(st.integers(0, 3)) == 0:
            fixed["tos" if number % 2 else "df"] = 0x20 if number % 2 else not fixed["df"]
    return packets


@st.composite
def tunnels(draw: st.DrawFn) -> dict[str, Any]:
    src, dst = draw(st.sampled_from([V4, V6]))
    fields: dict[str, Any] = {"src": src, "dst": dst, "mode": Mode.TUNNEL}
    fields["flags"] = STATE_AF_UNSPEC | draw(st.sampled_from([0, 0, STATE_NOECN, STATE_DECAP_DSCP]))
    if draw(st.booleans()):
        fields["encap"] = Encap(sport=4500, dport=4501)
    fields |= draw(st.one_of(st.just({}), st.sampled_from([*(COMBINED[name] for name in ROWS), COMBINED["gmac128"]])))
    fields["limits"] = draw(st.one_of(st.just(Limits()), LIMITS))
    return fields


@st.composite
def senders(draw: st.DrawFn) -> dict[str, Any]:
    fields = draw(tunnels())
    near = draw(st.sampled_from([0, 0, 4, 5, 40, 300]))
    if draw(st.booleans()):
        fields["flags"] |= STATE_ESN
        last = draw(st.sampled_from([0, LAST_32 - near, (7 << 32) - near, LAST_64 - near]))
        fields["replay_esn"] = ReplayEsn((0,), oseq=last & LAST_32, oseq_hi=last >> 32, replay_window=32)
    else:
        fields["replay"] = Replay(oseq=draw(st.sampled_from([0, LAST_32 - near])))
        fields["extra_flags"] = draw(st.sampled_from([0, SA_XFLAG_OSEQ_MAY_WRAP]))
    fields["tfcpad"] = draw(st.sampled_from([0, 0, 0, 0, 100]))
    return fields


@SLOW
@given(fields=senders(), packets=streams())
def test_a_train_is_its_packets(fields: dict[str, Any], packets: list[SuperPacket]) -> None:
    assert_same_sealing(packets, **fields)


both = pytest.mark.parametrize("version", [4, 6])
kinds = pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])


def train_of(packets: list[SuperPacket], **fields: Any) -> Train:
    train = assert_same_sealing(packets, **fields)
    assert train is not None, "an ordinary one may not be declined"
    return train


@each("algorithm", ROWS)
@each("esn", [False, True], ids=["plain", "esn"])
@both
@kinds
def test_ordinary_trains_are_not_declined(version: int, udp: bool, esn: bool, algorithm: str) -> None:
    """Were they, every comparison above would hold, and nothing would be gained."""
    fields = dict(COMBINED[algorithm])
    if esn:
        fields |= {"flags": STATE_ESN, "replay_esn": ReplayEsn((0,), oseq=LAST_32 - 20, oseq_hi=2, replay_window=32)}
    for src, dst in (V4, V6):
        for encap in (None, Encap()):
            shape = fields | {"src": src, "dst": dst, "encap": encap}
            shape["flags"] = shape.get("flags", 0) | STATE_AF_UNSPEC
            packets = [super_packet(60, 60 * 20, version=version, udp=udp, seq=9 + 1200 * at, ident=5 + 20 * at)
                       for at in range(3)]  # fmt: skip
            packets.append(super_packet(60, 60 * 20 + 7, version=version, udp=udp, seq=3609, ident=65))
            train_of(packets, **shape)


@thinned
@both
def test_every_combination_of_flags(version: int) -> None:
    """Full and short last segments, alone and inside a train."""
    for flags in some(range(256)):
        _check_flags(version, flags)


def _check_flags(version: int, flags: int) -> None:
    whole = super_packet(60, 60 * 8, version=version, flags=flags)
    short = super_packet(60, 60 * 8 + 2, version=version, flags=flags, options=TIMESTAMPS)
    one = super_packet(60, 60, version=version, flags=flags)
    tail = super_packet(60, 31, version=version, flags=flags)
    for packets in ([whole], [short], [whole, one, whole], [whole, tail], [one, whole, one]):
        train_of(packets)


@both
@pytest.mark.parametrize("last", [1, 59, 60])
def test_numbers_up_to_the_very_end(version: int, last: int) -> None:
    """The last number that a state has is used, and none beyond it."""
    packet = super_packet(60, 60 * 9 + last, version=version)
    train_of([packet], replay=Replay(oseq=LAST_32 - 10))
    assert assert_same_sealing([packet], replay=Replay(oseq=LAST_32 - 9)) is None
    esn = {"flags": STATE_ESN | STATE_AF_UNSPEC}
    for top in (LAST_64 - 10, LAST_32 - 3):
        train_of([packet], **esn, replay_esn=ReplayEsn((0,), oseq=top & LAST_32, oseq_hi=top >> 32, replay_window=32))
    end = ReplayEsn((0,), oseq=LAST_32 - 9, oseq_hi=LAST_32, replay_window=32)
    assert assert_same_sealing([packet], **esn, replay_esn=end) is None


@each("what", ["ident", "check", "seq"])
@each("distance", range(-3, 4))
def test_near_the_wrap_of_a_field(what: str, distance: int) -> None:
    """Of 10 segments and of 12 that follow them, whose fields may wrap within either or between them."""
    for at in (10, 22):
        value = {"ident": 0x10000 - at, "check": at, "seq": 0x1_0000_0000 - 60 * at}[what] + distance
        given_: dict[str, Any] = {what: value}
        first = super_packet(60, 600, **given_)
        second = super_packet(60, 720, seq=given_.get("seq", 1) + 600, ident=ident_of(first) + 10)
        assert_same_sealing([first], **{})
        assert_same_sealing([first, second], **{})


@both
@pytest.mark.parametrize("addresses", [V4, V6])
def test_outer_headers_that_differ(addresses: tuple[str, str], version: int) -> None:
    """By what a tunnel copies from an inner header. Such packets do not join, or are declined."""
    first = super_packet(60, 600, version=version)
    fields: dict[str, Any] = {"src": addresses[0], "dst": addresses[1], "flags": STATE_AF_UNSPEC}
    for change in ({"tos": 0x20}, {"tos": 2}, {"df": False}, {"tos": 3}):
        other = super_packet(60, 600, version=version, seq=601, ident=11, **change)
        for flags, extra in ((0, 0), (STATE_NOECN, 0), (0, SA_XFLAG_DONT_ENCAP_DSCP), (STATE_NOPMTUDISC, 0)):
            shape = fields | {"flags": STATE_AF_UNSPEC | flags, "extra_flags": extra}
            state = make(**shape)
            alike = esp.seal(state, first.data, NOW)[:20] == esp.seal(state, other.data, NOW)[:20]
            for packets in ([first, other], [first, first, other]):
                if joins(first, other):
                    train = assert_same_sealing(packets, **shape)
                    assert train is None or alike


@both
def test_checksums_of_all_values(version: int) -> None:
    """Among them those that are 0, which UDP writes otherwise."""
    for udp in (False, True):
        packet = super_packet(2, 2 * 6000, version=version, udp=udp)
        train = train_of([packet])
        assert len(train) == 6000
    payload = memoryview(bytearray(packet.data))
    for word in range(6000):
        payload[packet.hdr_len + 2 * word : packet.hdr_len + 2 * word + 2] = (word * 11 & 0xFFFF).to_bytes(2, "big")
    train_of([SuperPacket(payload, packet.gso_type, packet.hdr_len, 2, packet.csum_start, packet.csum_offset)])


def test_limits_are_reached_as_one_by_one() -> None:
    """A train is sealed up to just before a limit, and declined where one is reached."""
    packet = super_packet(60, 60 * 10)
    train_of([packet], limits=Limits(hard_packets=11, hard_bytes=1001))
    for limits in (
        Limits(hard_packets=10), Limits(soft_packets=10), Limits(hard_bytes=1000), Limits(soft_bytes=1000),
        Limits(hard_packets=0),
    ):  # fmt: skip
        assert assert_same_sealing([packet], limits=limits) is None


@pytest.mark.parametrize("fields", [{"tfcpad": 10}, {"mode": Mode.TRANSPORT}, {"mode": Mode.BEET}, COMBINED["gmac128"]],
                         ids=["tfc", "transport", "beet", "gmac"])  # fmt: skip
def test_what_is_not_for_trains(fields: dict[str, Any]) -> None:
    assert seal_train(make(**fields), [super_packet(60, 600)], NOW) is None


def test_a_state_that_is_not_valid() -> None:
    state = make()
    state.km = KM_DEAD
    assert seal_train(state, [super_packet(60, 600)], NOW) is None
    assert not state.packets and not state.oseq and not state.iv_counter


def test_what_joins() -> None:
    whole = super_packet(60, 600)
    assert joins(whole, whole) and joins(whole, super_packet(60, 31)) and joins(whole, super_packet(60, 60, flags=1))
    for odd in (
        super_packet(62, 620), super_packet(60, 600, options=TIMESTAMPS), super_packet(60, 600, alert=True),
        super_packet(60, 600, version=6), super_packet(60, 600, udp=True), super_packet(60, 0),
    ):  # fmt: skip
        assert not joins(whole, odd)
    assert not joins(super_packet(60, 601), whole)
    assert not joins(super_packet(60, 600, udp=True), super_packet(60, 600, udp=True, summed=False))
    assert not joins(super_packet(60, 0), whole)


def test_a_train_is_a_sequence() -> None:
    train = train_of([super_packet(60, 60 * 9 + 5)], encap=Encap(), src=V6[0], dst=V6[1], flags=STATE_AF_UNSPEC)
    packets = list(train)
    assert len(packets) == 10 and len(packets[-1]) < len(packets[0])
    assert train[-1] == packets[-1] and train[2:5] == packets[2:5] and train[::-3] == packets[::-3]
    with pytest.raises(IndexError):
        train[10]


def test_a_train_is_its_holders() -> None:
    """What was sealed is not touched by what is sealed after it, for as long as it is held, or a piece of it."""
    state = make()
    packet = super_packet(60, 600)
    held: list[tuple[Any, bytes]] = []
    for number in range(12):
        train = seal_train(state, [packet], NOW)
        assert train is not None
        piece = train.esp if number % 2 else train.esp[50:90]
        held.append((piece, bytes(piece)))
        del train
    assert all(bytes(piece) == before for piece, before in held)
    assert len({before for _, before in held}) == 12


# Opening ------------------------------------------------------------------------------------------------------------


def assert_same_opening(
    datagrams: list[Datagram],
    prepare: Callable[[State], None] = lambda _: None,
    place: tuple[int, int, int] = (0, 0, 0),
    **fields: Any,
) -> Outcome | None:
    """`datagrams` are as long as each other and have one header. None where the train is declined."""
    scalar, state = make(**fields), make(**fields)
    prepare(scalar)
    prepare(state)
    header = datagrams[0][0]
    packets = [bytes(packet) for _, packet in datagrams]
    train = arrived(header, packets, *place)
    kinds_: list[list[bool]] = []

    def scalar_work() -> Any:
        opened, drops = one_by_one(esp.open, scalar, [(header, packet) for packet in packets])
        kinds_.append([type(packet) is OtherFamily for packet in opened])
        return opened, drops

    declined: list[bool] = []

    def work() -> Any:
        result = open_train(state, train, NOW)
        declined.append(result is None)
        if result is None:
            return UNTOUCHED
        kinds_.append([type(packet) is OtherFamily for packet in result[0]])
        if result[2] is not None:
            assert len(result[0]) == train.count and not result[1]
        return result[:2]

    expected = observe(scalar, scalar_work)
    outcome = observe(state, work)
    if declined[0]:
        fresh = make(**fields)
        prepare(fresh)
        assert outcome == observe(fresh, lambda: UNTOUCHED)
        assert [bytes(packet) for _, packet in train.datagrams()] == packets
        return None
    assert outcome == expected
    assert kinds_[0] == kinds_[1]
    return outcome


PLACES = st.tuples(st.sampled_from([0, 1, 5]), st.sampled_from([0, 20, 3]), st.sampled_from([0, 1, 100]))
"""First row, bytes in front of each row and behind it."""


@st.composite
def receptions(draw: st.DrawFn) -> tuple[dict[str, Any], list[Datagram]]:
    """A receiver, and a train that was tampered with."""
    fields = draw(tunnels())
    top = draw(st.sampled_from([0, 100, LAST_32 - 30, LAST_32 - 100]))
    if draw(st.booleans()):
        fields["flags"] |= STATE_ESN
        top = draw(st.sampled_from([top, (5 << 32) + 3, (6 << 32) - 20]))
        size = draw(st.sampled_from([1, 2, 32, 64]))
        fields["replay_esn"] = ReplayEsn((0, 0), seq=top & LAST_32, seq_hi=top >> 32, replay_window=size)
    else:
        fields["replay"] = Replay(seq=top)
        fields["replay_window"] = draw(st.sampled_from([0, 1, 7, 32, 32]))
    count = draw(st.sampled_from([1, 2, 8, 40, 90]))
    length = draw(st.sampled_from([99, 100, 101, 102]))
    kind = draw(st.sampled_from([ipv4, ipv6]))
    packets = [kind(length, draw(st.sampled_from([0, 2])))] * count
    for _ in range(draw(st.sampled_from([0, 0, 1]))):  # other padding, other ECN, the other family
        at = draw(st.integers(0, count - 1))
        packets[at] = draw(st.sampled_from([ipv4, ipv6]))(draw(st.integers(99, 102)), draw(st.sampled_from([0, 3])))
    before = draw(st.sampled_from([0, 0, 5, 40, -3]))
    datagrams = seal_all(fields, packets, max(top + before, 0))
    for _ in range(draw(st.sampled_from([0, 0, 1, 3])) if datagrams else 0):
        at = draw(st.integers(0, len(datagrams) - 1))
        header, packet = datagrams[at]
        change = draw(st.sampled_from(["touch", "touch", "replay", "swap", "lose", "forge", "forge"]))
        if change == "touch":
            datagrams[at] = header, touch(packet, draw(st.integers(0, len(packet) - 1)))
        elif change == "replay":
            datagrams.insert(draw(st.integers(0, len(datagrams))), datagrams[at])
        elif change == "swap":
            datagrams[at], datagrams[0] = datagrams[0], datagrams[at]
        elif change == "lose" and len(datagrams) > 1:
            del datagrams[at]
        elif change == "forge":
            number = int.from_bytes(packet[4:8], "big") + (top >> 32 << 32)
            text = bytes((draw(st.sampled_from([0x45, 0x60])),)) + bytes(101)
            tail = trailer(draw(st.sampled_from([0, 1, 82, 101, 102, 250])), draw(st.sampled_from([4, 17, 41, 59, 94])))
            datagrams[at] = header, forge(fields, number, text + tail[-2:])
    whole = bytearray(datagrams[0][0])
    change = draw(st.sampled_from(["", "", "", "ce", "moved", "plain"]))
    if change == "ce":
        whole[1] |= 3 if whole[0] >> 4 == 4 else 0x30
    elif change == "moved" and len(whole) > 27 and len(whole) != 40:
        whole[-8:-6] = b"\x99\x99"
    elif change == "plain":
        whole = bytearray(ipv4(20)[:9] + b"\x32" + bytes(10) if whole[0] >> 4 == 4 else ipv6(40, next_header=50))
    return fields, [(bytes(whole), packet) for _, packet in datagrams]


@SLOW
@given(reception=receptions(), place=PLACES)
def test_opening_is_the_scalar_path(
    reception: tuple[dict[str, Any], list[Datagram]], place: tuple[int, int, int]
) -> None:
    fields, datagrams = reception
    assert_same_opening(datagrams, place=place, **fields)


GOOD = seal_all({}, [ipv4(100)] * 40, 0)
ESN: dict[str, Any] = {"flags": STATE_ESN | STATE_AF_UNSPEC, "replay_esn": ReplayEsn((0, 0), replay_window=64)}


def opened(datagrams: list[Datagram], **fields: Any) -> Outcome:
    outcome = assert_same_opening(datagrams, **fields)
    assert outcome is not None, "may not be declined"
    return outcome


@each("algorithm", ROWS)
@each("esn", [False, True], ids=["plain", "esn"])
def test_ordinary_trains_are_opened_at_once(algorithm: str, esn: bool) -> None:
    for src, dst in (V4, V6):
        for encap in (None, Encap()):
            fields = COMBINED[algorithm] | {"src": src, "dst": dst, "encap": encap, "flags": STATE_AF_UNSPEC}
            fields |= ESN if esn else {"replay_window": 32}
            for packet in (ipv4(100), ipv6(100), ipv4(102)):
                sealed = seal_all(fields, [packet] * 30, 0)
                assert opened(sealed, **fields).packets == [packet] * 30
                for at in (3, 29):
                    sealed[at] = sealed[at][0], touch(sealed[at][1], 9 + at)
                assert [at for at, _, _ in opened(sealed, **fields).drops] == [3, 29]


@pytest.mark.parametrize("esn", [False, True], ids=["plain", "esn"])
@pytest.mark.parametrize("where", [(0,), (39,), (0, 1, 2), (17, 38, 39), range(40)], ids=str)
def test_wrong_icvs(where: tuple[int, ...], esn: bool) -> None:
    fields = ESN if esn else {"replay_window": 32}
    burst = seal_all(fields, [ipv4(100)] * 40, 0)
    for at in where:
        burst[at] = burst[at][0], touch(burst[at][1], -1 - at)
    outcome = opened(burst, **fields)
    assert [at for at, _, _ in outcome.drops] == list(where)
    assert outcome.state["snapshot"].stats.integrity_failed == len(where)


def test_what_cannot_all_end_alike_is_declined() -> None:
    """And nothing has been touched, so that it can be opened one by one."""
    other = seal_all({"spi": 0x1002}, [ipv4(100)] * 40, 0)
    for burst in (
        [*GOOD[:20], *GOOD[21:]], [GOOD[1], GOOD[0], *GOOD[2:]], [*GOOD[:20], GOOD[19]], [*GOOD[:20], other[20]],
        [*GOOD[:39], (GOOD[39][0], touch(GOOD[39][1], 7))],
    ):  # fmt: skip
        assert assert_same_opening(burst, replay_window=32) is None
    assert assert_same_opening(GOOD, replay=Replay(seq=1), replay_window=32) is None
    opened(GOOD[1:], replay=Replay(seq=1), replay_window=32)


@each("size", [1, 2, 31, 32])
@each("lost", [0, 1, 30, 31, 32, 33])
def test_windows(size: int, lost: int) -> None:
    """What the window remembers behind the train, after a gap in front of it."""
    burst = seal_all({}, [ipv4(100)] * 5, 100 + lost)
    seen = 0b1011_0111_0000_0000_1111_0000_1111_0001
    opened(burst, replay=Replay(seq=100, bitmap=seen), replay_window=size)


def test_the_end_of_the_numbers() -> None:
    for top, ends in ((LAST_32 - 40 - 32, True), (LAST_32 - 41, False), (LAST_32 - 40, False)):
        burst = seal_all({}, [ipv4(100)] * 40, top)
        outcome = assert_same_opening(burst, replay=Replay(seq=top), replay_window=32)
        assert (outcome is not None) == ends


def test_esn_crosses_into_the_next_subspace() -> None:
    for top in ((5 << 32) - 21, (5 << 32) - 41, (5 << 32) - 40, (5 << 32) - 1, 5 << 32):
        replay_esn = ReplayEsn((0, 0), seq=top & LAST_32, seq_hi=top >> 32, replay_window=64)
        fields = {"flags": STATE_ESN, "replay_esn": replay_esn}
        assert_same_opening(seal_all(fields, [ipv4(100)] * 40, top), **fields)


@each(
    "plaintext",
    [
        bytes(98) + trailer(0, 59), ipv4(60) + bytes(38) + trailer(0, 4), trailer(98, 4), b"\xff" * 100,
        ipv4(22) + trailer(76, 17), ipv4(22) + trailer(76, 41), ipv6(90) + trailer(8, 4), ipv4(98) + trailer(0, 4),
        ipv4(20)[:19] + trailer(79, 4), ipv6(40) + trailer(58, 41), ipv6(40)[:39] + trailer(59, 41),
    ],
    ids=["dummy", "tfc", "only padding", "padding too long", "no tunnel", "other family", "other family 6", "plain",
         "truncated", "header only", "truncated 6"],
)  # fmt: skip
@each("at", [0, 20, None])
def test_what_a_peer_should_not_send(plaintext: bytes, at: int | None) -> None:
    header = GOOD[0][0]
    good = [(header, forge({}, seq, ipv4(96) + trailer(2, 4))) for seq in range(1, 41)]
    odd = [(header, forge({}, seq, plaintext)) for seq in range(1, 41)]
    burst = odd if at is None else [*good[:at], odd[at], *good[at + 1 :]]
    assert {len(packet) for _, packet in burst} == {len(good[0][1])}
    opened(burst, replay_window=32)


def test_trailers_that_differ_in_one_byte() -> None:
    """The same padding but another next header, and the other way round."""
    header = GOOD[0][0]
    for tail in (trailer(2, 59), trailer(2, 17), trailer(2, 41), trailer(1, 4), trailer(6, 4), trailer(2, 4)):
        for text in (ipv4(96), ipv6(96)):
            for at in (0, 20, 39):
                burst = [(header, forge({}, seq, ipv4(96) + trailer(2, 4))) for seq in range(1, 41)]
                burst[at] = header, forge({}, at + 1, (text + tail)[:98] + tail[-2:])
                opened(burst, replay_window=32)
    families = [ipv4(100), ipv6(100)] * 20
    assert opened(seal_all({"flags": STATE_AF_UNSPEC}, families, 0), flags=STATE_AF_UNSPEC).packets == families


@each("flags", [0, STATE_NOECN, STATE_DECAP_DSCP, STATE_NOECN | STATE_DECAP_DSCP])
@each("tos", [0, 3, 0xB9, 0xBB])
def test_marks_and_classes(flags: int, tos: int) -> None:
    """Congestion experienced, and decap-dscp."""
    for make_, (src, dst) in ((ipv4, V4), (ipv6, V6)):
        fields = {"flags": flags | STATE_AF_UNSPEC, "src": src, "dst": dst}
        burst = seal_all(fields, [make_(100, 2), make_(100, 0), make_(100, 1)] * 5, 0)
        header = bytearray(burst[0][0])
        if header[0] >> 4 == 4:
            header[1] = tos
        else:
            header[0], header[1] = 0x60 | tos >> 4, (tos & 15) << 4
        opened([(bytes(header), packet) for _, packet in burst], **fields)


@each("addresses", [V4, V6])
@each("what", ["port", "address"])
@each("threshold", [0, 100])
@each("wrong", [0, 1])
def test_a_peer_that_has_moved(addresses: tuple[str, str], what: str, threshold: int, wrong: int) -> None:
    """Told for each packet, unless told not to; not for those with wrong ICVs."""
    fields = {"src": addresses[0], "dst": addresses[1], "encap": Encap(sport=4500), "mtimer_thresh": threshold}
    burst = seal_all(fields, [ipv4(100)] * 20, 0)
    header = bytearray(burst[0][0])
    if what == "port":
        header[-8:-6] = b"\x99\x99"
    else:
        header[15 if addresses is V4 else 23] ^= 1
    burst = [(bytes(header), packet) for _, packet in burst]
    for at in range(wrong):
        burst[at] = burst[at][0], touch(burst[at][1], -1)
    outcome = opened(burst, **fields)
    assert len(outcome.packets) == 20 - wrong
    assert len(outcome.told) == (1 if threshold else 20 - wrong)


def test_limits_are_reached_as_one_by_one_inside() -> None:
    """A limit in bytes is compared with the texts, which are longer than payloads: declined a little too soon."""
    opened(GOOD, limits=Limits(hard_packets=41, hard_bytes=40 * 104 + 1))
    for limits in (Limits(hard_packets=40), Limits(soft_packets=1), Limits(hard_bytes=4000), Limits(soft_bytes=0)):
        assert assert_same_opening(GOOD, limits=limits) is None


@pytest.mark.parametrize(("field", "value"), [("km", KM_DEAD), ("dir", SaDir.OUT), ("mode", Mode.BEET)])
def test_a_state_that_may_not_receive(field: str, value: int) -> None:
    state = make()
    setattr(state, field, value)
    assert open_train(state, arrived(GOOD[0][0], [packet for _, packet in GOOD]), NOW) is None


def test_the_memory_of_a_device_is_used_again() -> None:
    """By states with other keys, other ICVs, other numbers and other payloads, from other rows on."""
    shapes: list[tuple[dict[str, Any], int]] = [
        ({}, 100), (ESN, 101), (COMBINED["gcm256-icv128"], 102), (COMBINED["ccm128-icv64"], 110), (ESN, 99), ({}, 100),
        (COMBINED["ccm128-icv128"], 100), (COMBINED["chacha20poly1305"] | ESN, 99), (COMBINED["ccm192-icv64"], 108),
    ]  # fmt: skip
    length = len(GOOD[0][1])
    memory = Memory(64, length, lead=20)
    for number, (fields, size) in enumerate(shapes * 2):
        packets = [ipv4(size, ident=number + at) for at in range(9 + number)]
        sealed = seal_all(fields, packets, 0)
        assert {len(packet) for _, packet in sealed} == {length}
        result = open_train(make(**fields), memory.receive(sealed[0][0], [p for _, p in sealed], number % 7), NOW)
        assert result is not None and result[2] is not None
        assert [bytes(packet) for packet in result[0]] == packets


def test_there_and_back() -> None:
    """A train that was sealed here is opened there."""
    for udp in (False, True):
        whole = super_packet(60, 60 * 30, udp=udp)
        train = train_of([whole], encap=Encap())
        datagrams = [split_outer(packet) for packet in train]
        outcome = opened([(datagrams[0][0], packet) for _, packet in datagrams], encap=Encap())
        assert outcome.packets == [bytes(packet) for packet in segment(whole)]
