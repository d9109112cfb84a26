"""What belongs together: frames of links and records of daemons become packets, by their ESP bytes."""

from __future__ import annotations

import random

import pytest

from xfrmi.client.packets import Record
from xfrmi.web.forge import copy_of
from xfrmi.web.packets import MAX_PACKETS, Log

MACS = bytes(12) + b"\x08\x00"


def outer(sequence: int, ttl: int = 64, spi: int = 0x1001) -> bytes:
    esp = spi.to_bytes(4, "big") + sequence.to_bytes(4, "big") + bytes(range(40))
    size = (20 + len(esp)).to_bytes(2, "big")
    return b"\x45\0" + size + bytes(4) + bytes([ttl, 50, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]) + esp


INNER = b"\x45\0\0\x1c" + bytes(5) + b"\x01\0\0\x0a\0\0\1\x0a\0\0\2" + b"\x08\0" + bytes(6)


def sealed(sequence: int) -> Record:
    return Record(1.0, "ipsec0", "out", INNER, outer(sequence))


def opened(sequence: int, reason: str = "", counter: str = "") -> Record:
    return Record(2.0, "ipsec0", "in", b"" if reason else INNER, outer(sequence, 63), counter, reason)


def test_one_packet_from_end_to_end_in_any_order() -> None:
    steps = [
        lambda log: log.told("moon", sealed(7)),
        lambda log: log.seen(0, True, MACS + outer(7)),
        lambda log: log.seen(1, True, MACS + outer(7, 63) + bytes(9)),  # Ethernet pads
        lambda log: log.told("sun", opened(7)),
    ]
    for seed in range(20):
        log = Log()
        random.Random(seed).shuffle(steps)
        found = {step(log).number for step in steps}
        assert len(found) == 1
        (packet,) = log
        assert packet.summary() == {
            "id": 1, "time": packet.time, "esp": {"spi": 0x1001, "sequence": 7}, "outer": "192.0.2.1 → 192.0.2.2",
            "inner": "echo request 10.0.0.1 → 10.0.0.2", "bytes": 68, "origin": "",
            "links": [{"link": seen.link, "forward": True} for seen in packet.frames],
            "sealed": {"node": "moon", "interface": "ipsec0", "counter": "", "reason": ""},
            "opened": [{"node": "sun", "interface": "ipsec0", "counter": "", "reason": ""}],
        }  # fmt: skip
        assert sorted(seen.link for seen in packet.frames) == [0, 1]


def test_the_same_bytes_again_are_another_packet() -> None:
    log = Log()
    first = log.seen(0, True, MACS + outer(7))
    again = log.seen(0, True, MACS + outer(7))
    assert first is not None and again is not None and first.number != again.number
    assert log.told("sun", opened(7, "replayed", "XfrmInStateSeqError")) is again


def test_what_we_send_is_known_by_it() -> None:
    log = Log()
    log.told("moon", sealed(7))
    log.seen(0, True, MACS + outer(7))
    log.told("sun", opened(7))
    ours = log.announce(outer(7)[20:], "replayed: unchanged")
    assert log.seen(0, True, MACS + outer(7)) is ours
    assert log.told("sun", opened(7, "replayed", "XfrmInStateSeqError")) is ours
    assert ours.sealed is None and len(ours.opened) == 1


def test_a_packet_that_never_left() -> None:
    log = Log()
    packet = log.told("moon", Record(1.0, "ipsec0", "out", INNER, b"", "XfrmOutNoStates", "no state"))
    assert (packet.esp, packet.outer, packet.inner) == (b"", b"", INNER)
    assert packet.summary()["sealed"]["counter"] == "XfrmOutNoStates"


def test_others_are_shown_as_they_are() -> None:
    log = Log()
    assert log.seen(0, True, bytes(12) + b"\x08\x06" + bytes(28)) is None
    ping = MACS + INNER
    packet = log.seen(0, False, ping)
    assert packet is not None and not packet.esp
    assert packet.summary()["outer"] == "10.0.0.1 > 10.0.0.2: ICMP, 8 bytes"
    fragment = bytearray(MACS + outer(3))
    fragment[20] = 0x20
    assert log.seen(0, True, bytes(fragment)) is not None


def test_old_ones_are_forgotten() -> None:
    log = Log()
    for sequence in range(MAX_PACKETS + 5):
        log.told("moon", sealed(sequence))
    assert len(list(log)) == MAX_PACKETS and log.get(5) is None and log.get(6) is not None
    assert len(log.take_changed()) == MAX_PACKETS and log.take_changed() == []
    assert log.told("sun", opened(0)).number == MAX_PACKETS + 6


def test_no_frame_is_too_odd() -> None:
    chance = random.Random(1)
    whole = MACS + outer(7)
    for cut in range(len(whole)):
        Log().seen(0, True, whole[:cut])
    for _ in range(2000):
        odd = bytearray(whole)
        for _ in range(3):
            odd[chance.randrange(12, len(odd))] = chance.randrange(256)
        packet = Log().seen(0, True, bytes(odd))
        if packet is not None:
            packet.summary()


def test_copies() -> None:
    log = Log()
    packet = log.seen(0, True, MACS + outer(7))
    assert packet is not None
    same = copy_of(packet)
    assert (same.frame, same.text, same.esp) == (MACS + outer(7), "unchanged", packet.esp)
    turned = copy_of(packet, offset=30, mask=0x81)
    assert [at for at, (one, other) in enumerate(zip(turned.frame, same.frame, strict=True)) if one != other] == [44]
    assert turned.frame[44] == same.frame[44] ^ 0x81
    renumbered = copy_of(packet, number=0x1_0000_0009)
    assert renumbered.frame[14 + 24 : 14 + 28] == bytes([0, 0, 0, 9]) and "7 → 9" in renumbered.text
    with pytest.raises(ValueError, match="bytes 0 to 67"):
        copy_of(packet, offset=68)
    unsent = log.told("moon", sealed(8))
    with pytest.raises(ValueError, match="on no link"):
        copy_of(unsent)
