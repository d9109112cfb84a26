"""Two samples and a time make one picture, to the character."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.top.samples import IN, LARVAL, NOW, OUT, link, sample
from xfrmi.client.samples import Sample
from xfrmi.top.picture import asked, picture
from xfrmi.top.selection import SORTS, Comparison, in_order
from xfrmi.top.view import View

LIMITS = (10_000, 20_000, None, None, 50, 130, 0, 0)


def drawn(
    before: Sample | None, now: Sample, view: View | None = None, height: int | None = None, trouble: str = ""
) -> str:
    """In 80 columns."""
    lines = picture(before, now, NOW, view or View(), 80, height, trouble)
    return "".join(f"{line.plain.rstrip()}\n" for line in lines)


def test_everything() -> None:
    old_link = link(rx_packets=100, rx_bytes=10_000, tx_packets=50, tx_bytes=5_000)
    new_link = link(rx_packets=120, rx_bytes=12_000, tx_packets=50, tx_bytes=5_000, rx_errors=3)
    dying = replace(OUT, dying=True, limits=LIMITS, bytes=15_000)
    before = sample(IN, replace(dying, bytes=14_000), links=(old_link,), XfrmInStateSeqError=2)
    now = sample(
        replace(IN, bytes=5000, packets=49, top=50),
        dying,
        clock=12.0,
        links=(new_link, link("spare", 43, up=False)),
        larval=(LARVAL,),
        XfrmInStateSeqError=5,
        XfrmOutNoStates=1000,
        XfrmInError=0,
    )
    expected = """\
xfrmi top  daemon 7  up 10m00s                interfaces 2  states 3  policies 3
INTERFACE              IF_ID     IN pkt/s    bit/s    OUT pkt/s    bit/s
ipsec0                  0x2a           10    8.00k            0        0
spare (down)            0x2b            -        -            -        -
DROPS  counter, in all, a second
XfrmInStateSeqError          5   1.5/s  ipsec0 rx_errors             3   1.5/s
XfrmOutNoStates          1.00k     -/s
ACQUIRES  1 larval, waiting for keys
no SPI yet  192.0.2.1 > 198.51.100.1  ipsec0  25s left
STATES  1-2 of 2, sorted: rate
0x00004201 out 192.0.2.1 > 198.51.100.1  ipsec0  DYING       0 pkt/s  4.00kbit/s
    tunnel rfc4106(gcm(aes))  seq 30
    bytes   ██████████┃████░░░░░  soft reached  hard in 5.00kB
    age     ███████┃███████░░░░░  soft reached  hard in 30s
0x00004202 in  198.51.100.1 > 192.0.2.1  ipsec0              5 pkt/s  4.00kbit/s
    tunnel rfc4106(gcm(aes))  replayed 2
    window 32   ▕██████████████████████████·█████▏  top 50  1 missing
"""
    assert drawn(before, now) == expected


FIRST = """\
xfrmi top  daemon 7  up 10m00s                interfaces 1  states 1  policies 3
INTERFACE              IF_ID     IN pkt/s    bit/s    OUT pkt/s    bit/s
ipsec0                  0x2a            -        -            -        -
DROPS  counter, in all, a second
XfrmInError                  1     -/s
STATES  1-1 of 1, sorted: rate
0x00004201 out 192.0.2.1 > 198.51.100.1  ipsec0                                -
    tunnel rfc4106(gcm(aes))  seq 30
"""


def test_a_first_look_has_no_rates() -> None:
    assert drawn(None, sample(OUT, links=(link(rx_packets=9),), XfrmInError=1)) == FIRST


def test_another_daemon_has_no_rates_at_first() -> None:
    before = sample(OUT, links=(link(rx_packets=5),), XfrmInError=0, pid=6)
    assert drawn(before, sample(OUT, links=(link(rx_packets=9),), XfrmInError=1, clock=11.0)) == FIRST


def test_a_counter_that_began_anew_has_no_rate() -> None:
    """An interface was deleted and made again."""
    before = sample(replace(OUT, bytes=9000), links=(link(rx_packets=10),), XfrmInError=1)
    found = drawn(before, sample(OUT, links=(link(rx_packets=9),), XfrmInError=1, clock=11.0))
    assert "ipsec0                  0x2a            -        -            0        0\n" in found
    assert "ipsec0                                -\n" in found


def test_nothing_there() -> None:
    expected = """\
