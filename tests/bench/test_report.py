"""The page that `make bench` writes: whole, self-contained, and with the figures in it."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from typing import Any, NamedTuple
from xml.etree import ElementTree

from bench.cable import Way
from bench.chart import LABEL, SPAN, Bar, Chart, svg
from bench.figures import Figure
from bench.micro import datapath, lookups
from bench.report import page, sections, show
from bench.rounds import Measurement


class Result(NamedTuple):
    rate: float
    delay: float


FIGURES = [
    Figure[Result]("rate", lambda told: told.rate, unit="Mbit/s"),
    Figure[Result]("delay", lambda told: told.delay, larger=False, digits=1, unit="us"),
]
RESULTS = {
    Way("plain veth", 4, ("", "")): [Result(9_000, 1), Result(10_000, math.nan)],
    Way("xfrmi <UDP> & more", 4, ("", ""), (1, 2)): [Result(700, 31.25), Result(900, 33), Result(800, 35)],
    Way("wireguard-go", 4, ("", ""), (3, 4)): [Result(200, math.inf)],
}
MEASUREMENT: Measurement[Result] = Measurement("how fast", lambda *_: Result(0, 0), FIGURES)
VOID = {"meta", "rect", "path", "br"}


class Page(HTMLParser):
    """What a browser would see: balanced elements, their attributes, the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def whole() -> str:
    return page("a <title>", sections(MEASUREMENT, RESULTS, "How to read it."), ["Linux & co", "<b>absent</b>"])


def test_every_element_ends_and_text_stays_text() -> None:
    seen = Page(whole())
    assert seen.open == []
    assert "b" not in seen.tags and "udp" not in seen.tags
    assert "<b>absent</b>" in seen.words and "xfrmi <UDP> & more" in seen.words


def test_it_needs_nothing_from_elsewhere() -> None:
    text = whole()
    seen = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "use"} & set(seen.tags)
    assert not {"src", "href", "xlink:href", "srcset"} & {name for name, _ in seen.attributes}
    assert not re.search(r"https?:|url\(|@import", text)


def test_figures_are_in_it() -> None:
    words = Page(whole()).words
    assert "800" in words and "700 - 900" in words  # median and spread
    assert "33.0" in words and "lost" in words
    assert "4.00" in words  # times as good as the peer: 800 to 200
    assert "How to read it." in words


def test_charts_are_well_formed_and_to_scale() -> None:
    text = svg(Chart("a <chart>", "us", False, [
        Bar("floor", 5_000, 4_000, 6_000, "5,000", "floor"), Bar("ours", 50, 50, 50, "50", "ours"),
        Bar("peer", 80, 70, 100, "80"), Bar("nobody", math.nan, math.nan, math.nan, "-"),
    ]))  # fmt: skip
    figure = ElementTree.fromstring(text)
    bars = figure.findall(".//rect")
    assert [float(bar.attrib["width"]) for bar in bars] == [SPAN, SPAN / 2, round(SPAN * 0.8, 1)]
    assert all(float(bar.attrib["x"]) == LABEL for bar in bars)
    whiskers = figure.findall(".//path")
    assert len(whiskers) == 1  # a floor that was cut shows none
    assert [each.text for each in figure.findall(".//text[@class='value']")] == ["» 5,000", "50", "80"]


def test_a_chart_of_nothing_is_none() -> None:
    assert svg(Chart("empty", "", True, [])) == ""
    assert svg(Chart("lost", "", True, [Bar("peer", math.inf, 1, math.inf, "lost")])) == ""


def test_the_same_tables_on_a_terminal(capsys: Any) -> None:
    show(sections(MEASUREMENT, RESULTS, "How to read it."))
    text = capsys.readouterr().out
    assert "How to read it." in text and "700 - 900" in text and "xfrmi <UDP> & more" in text


def record(name: str, median: float, **extra: Any) -> dict[str, Any]:
    stats = {"median": median, "q1": median * 0.9, "q3": median * 1.1}
    return {"name": name, "group": "", "param": None, "stats": stats, "extra_info": extra}


def test_micro_benches_are_told_in_microseconds_a_packet_and_times_the_bare_call() -> None:
    rows = [record("AESGCM alone", 40e-6, table="seal", size=1400, packets=40),
            record("burst", 100e-6, table="seal", size=1400, packets=40)]  # fmt: skip
    (section,) = datapath(rows)
    assert [row[:1] + row[1].split("\n") for row in section.rows] == [
        ["AESGCM alone", "1.00 (1.0x)", "0.90 - 1.10"], ["burst", "2.50 (2.5x)", "2.25 - 2.75"],
    ]  # fmt: skip
    (chart,) = section.charts
    assert [bar.kind for bar in chart.bars] == ["floor", "ours"]


def test_lookups_are_told_by_table_size() -> None:
    each = {**record("test_lookup", 2e-6), "group": "a state among so many", "param": "  1,000"}
    (section,) = lookups([each])
    assert section.rows == [["a state among so many", "1,000", "2.00\n1.80 - 2.20"]]
    assert lookups([]) == []
