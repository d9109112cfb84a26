"""Whatever the bytes are: an explanation, or a sentence that says why there is none; never a crash, never markup."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.core.packets import udp
from tests.core.pair import INNER, NOW, Pair, forge
from tests.examples import examples
from tests.teach.tables import sent_by, tables_of
from xfrmi.teach import explain
from xfrmi.wire.ip import ipv4_header_checksum

PAIR = Pair()
SENT = sent_by(PAIR, udp(*INNER[4], b"<script>alert(1)</script>\x1b[31m"))
TABLES = tables_of(PAIR.right.engine)


def shown(packet: bytes, direction: str | None, whole: bool = False) -> None:
    found = explain(packet, TABLES, direction=direction, interface="xfrm0", now=NOW)
    assert found.as_dict()["direction"] in ("in", "out")
    for layout in found.packets:
        assert sum(field.end - field.start for field in layout.fields) == len(layout.data)
    assert "\x1b" not in found.text(flips=whole)
    if not whole:
        return
    tags: set[str] = set()
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, _: tags.add(tag)  # type: ignore[method-assign, assignment, return-value, misc]
    parser.feed(found.html())
    assert "script" not in tags


@given(st.binary(min_size=1, max_size=120), st.sampled_from(["in", "out", None]))
@settings(max_examples=examples(40))
def test_any_bytes(packet: bytes, direction: str | None) -> None:
    shown(packet, direction)


@given(st.integers(0, len(SENT.outer) - 1), st.integers(0, 255), st.integers(0, 60))
@example(at=0, byte=0x46, cut=0)  # the header says it has options
@example(at=0, byte=0x4F, cut=0)
@settings(max_examples=examples(100))
def test_nearly_a_packet(at: int, byte: int, cut: int) -> None:
    packet = bytearray(SENT.outer[: len(SENT.outer) - cut])
    packet[2:4] = len(packet).to_bytes(2, "big")
    if at < len(packet):
        packet[at] = byte
    packet[10:12] = ipv4_header_checksum(packet[:20]).to_bytes(2, "big")
    shown(bytes(packet), "in")


@given(st.binary(max_size=80), st.sampled_from([4, 41, 59, 94, 0, 17]), st.integers(0, 20))
@settings(max_examples=examples(40))
def test_authentic_and_strange(payload: bytes, next_header: int, pad_len: int) -> None:
    packet = bytearray(forge(payload, next_header, seq=5, pad_len=pad_len))
    packet[10:12] = ipv4_header_checksum(packet[:20]).to_bytes(2, "big")
    shown(bytes(packet), "in")


@pytest.mark.parametrize("direction", ["in", "out"])
def test_markup_inside(direction: str) -> None:
    shown(SENT.outer if direction == "in" else SENT.inner, direction, whole=True)