xfrmi top  daemon 7  up 10m00s                interfaces 0  states 0  policies 3
INTERFACE              IF_ID     IN pkt/s    bit/s    OUT pkt/s    bit/s
DROPS  none
STATES  none
"""
    assert drawn(None, sample()) == expected


def test_the_daemon_has_gone() -> None:
    found = drawn(None, sample(OUT), trouble="waiting for the next daemon: it is gone")
    assert found.startswith("xfrmi top  waiting for the next daemon: it is gone\n")
    assert "0x00004201 out" in found, "what was last known of it stays"


def many(count: int, clock: float = 10.0) -> Sample:
    states = [replace(OUT, spi=0x1000 + n, if_id=n % 50, bytes=n * 7 % count * 1000) for n in range(count)]
    links = tuple(link(f"ipsec{n}", n) for n in range(50))
    return sample(*states, clock=clock, links=links, **{f"XfrmCounter{n}": n for n in range(30)})


def test_a_terminal_of_80x24() -> None:
    found = drawn(None, many(1000), View(first=990, sort="spi"), height=24).split("\n")
    assert len(found) == 24 + 1
    assert found[1:6] == [
        "INTERFACE              IF_ID     IN pkt/s    bit/s    OUT pkt/s    bit/s",
        "ipsec0                   0x0            -        -            -        -",
        "ipsec1                   0x1            -        -            -        -",
        "ipsec10                  0xa            -        -            -        -",
        "… 47 more",
    ]
    assert found[6] == "DROPS  counter, in all, a second, 23 more"
    assert found[10] == "STATES  991-996 of 1000, sorted: spi"
    assert found[11] == "0x000013de out 192.0.2.1 > 198.51.100.1  ipsec40                               -"
    assert found[23] == "q quit   s sort   f filter   ↑↓ scroll   ? help"


def test_what_is_asked_for_is_what_may_be_shown() -> None:
    now = many(1000)
    view, keys = asked(None, now, View(sort="spi", first=5), 24)
    assert [key.spi for key in keys] == [*range(0x1005, 0x1005 + 12)]
    assert view.first == 5
    view, keys = asked(None, now, View(sort="spi", first=1 << 30), 24)
    assert (view.first, len(keys)) == (999, 1)
    _, keys = asked(None, now, View(filter="ipsec49"), 24)
    assert {key.spi % 50 for key in keys} == {(0x1000 + 49) % 50}
    assert len(asked(None, now, View(), None)[1]) == 1000


def test_orders() -> None:
    one = replace(OUT, spi=3, bytes=100, if_id=1)
    two = replace(OUT, spi=1, bytes=500, if_id=2)
    three = replace(OUT, spi=2, bytes=300, if_id=1)
    before = sample(one, two, replace(three, bytes=0))
    now = sample(one, two, three, clock=11.0)
    rates = Comparison(before, now)
    found = {sort: [use.key.spi for use in in_order(now, rates, sort, None)] for sort in SORTS}
    assert found == {
        "rate": [2, 1, 3], "bytes": [1, 2, 3], "spi": [1, 2, 3], "if_id": [2, 3, 1], "newest": [3, 1, 2]
    }  # fmt: skip


@pytest.mark.parametrize(("text", "spis"), [("", [1, 2]), ("sec0", [1]), ("43", [2]), ("0x2b", [2]), ("x", [])])
def test_only_one_interface(text: str, spis: list[int]) -> None:
    states = replace(OUT, spi=1, if_id=42), replace(OUT, spi=2, if_id=43)
    links = link("ipsec0", 42, rx_errors=1), link("ipsec1", 43, rx_errors=2)
    found = drawn(None, sample(*states, links=links, larval=(LARVAL,), XfrmInError=1), View(filter=text))
    assert [spi for spi in (1, 2) if f"0x{spi:08x}" in found] == spis
    assert [number for number, name in ((1, "ipsec0 rx"), (2, "ipsec1 rx")) if name in found] == spis
    assert ("ACQUIRES" in found) == (1 in spis)
    assert "XfrmInError" in found, "these counters know no interface"


def test_long_addresses_lose_their_middle_and_nothing_its_end() -> None:
    six = replace(IN, src=bytes([0x20, 1, 13, 184] + [0x11] * 12), dst=bytes([0x20, 1, 13, 184] + [0x22] * 12))
    before = sample(six)
    now = sample(replace(six, bytes=10**9, packets=10**6, dying=True), clock=11.0, links=(link("a" * 15),))
    lines = drawn(before, now).split("\n")
    assert lines[-4] == "0x00004202 in  2001:db…22:2222  aaaaaaaaaaaaaaa  DYING   1.00M pkt/s  8.00Gbit/s"
    assert "▏  top 40  1 missing" in lines[-2]


def test_no_sample_is_too_odd_for_any_terminal() -> None:
    chance = random.Random(1)
    for _ in range(300):
        states = [
            replace(
                OUT, spi=n, dir=chance.choice([0, 1, 2, 9]), mode=chance.randrange(9), sent=chance.randrange(1 << 64),
                top=chance.choice([0, 1, 31, 1 << 63]), window=chance.choice([0, 1, 7, 32, 128, 4096]),
                seen=chance.getrandbits(4096), late=chance.randrange(2) << 63,
                limits=tuple(chance.choice([0, None, 1, 1 << 63]) for _ in range(4))
                + tuple(chance.choice([0, 1, 1 << 63]) for _ in range(4)),
                add_time=chance.choice([0, 1 << 40]), algorithms=("x" * chance.randrange(80),),
                dst=bytes(chance.choice([4, 16])), if_id=chance.randrange(1 << 32),
            )
            for n in range(5)
        ]  # fmt: skip
        now = sample(*states, larval=(replace(LARVAL, spi=chance.randrange(2)),), XfrmInError=1 << 64)
        width, height = chance.randrange(60, 200), chance.randrange(4, 60)
        view = View(help=chance.random() < 0.1, first=chance.randrange(10), typing=chance.choice([None, "x" * 32]))
        lines = picture(sample(*states[:2]), now, NOW, view, width, height)
        assert len(lines) == height
        assert max(line.cell_len for line in lines) <= width


def test_the_help_fits() -> None:
    found = drawn(None, sample(), View(help=True), height=24)
    assert "Keys are not shown, and not even asked for." in found
