"""Bad links, without a device and by a clock of our own: what becomes of a frame, when, and how it is counted."""

from __future__ import annotations

import pytest

from tests.each import each
from xfrmi.lab.faults import Faults, parse_fault
from xfrmi.lab.one_way import ETH_HEADER_LEN, HELD_SECONDS, QUEUE, OneWay

IPV4 = b"\x08\x00" + bytes([0x45]) + bytes(19)
IPV6 = b"\x86\xdd" + bytes([0x60]) + bytes(39)
ARP = b"\x08\x06" + bytes(28)


def frame(number: int, size: int = 200, start: bytes = IPV4) -> bytes:
    head = bytes(12) + start
    return head + number.to_bytes(4, "big") + bytes(size - len(head) - 4)


def numbers(frames: list[bytes], start: bytes = IPV4) -> list[int]:
    at = 12 + len(start)
    return [int.from_bytes(frame[at : at + 4], "big") for frame in frames]


def test_nothing_to_do_is_done_at_once_and_in_order() -> None:
    way = OneWay(Faults(), 1)
    for number in range(5):
        way.push(frame(number), 10.0)
    assert way.next_due == 10.0
    assert numbers(way.pop(10.0)) == [0, 1, 2, 3, 4]
    assert way.next_due is None and way.counts.carried == 5


def test_delay() -> None:
    way = OneWay(Faults(delay=0.5), 1)
    way.push(frame(1), 10.0)
    way.push(frame(2), 10.2)
    assert way.next_due == 10.5
    assert way.pop(10.49) == []
    assert numbers(way.pop(10.5)) == [1]
    assert numbers(way.pop(99)) == [2]


def test_jitter_keeps_the_order() -> None:
    way = OneWay(Faults(delay=0.1, jitter=0.1), 1)
    dues = []
    for number in range(200):
        way.push(frame(number), number * 0.001)
        dues.append(way._last_due)
    assert len({round(due - number * 0.001, 6) for number, due in enumerate(dues)}) > 5
    assert dues == sorted(dues)
    assert numbers(way.pop(9)) == list(range(200))


def test_rate_is_bits_of_frames_per_second() -> None:
    way = OneWay(Faults(rate=8000), 1)
    for number in range(3):
        way.push(frame(number, 500), 1.0)
    assert [len(way.pop(at)) for at in (1.49, 1.5, 1.99, 2.0, 2.5)] == [0, 1, 0, 1, 1]
    way.push(frame(9, 500), 10.0)
    assert way.next_due == 10.5, "an idle link saves nothing up"


def test_the_queue_in_front_of_a_slow_link_overflows() -> None:
    way = OneWay(Faults(rate=8), 1)
    for number in range(QUEUE + 7):
        way.push(frame(number), 0.0)
    assert way.counts.overrun == 7


@pytest.mark.parametrize(("fault", "count"), [("loss", "lost"), ("duplicate", "duplicated"), ("corrupt", "corrupted")])
def test_chances(fault: str, count: str) -> None:
    way = OneWay(Faults(**{fault: 0.2}), 1)  # type: ignore[arg-type]
    for number in range(2000):
        way.push(frame(number), number)
        way.pop(number)
    assert 330 < getattr(way.counts, count) < 470
    extra = {"lost": -way.counts.lost, "duplicated": way.counts.duplicated, "corrupted": 0}[count]
    assert way.counts.carried == 2000 + extra


def test_the_seed_makes_a_run_repeatable() -> None:
    def run(seed: int) -> list[int]:
        way = OneWay(Faults(loss=0.3, duplicate=0.3, reorder=0.3, jitter=0.1, delay=0.2), seed)
        got: list[bytes] = []
        for number in range(100):
            way.push(frame(number), number / 100)
            got += way.pop(number / 100)
        return numbers(got + way.pop(99))

    assert run(1) == run(1) != run(2)


def test_reordered_is_behind_the_next_one() -> None:
    way = OneWay(Faults(reorder=1.0), 1)
    for number in range(4):
        way.push(frame(number), 0.0)
    assert numbers(way.pop(0.0)) == [1, 0, 3, 2]
    assert way.counts.reordered == 2


def test_held_back_does_not_wait_for_ever() -> None:
    way = OneWay(Faults(reorder=1.0), 1)
    way.push(frame(0), 5.0)
    assert way.pop(5.0) == []
    assert way.next_due == 5.0 + HELD_SECONDS
    assert numbers(way.pop(5.0 + HELD_SECONDS)) == [0]
    assert way.counts.reordered == 0, "it came behind nobody"


@pytest.mark.parametrize(("start", "header"), [(IPV4, 20), (IPV6, 40)])
def test_one_bit_behind_the_header_is_turned(start: bytes, header: int) -> None:
    way = OneWay(Faults(corrupt=1.0), 1)
    good = frame(7, 120, start)
    for _ in range(300):
        way.push(good, 0.0)
    for bad in way.pop(0.0):
        turned = int.from_bytes(good, "big") ^ int.from_bytes(bad, "big")
        assert turned.bit_count() == 1
        assert bad[: ETH_HEADER_LEN + header] == good[: ETH_HEADER_LEN + header]


def test_what_is_no_ip_is_not_damaged() -> None:
    way = OneWay(Faults(corrupt=1.0), 1)
    for odd in (frame(1, 60, ARP), bytes(12) + b"\x08\x00", bytes(12) + IPV4, b"", b"\x01"):
        way.push(odd, 0.0)
        assert way.pop(0.0) == [odd]
    assert way.counts.corrupted == 0


def test_a_black_hole_looks_at_ip_packets() -> None:
    way = OneWay(Faults(blackhole=1400), 1)
    way.push(frame(1, 1400 + ETH_HEADER_LEN), 0.0)
    way.push(frame(2, 1401 + ETH_HEADER_LEN), 0.0)
    assert numbers(way.pop(0.0)) == [1]
    assert way.counts.too_long == 1


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("delay", "20ms", 0.02), ("jitter", "500us", 0.0005), ("delay", "1.5s", 1.5), ("loss", "1%", 0.01),
        ("reorder", "100%", 1.0), ("rate", "10mbit", 1e7), ("rate", "9600bit", 9600), ("blackhole", 1400, 1400),
    ],
)  # fmt: skip
def test_faults_are_read(name: str, text: object, value: float) -> None:
    assert parse_fault(name, text) == pytest.approx(value)


@each(
    ("name", "text"),
    [
        ("delay", "20"), ("delay", 20), ("delay", "-1ms"), ("delay", "ms"), ("loss", "1"), ("loss", "101%"),
        ("loss", 0.5), ("rate", "10"), ("rate", "fast"), ("rate", "1e3bit"), ("blackhole", "1400"), ("seed", True),
        ("blackhole", -1), ("loss", "1.2.3%"), ("delay", "٣ms"),
    ],
)  # fmt: skip
def test_what_is_none_is_refused(name: str, text: object) -> None:
    with pytest.raises(ValueError, match=r"such as|from|number"):
        parse_fault(name, text)


def test_faults_in_few_words() -> None:
    faults = Faults(delay=0.02, jitter=0.001, loss=0.01, rate=1e7, blackhole=1400)
    assert faults.describe() == "20ms, ±1ms, loss 1%, 10mbit, blackhole 1400"
    assert not Faults(seed=3) and Faults(loss=0.1)
