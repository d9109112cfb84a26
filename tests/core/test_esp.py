"""core.esp: seal and open against each other, and against hostile bytes; against a kernel: tests/captures."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.each import each
from xfrmi.core import esp
from xfrmi.core.state import KM_ACQ, KM_DEAD, KM_EXPIRED, State
from xfrmi.errors import Drop
from xfrmi.wire.esp import trailer
from xfrmi.wire.ip import split_outer, trim
from xfrmi.wire.xfrm_const import STATE_ESN, Mode, SaDir, XfrmStat
from xfrmi.wire.xfrm_types import Algorithm, Encap, Limits, ReplayEsn

NOW = 1_700_000_000.5
KEY = bytes(range(20))
GCM_16 = Algorithm("rfc4106(gcm(aes))", KEY, 128)

INNER4 = bytes.fromhex("45000024123440004011d42bc6336401c6336402045708ae0010dd7e00000000c0de0001")
INNER6 = bytes.fromhex(
    "600000000010114020010db800010000000000000000000120010db8000100000000000000000002045708ae0010d66f00000000c0de0004"
)


def make(**fields: Any) -> State:
    given_: dict[str, Any] = {
        "src": "192.0.2.1",
        "dst": "192.0.2.2",
        "spi": 0x1000,
        "mode": Mode.TUNNEL,
        "aead": GCM_16,
    }
    return State(**given_ | fields)


def pair(**fields: Any) -> tuple[State, State]:
    return make(**fields), make(**fields)


def drop_of(state: State, header: bytes, packet: bytes, now: float = NOW) -> XfrmStat | None:
    with pytest.raises(Drop) as caught:
        esp.open(state, header, packet, now)
    return caught.value.stat


def forge(state: State, plaintext: bytes, seq: int = 1) -> tuple[bytes, bytes]:
    """(header, ESP) with any plaintext, well sealed: what a peer with the key but without manners sends."""
    head = state.spi_bytes + seq.to_bytes(4, "big")
    header = split_outer(bytes(esp.seal(make(), INNER4, NOW)))[0]
    return bytes(header), head + bytes(8) + state.transform.seal(head, b"", bytes(8), plaintext)


# Two states, back to back --------------------------------------------------------------------------------------------

SHAPES: list[dict[str, Any]] = [
    {},
    {"replay_window": 32},
    {"flags": STATE_ESN, "replay_esn": ReplayEsn((0,) * 4, replay_window=128)},
    {"encap": Encap()},
    {"src": "2001:db8::1", "dst": "2001:db8::2"},
    {"src": "2001:db8::1", "dst": "2001:db8::2", "encap": Encap(sport=4500, dport=4600)},
    {"aead": Algorithm("rfc4106(gcm(aes))", bytes(28), 64)},
    {"aead": Algorithm("rfc4106(gcm(aes))", bytes(36), 96)},
    {"tfcpad": 500},
]


@given(st.sampled_from(SHAPES), st.sampled_from([INNER4, INNER6]), st.integers(0, 40))
def test_what_is_sealed_opens(shape: dict[str, Any], inner: bytes, extra: int) -> None:
    sender, receiver = pair(**shape)
    packet = bytearray(inner + bytes(extra))
    if inner[0] >> 4 == 4:
        packet[2:4] = len(packet).to_bytes(2, "big")
    else:
        packet[4:6] = (len(packet) - 40).to_bytes(2, "big")
    for _ in range(3):
        outer = esp.seal(sender, packet, NOW)
        assert bytes(trim(esp.open(receiver, *split_outer(bytes(outer)), NOW))) == bytes(packet)


@each("kind", [bytes, bytearray, memoryview])
@each("shape", SHAPES)
def test_any_buffer_goes_in(kind: Any, shape: dict[str, Any]) -> None:
    sender, receiver = pair(**shape)
    header, body = split_outer(bytes(esp.seal(sender, kind(INNER4), NOW)))
    assert bytes(trim(esp.open(receiver, kind(header), kind(body), NOW))) == INNER4


def test_every_iv_is_new_whatever_the_sequence_number_does() -> None:
    """The counter behind the IV is not the sequence number: setting that back gives other IVs, so other nonces."""
    state = make()
    ivs = set()
    for _ in range(4):
        state.sequence.last = 0
        for _ in range(50):
            ivs.add(bytes(esp.seal(state, INNER4, NOW)[28:36]))
    assert len(ivs) == 200


def test_two_states_with_one_key_have_different_ivs() -> None:
    first, second = pair()
    assert esp.seal(first, INNER4, NOW)[28:36] != esp.seal(second, INNER4, NOW)[28:36]


def test_lt_04_counts_the_inner_packet_and_lt_07_notes_the_time() -> None:
    sender, receiver = pair(tfcpad=200)
    body = split_outer(bytes(esp.seal(sender, INNER4, NOW)))
    esp.open(receiver, *body, NOW)
    assert (sender.bytes, sender.packets) == (len(INNER4), 1)
    assert sender.lastused == sender.use_time == receiver.use_time == receiver.lastused == int(NOW)
    assert (receiver.bytes, receiver.packets) == (200, 1)  # TFC is part of what arrives (5.1)


def test_lt_09_a_failed_cipher_has_used_up_number_and_lifetime() -> None:
    class Broken:
        iv_len, icv_len, align, random_iv = 8, 16, 4, False

        def seal(self, *_: object) -> bytes:
            raise RuntimeError

    state = make()
    state.transform = Broken()  # type: ignore[assignment]
    with pytest.raises(RuntimeError):
        esp.seal(state, INNER4, NOW)
    assert (state.oseq, state.packets) == (1, 1)


def test_tfc_pads_to_the_target_but_never_beyond_the_mtu() -> None:
    """RFC 4303 2.7, 5.8."""
    lengths = {}
    for tfcpad in (0, 10, 200, 4000):
        state = make(tfcpad=tfcpad)
        state.path_mtu = 1400
        lengths[tfcpad] = len(esp.seal(state, INNER4, NOW))
    plain = lengths[0]
    assert lengths[10] == plain
    assert lengths[200] == 20 + 16 + 204 + 16
    assert lengths[4000] <= 1400 < lengths[4000] + 8


# Refusals, outwards --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("km", [KM_ACQ, KM_EXPIRED, KM_DEAD])
def test_only_a_valid_state_seals(km: int) -> None:
    state = make()
    state.km = km
    with pytest.raises(Drop) as caught:
        esp.seal(state, INNER4, NOW)
    assert caught.value.stat == XfrmStat.OUT_STATE_INVALID
    assert state.oseq == 0


def test_lt_01_exactly_n_packets_pass() -> None:
    state = make(limits=Limits(hard_packets=2))
    told: list[bool] = []
    state.on_limit = lambda _, hard: told.append(hard)
    esp.seal(state, INNER4, NOW)
    esp.seal(state, INNER4, NOW)
    for expected in (XfrmStat.OUT_STATE_EXPIRED, XfrmStat.OUT_STATE_INVALID):
        with pytest.raises(Drop) as caught:
            esp.seal(state, INNER4, NOW)
        assert caught.value.stat == expected
    assert told == [True] and state.oseq == 2 and state.km == KM_EXPIRED


def test_sequence_numbers_end_and_stay_ended() -> None:
    state = make()
    state.sequence.last = 0xFFFFFFFE
    esp.seal(state, INNER4, NOW)
    for _ in range(2):
        with pytest.raises(Drop) as caught:
            esp.seal(state, INNER4, NOW)
        assert caught.value.stat == XfrmStat.OUT_STATE_SEQ_ERROR
    assert state.oseq == 0xFFFFFFFF and state.packets == 1


@pytest.mark.parametrize("packet", [b"", b"\x45", b"\x00" * 40, INNER6[:39]])
def test_what_is_no_ip_packet_is_not_sealed(packet: bytes) -> None:
    with pytest.raises(Drop) as caught:
        esp.seal(make(), packet, NOW)
    assert caught.value.stat == XfrmStat.OUT_STATE_MODE_ERROR


def test_an_outer_packet_has_at_most_65535_bytes() -> None:
    """EMSGSIZE (5.10)."""
    with pytest.raises(Drop) as caught:
        esp.seal(make(encap=Encap()), b"\x45\x00\xff\xff" + bytes(65531), NOW)
    assert caught.value.stat == XfrmStat.OUT_STATE_PROTO_ERROR


# Refusals, inwards ---------------------------------------------------------------------------------------------------


def test_state_direction_and_life_come_first() -> None:
    """LT-08, 3.6: nothing of the packet is looked at before."""
    header = bytes(split_outer(bytes(esp.seal(make(), INNER4, NOW)))[0])
    assert drop_of(make(dir=SaDir.OUT), header, b"") == XfrmStat.IN_STATE_DIR_ERROR
    for km, stat in (
        (KM_ACQ, XfrmStat.ACQUIRE_ERROR),
        (KM_EXPIRED, XfrmStat.IN_STATE_INVALID),
        (KM_DEAD, XfrmStat.IN_STATE_INVALID),
    ):
        state = make()
        state.km = km
        assert drop_of(state, header, b"") == stat


@pytest.mark.parametrize("outer", [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")])
def test_encapsulation_must_be_as_configured(outer: tuple[str, str]) -> None:
    """5.10: plain ESP for an encapsulating state, and the reverse."""
    plain = make(src=outer[0], dst=outer[1])
    encapsulated = make(src=outer[0], dst=outer[1], encap=Encap())
    for sender, receiver in ((plain, encapsulated), (encapsulated, plain)):
        header, body = split_outer(bytes(esp.seal(sender, INNER4, NOW)))
        assert drop_of(receiver, header, body) == XfrmStat.IN_STATE_MISMATCH


def test_rp_10_a_wrong_icv_moves_nothing() -> None:
    sender, receiver = pair(replay_window=32)
    sender.sequence.last = 99
    header, body = split_outer(bytes(esp.seal(sender, INNER4, NOW)))
    for position in range(4, len(body)):  # every bit behind the SPI is covered: number, IV, ciphertext, ICV
        broken = bytearray(body)
        broken[position] ^= 1
        assert drop_of(receiver, header, bytes(broken)) == XfrmStat.IN_STATE_PROTO_ERROR
    assert receiver.stats_integrity_failed == len(body) - 4
    assert receiver.window.top == 0 and receiver.packets == 0
    assert bytes(esp.open(receiver, header, body, NOW)) == INNER4


@pytest.mark.parametrize("icv", [64, 96, 128])
def test_a_shortened_icv_is_no_icv(icv: int) -> None:
    """A.10: truncated ICVs must be verified in full, not as far as they go."""
    sender, receiver = pair(aead=Algorithm("rfc4106(gcm(aes))", KEY, icv))
    header, body = split_outer(bytes(esp.seal(sender, INNER4, NOW)))
    for length in range(len(body)):
        assert drop_of(receiver, header, body[:length]) in (XfrmStat.IN_STATE_PROTO_ERROR, XfrmStat.IN_HDR_ERROR)
    assert bytes(esp.open(receiver, header, body, NOW)) == INNER4


@each("length", range(8, 32))
def test_shorter_than_iv_and_icv_is_no_integrity_failure(length: int) -> None:
    state = make()
    header = bytes(split_outer(bytes(esp.seal(make(), INNER4, NOW)))[0])
    assert drop_of(state, header, bytes(length)) == XfrmStat.IN_STATE_PROTO_ERROR
    assert state.stats_integrity_failed == 0


@pytest.mark.parametrize(
    ("plaintext", "stat"),
    [
        pytest.param(b"", XfrmStat.IN_STATE_PROTO_ERROR, id="no trailer"),
        pytest.param(b"\x04", XfrmStat.IN_STATE_PROTO_ERROR, id="half a trailer"),
        pytest.param(bytes([0, 4]), XfrmStat.IN_STATE_PROTO_ERROR, id="only a trailer"),
        pytest.param(bytes([1, 1, 4]), XfrmStat.IN_STATE_PROTO_ERROR, id="only padding"),
        pytest.param(INNER4 + bytes([255, 4]), XfrmStat.IN_STATE_PROTO_ERROR, id="padding beyond the packet"),
        pytest.param(INNER4 + bytes([len(INNER4), 4]), XfrmStat.IN_STATE_PROTO_ERROR, id="padding all over"),
        pytest.param(INNER4 + trailer(0, 59), XfrmStat.IN_STATE_PROTO_ERROR, id="dummy"),
        pytest.param(INNER4 + trailer(0, 17), XfrmStat.IN_STATE_MODE_ERROR, id="udp in a tunnel"),
        pytest.param(INNER4[:19] + trailer(0, 4), XfrmStat.IN_STATE_MODE_ERROR, id="short inner header"),
    ],
)
def test_authentic_nonsense(plaintext: bytes, stat: XfrmStat) -> None:
    """5.1, RP-10: the trailer is judged before the window moves, the inner packet after."""
    state = make(replay_window=32)
    assert drop_of(state, *forge(state, plaintext)) == stat
    moved = stat == XfrmStat.IN_STATE_MODE_ERROR
    assert (state.window.top, state.packets) == (int(moved), int(moved))
    assert state.stats_integrity_failed == 0


def test_padding_contents_are_not_looked_at() -> None:
    state = make()
    assert bytes(esp.open(state, *forge(state, INNER4 + b"\xaa\xbb\x02\x04"), NOW)) == INNER4


def test_rp_09_a_replay_costs_no_decryption() -> None:
    sender, receiver = pair(replay_window=32)
    header, body = split_outer(bytes(esp.seal(sender, INNER4, NOW)))
    esp.open(receiver, header, body, NOW)
    damaged = body[:-1] + bytes([body[-1] ^ 1])
    assert drop_of(receiver, header, damaged) == XfrmStat.IN_STATE_SEQ_ERROR
    assert (receiver.stats_replay, receiver.stats_integrity_failed) == (1, 0)


@given(st.binary(max_size=120))
def test_hostile_bytes_only_ever_drop(body: bytes) -> None:
    state = make(replay_window=32)
    header = b"\x45" + bytes(8) + b"\x32" + bytes(10)
    assert drop_of(state, header, body) is not None


# The peer behind a NAT -----------------------------------------------------------------------------------------------


def from_port(sender: State, port: int) -> tuple[bytes, bytes]:
    header, body = split_outer(bytes(esp.seal(sender, INNER4, NOW)))
    return bytes(header[:-8]) + port.to_bytes(2, "big") + bytes(header[-6:]), bytes(body)


def test_a_new_source_is_told_every_time_and_changes_nothing() -> None:
    """3.8: without a threshold every packet from elsewhere is a MAPPING; the state keeps what was configured."""
    sender, receiver = pair(encap=Encap())
    told: list[tuple[bytes, int]] = []
    receiver.on_mapping = lambda _, address, port: told.append((address, port))
    for port in (4500, 40000, 40000, 4500):
        esp.open(receiver, *from_port(sender, port), NOW)
    assert told == [(bytes([192, 0, 2, 1]), 40000)] * 2
    header, body = from_port(sender, 4500)
    moved = header[:12] + bytes([203, 0, 113, 9]) + header[16:]
    esp.open(receiver, moved, body, NOW)
    assert told[-1] == (bytes([203, 0, 113, 9]), 4500)
    assert receiver.encap == Encap() and receiver.src == bytes([192, 0, 2, 1])


def test_mtimer_thresh_spaces_them_out_except_for_new_ports() -> None:
    sender = make(encap=Encap())
    receiver = make(encap=Encap(), dir=SaDir.IN, mtimer_thresh=10)
    told: list[int] = []
    receiver.on_mapping = lambda _, __, port: told.append(port)
    for port, now in ((40000, 0), (40000, 10), (40000, 11), (41000, 12), (41000, 13)):
        esp.open(receiver, *from_port(sender, port), NOW + now)
    assert told == [40000, 40000, 41000]


def test_an_unauthentic_packet_does_not_move_the_peer() -> None:
    sender, receiver = pair(encap=Encap())
    told: list[int] = []
    receiver.on_mapping = lambda _, __, port: told.append(port)
    header, body = from_port(sender, 40000)
    assert drop_of(receiver, header, body[:-1] + bytes([body[-1] ^ 1])) == XfrmStat.IN_STATE_PROTO_ERROR
    assert told == []
