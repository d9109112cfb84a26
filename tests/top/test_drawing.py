"""Numbers, bars, windows."""

from __future__ import annotations

import random

import pytest

from tests.each import each
from xfrmi.top.drawing import bar, duration, shortened, si, window


@each(
    ("value", "text"),
    [
        (0, "0"), (0.5, "0.5"), (5, "5"), (5.25, "5.2"), (99.9, "99.9"), (99.96, "100"), (999, "999"), (999.6, "1.00k"),
        (1234, "1.23k"), (9_996, "10.0k"), (99_960, "100k"), (999_499, "999k"), (999_500, "1.00M"), (8.3e9, "8.30G"),
        (2.0**64, "18.4E"), (1e30, "1000000000000E"),
    ],
)  # fmt: skip
def test_si(value: float, text: str) -> None:
    assert si(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0s"), (59.9, "59s"), (60, "1m00s"), (3599, "59m59s"), (3600, "1h00m"), (86399, "23h59m"), (90000, "1d01h")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_shortened() -> None:
    found = [shortened("abcdefgh", width) for width in (8, 7, 3, 2, 1, 0)]
    assert found == ["abcdefgh", "abc…fgh", "a…h", "a…", "a", ""]


@pytest.mark.parametrize(
    ("used", "soft", "hard", "text"),
    [
        (0, 80, 100, "░░░░░░░░┃░"), (50, 80, 100, "█████░░░┃░"), (90, 80, 100, "████████┃░"),
        (300, 80, 100, "████████┃█"), (50, None, 100, "█████░░░░░"), (50, 100, None, "█████░░░░░"),
        (1, 0, 0, "██████████"), (5, 100, 100, "░░░░░░░░░░"),
    ],
)  # fmt: skip
def test_bar(used: float, soft: float | None, hard: float | None, text: str) -> None:
    assert str(bar(used, soft, hard, 10)) == text


def test_a_small_window_number_by_number() -> None:
    assert window(8, 3, 0b101, 8) == ("     █·█", 0, 1)
    assert window(8, 100, 0b1111_0111, 8) == ("████·███", 0, 1)
    assert window(4, 0, 0, 8) == ("    ", 0, 0)


def test_a_large_one_eight_numbers_a_character() -> None:
    assert window(16, 100, 0xFFFF, 4) == ("⣿⣿", 0, 0)
    assert window(16, 100, 0x8000, 4).bitmap == "⠁⠀", "the oldest is top left"
    assert window(16, 100, 0x0001, 4).bitmap == "⠀⢀", "the newest bottom right"
    assert window(64, 100, (1 << 64) - 1 - (1 << 60), 4) == ("⣿⣿⣿⣿", 32, 1), "what is not drawn is counted all the same"


def test_every_bit_has_its_dot() -> None:
    chance = random.Random(1)
    for _ in range(200):
        size, seen = chance.randrange(33, 300), chance.getrandbits(300)
        drawn = window(size, 1 << 20, seen, 32)
        dots = sum((ord(one) - 0x2800).bit_count() for one in drawn.bitmap)
        covered = len(drawn.bitmap) * 8
        assert dots == (seen & (1 << covered) - 1 & (1 << size) - 1).bit_count()
        assert drawn.missing == size - (seen & (1 << size) - 1).bit_count()
