"""Keys, and what they change."""

from __future__ import annotations

from functools import reduce

import pytest

from xfrmi.top.keys import keys_in
from xfrmi.top.view import View, pressed


def after(keys: str, view: View | None = None) -> View:
    return reduce(lambda view, key: pressed(view, key, 5), keys_in(keys), view or View())


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        ("q", ["q"]), ("\x1b[A\x1b[B", ["up", "down"]), ("\x1bOA", ["up"]),
        ("\x1b[5~\x1b[6~", ["page up", "page down"]),
        ("\x1b", ["escape"]), ("\x1b\x1b[A", ["escape", "up"]), ("\r\n\x7f", ["enter", "enter", "backspace"]),
        ("\x1b[1;5Cs", ["s"]), ("\x1b[200~x", ["x"]), ("é", ["é"]), ("", []),
    ],
)  # fmt: skip
def test_what_a_terminal_sends(sent: str, keys: list[str]) -> None:
    assert keys_in(sent) == keys


def test_sorting_goes_round() -> None:
    assert [after("s" * n).sort for n in range(6)] == ["rate", "bytes", "spi", "if_id", "newest", "rate"]


def test_scrolling() -> None:
    assert after("\x1b[B\x1b[Bj").first == 3
    assert after("\x1b[6~ \x1b[A").first == 9
    assert after("\x1b[A").first == 0
    assert after("\x1b[F").clamped(7).first == 6
    assert after("\x1b[F\x1b[H").first == 0
    assert View(first=3).clamped(0).first == 0


def test_filter() -> None:
    assert after("jjfip\x7fpsec0\r") == View(filter="ipsec0")
    assert after("fq") == View(typing="q"), "typed, not obeyed"
    assert after("fx\x1b", View(filter="old")) == View(filter="old")
    assert after("f\r", View(filter="old")) == View()
    assert len(after("f" + "x" * 100).typing or "") == 32
    assert after("f\x01\x1b[A").typing == ""


def test_help_and_the_end() -> None:
    assert after("?").help
    assert after("?x") == View()
    assert after("?s") == View()
    assert after("q").done
    assert after("?q").done
