"""Every algorithm on its way through esp.seal and esp.open: what it adds, what it accepts, what it refuses (4, 5)."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from tests.core.algorithms import ALL, AUTHENTICATED, CCM, CHACHA, GCM, NULL, SHA256, combined, pair
from tests.core.packets import udp
from tests.each import each
from xfrmi.core import esp
from xfrmi.core.state import State
from xfrmi.errors import Drop
from xfrmi.wire.esp import trailer
from xfrmi.wire.ip import split_outer, trim
from xfrmi.wire.xfrm_const import STATE_ESN, Mode, XfrmStat
from xfrmi.wire.xfrm_types import Algorithm, Encap, Replay, ReplayEsn, Selector

NOW = 1_700_000_000.0
OUTER_LEN, ESP_LEN = 20, 8
LOW = 0xFFFFFFFF
LAST = 0x5_FFFF_FFFD
"""The third number from here is the first of the next subspace."""

every = each("fields", ALL.values(), ids=ALL)
authenticated = each("fields", AUTHENTICATED.values(), ids=AUTHENTICATED)


def state(fields: dict[str, Any], **more: Any) -> State:
    """Its random IVs are always the same, so that a test does the same each time."""
    usual: dict[str, Any] = {"src": "192.0.2.1", "dst": "192.0.2.2", "spi": 0x1001, "mode": Mode.TUNNEL}
    return State(**usual | {"random": lambda length: bytes(range(length))} | fields | more)


def packet(length: int) -> bytes:
    """An IPv4 packet with `length` bytes of payload behind its UDP header."""
    return udp("198.51.100.1", "198.51.100.2", bytes(at & 0xFF for at in range(length)))


def aligned(length: int, align: int) -> int:
    return -(-length // align) * align


@every
def test_there_and_back(fields: dict[str, Any]) -> None:
    """5.1: outer header, ESP header, IV, the payload with its trailer up to a whole block, ICV."""
    sender, receiver = state(fields), state(fields, replay_window=32)
    transform = sender.transform
    for number, length in enumerate([*range(18), 100, 1400], 1):
        inner = packet(length)
        outer = esp.seal(sender, inner, NOW)
        inside = aligned(len(inner) + 2, transform.align)
        assert len(outer) == OUTER_LEN + ESP_LEN + transform.iv_len + inside + transform.icv_len
        header, body = split_outer(outer)
        assert body[:8] == b"\0\0\x10\x01" + number.to_bytes(4, "big")
        assert esp.open(receiver, header, body, NOW) == inner
    assert (sender.packets, sender.bytes) == (receiver.packets, receiver.bytes)


@authenticated
def test_what_was_touched_is_refused(fields: dict[str, Any]) -> None:
    """A.10, LT-09: counted as an integrity failure, and remembered by nothing else."""
    sender, receiver = state(fields), state(fields, replay_window=32)
    header, body = split_outer(esp.seal(sender, packet(40), NOW))
    transform = sender.transform
    regions = {4: "sequence", 8: "IV or payload", 8 + transform.iv_len: "payload", len(body) - 1: "ICV"}
    for at in regions:
        touched = bytearray(body)
        touched[at] ^= 0x10
        with pytest.raises(Drop) as caught:
            esp.open(receiver, header, touched, NOW)
        assert (caught.value.stat, caught.value.reason) == (XfrmStat.IN_STATE_PROTO_ERROR, "wrong ICV")
    assert (receiver.stats_integrity_failed, receiver.packets, receiver.window.top) == (len(regions), 0, 0)
    assert esp.open(receiver, header, body, NOW) == packet(40)


@every
def test_too_short_for_iv_and_icv(fields: dict[str, Any]) -> None:
    receiver = state(fields, replay_window=32)
    transform = receiver.transform
    for length in range(8, 8 + transform.iv_len + transform.icv_len):
        with pytest.raises(Drop) as caught:
            esp.open(receiver, bytes((0x45,)) + bytes(8) + b"\x32" + bytes(10), bytes(7) + bytes((1,) * length), NOW)
        assert caught.value.stat == XfrmStat.IN_STATE_PROTO_ERROR
    assert not receiver.packets


@every
def test_garbage_is_dropped_and_spoils_nothing(fields: dict[str, Any]) -> None:
    """Of any length. Where nothing is authenticated some may get through, and does no harm."""
    chance = random.Random(7)
    sender, receiver = state(fields), state(fields)
    header, body = split_outer(esp.seal(sender, packet(40), NOW))
    for length in range(120):
        with suppress(Drop):
            garbage = body[:4] + chance.randbytes(length)
            opened = esp.open(receiver, header, garbage, NOW)
            assert not receiver.transform.icv_len, opened
    assert esp.open(receiver, header, body, NOW) == packet(40)


def esn(oseq: int = 0, seq: int = 0) -> dict[str, Any]:
    counters = ReplayEsn((0, 0), oseq & LOW, seq & LOW, oseq >> 32, seq >> 32, 64)
    return {"flags": STATE_ESN, "replay_esn": counters}


@every
def test_esn_across_the_subspace(fields: dict[str, Any]) -> None:
    """RFC 4304: the upper half is authenticated, by every algorithm that authenticates, and does not travel."""
    sender, receiver = state(fields, **esn(oseq=LAST)), state(fields, **esn(seq=LAST))
    without = esp.seal(state(fields), packet(40), NOW)
    for number in range(LAST + 1, LAST + 5):
        outer = esp.seal(sender, packet(40), NOW)
        assert len(outer) == len(without)
        header, body = split_outer(outer)
        assert int.from_bytes(body[4:8], "big") == number & LOW
        assert esp.open(receiver, header, body, NOW) == packet(40)
    assert receiver.window.top == LAST + 4


@authenticated
def test_a_wrong_upper_half_is_a_wrong_icv(fields: dict[str, Any]) -> None:
    sender = state(fields, **esn(oseq=3 << 32))
    header, body = split_outer(esp.seal(sender, packet(40), NOW))
    for wrong in (state(fields, **esn(seq=4 << 32)), state(fields)):
        with pytest.raises(Drop) as caught:
            esp.open(wrong, header, body, NOW)
        assert caught.value.reason == "wrong ICV"
    assert esp.open(state(fields, **esn(seq=3 << 32)), header, body, NOW) == packet(40)


@every
def test_tfc_padding(fields: dict[str, Any]) -> None:
    """5.1, 5.8: all packets up to that length look alike; the receiving IP cuts the zeros off."""
    sender, receiver = state(fields, tfcpad=600), state(fields, replay_window=32)
    lengths = set()
    for length in (0, 1, 100, 500):
        outer = esp.seal(sender, packet(length), NOW)
        lengths.add(len(outer))
        opened = esp.open(receiver, *split_outer(outer), NOW)
        assert len(opened) == 600 and not any(opened[28 + length :])
        assert trim(opened) == packet(length)
    transform = sender.transform
    assert lengths == {OUTER_LEN + ESP_LEN + transform.iv_len + aligned(602, transform.align) + transform.icv_len}


@every
def test_rp_10_dummy_packets(fields: dict[str, Any]) -> None:
    """Next header 59: authenticated, dropped, an error, and not in the window."""
    receiver = state(fields, replay_window=32)
    transform = receiver.transform
    head, iv = receiver.spi_bytes + b"\0\0\0\1", bytes(transform.iv_len)
    body = head + iv + transform.seal(head, b"", iv, bytes(46) + trailer(0, 59))
    with pytest.raises(Drop) as caught:
        esp.open(receiver, split_outer(esp.seal(state(fields), packet(1), NOW))[0], body, NOW)
    assert (caught.value.stat, caught.value.reason) == (XfrmStat.IN_STATE_PROTO_ERROR, "dummy packet")
    assert (receiver.window.top, receiver.stats_integrity_failed) == (0, 0)


# MTU (5.8) -----------------------------------------------------------------------------------------------------------


@every
@each("encap", [None, Encap()], ids=["esp", "udp"])
@each("path_mtu", [1280, 1499, 1500, 9000])
def test_a_packet_of_that_size_fits_and_the_next_larger_does_not(
    fields: dict[str, Any], encap: Encap | None, path_mtu: int
) -> None:
    sender = state(fields, encap=encap)
    mtu = sender.mtu(path_mtu)
    for size, fits in ((mtu, True), (mtu + 1, False)):
        assert (len(esp.seal(sender, packet(size - 28), NOW)) <= path_mtu) == fits


V6 = {"src": "2001:db8::1", "dst": "2001:db8::2"}
CBC_SHA256, CBC_SHA1 = pair("cbc(aes)", 16, SHA256, 32, 128), pair("cbc(aes)", 16, "hmac(sha1)", 20)


@each(
    ("fields", "mtu"),
    [
        (combined(CHACHA, 36), 1446),
        (combined(CCM, 19, 64), 1454),
        (combined(CCM, 19, 96), 1450),
        (CBC_SHA256, 1438),
        (CBC_SHA1, 1438),
        ({**CBC_SHA1, "encap": Encap()}, 1422),
        ({**CBC_SHA256, **V6}, 1406),
        ({**CBC_SHA256, "mode": Mode.TRANSPORT}, 1458),
        ({**CBC_SHA256, "mode": Mode.BEET, "selector": Selector.parse("10.0.0.1/32", "10.0.0.2/32")}, 1442),
        (pair(NULL, 0, SHA256, 32, 128), 1454),
        (pair("rfc3686(ctr(aes))", 20, SHA256, 32, 128), 1446),
        (pair("cbc(des3_ede)", 24, "hmac(md5)", 16), 1446),
        (pair("cbc(aes)", 16), 1454),
        (pair(NULL, 0), 1470),
    ],
)
def test_mtu_table(fields: dict[str, Any], mtu: int) -> None:
    assert state(fields).mtu(1500) == mtu


# IVs -----------------------------------------------------------------------------------------------------------------


@every
def test_ivs_are_as_long_as_they_have_to_be_and_new(fields: dict[str, Any]) -> None:
    """A.10: a counter where repeating it would give plaintext or key away, chance where it must not be foretold."""
    asked: list[int] = []

    def draw(length: int) -> bytes:
        asked.append(length)
        return bytes((len(asked),)) * length

    sender = state(fields, random=draw)
    transform = sender.transform
    asked.clear()
    ivs = [sender.next_iv() for _ in range(4)]
    assert {len(iv) for iv in ivs} == {transform.iv_len}
    if transform.random_iv:
        assert asked == [transform.iv_len] * 4 and ivs == [bytes((n,)) * transform.iv_len for n in range(1, 5)]
    else:
        assert not asked and [int.from_bytes(iv, "big") ^ sender.iv_salt for iv in ivs] == [0, 1, 2, 3]


def test_any_iv_of_a_peer_is_accepted() -> None:
    """4.1: receivers ask nothing of an IV; a kernel's is made otherwise than ours."""
    for fields in (combined(GCM, 20), combined(CCM, 19), combined(CHACHA, 36), CBC_SHA256):
        sender, receiver = state(fields), state(fields)
        for byte in (0, 0xFF):
            iv = bytes((byte,)) * sender.transform.iv_len
            head = sender.spi_bytes + bytes((0, 0, 0, 1 + byte // 255))
            body = head + iv + sender.transform.seal(head, b"", iv, packet(16) + trailer(2, 4))
            assert esp.open(receiver, split_outer(esp.seal(sender, packet(1), NOW))[0], body, NOW) == packet(16)


# What a dump shows ---------------------------------------------------------------------------------------------------


def test_4_3_a_dump_shows_long_names_and_lengths() -> None:
    made = state({"crypt": Algorithm("aes", bytes(16)), "auth": Algorithm("sha256", bytes(32))})
    shown = made.snapshot()
    assert shown == replace(
        made.info, crypt=Algorithm("cbc(aes)", bytes(16)), auth=None,
        auth_trunc=Algorithm("hmac(sha256)", bytes(32), 96), replay=Replay(),
    )  # fmt: skip
