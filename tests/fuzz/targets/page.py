"""An explanation as text, and as a page with what becomes of the packet when a bit of it is turned: slow, many bits are
tried. Every element of the page is closed, and nothing of the packet is markup.

    0 out, 1 in, 2 either; + 4: a page | packet
"""

from __future__ import annotations

from html.parser import HTMLParser

from tests.core.pair import NOW
from tests.fuzz.registry import One
from tests.fuzz.targets import explain as shorter
from tests.fuzz.targets.explain import DIRECTIONS, tables
from xfrmi.errors import XfrmError
from xfrmi.teach import explain
from xfrmi.teach.show_text import plain

MAX_LEN = 200
VOID = {"meta", "br", "link", "hr", "img", "input", "col"}


def seeds() -> list[bytes]:
    kinds = [entry[:1] + entry[2:] for entry in shorter.seeds() if not entry[1]]
    return [bytes((kind[0] + form,)) + kind[1:] for kind in kinds for form in (0, 4)]


class Balanced(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.inside and self.inside.pop() == tag, tag


def make() -> One:
    known = tables()

    def one(data: bytes) -> None:
        if not data:
            return
        direction = DIRECTIONS[data[0] % 3]
        try:
            found = explain(data[1:], known, direction=direction, interface="ipsec0", now=NOW)
        except XfrmError as error:
            assert error.detail
            return
        if not data[0] & 4:
            assert plain(found, flips=False)
            return
        parser = Balanced()
        parser.feed(found.html())
        parser.close()
        assert not parser.inside, parser.inside

    return one
