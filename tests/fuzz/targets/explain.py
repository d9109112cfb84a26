"""One packet explained, as JSON: whatever it is, there is an explanation, or XfrmError says why not.

    0 out, 1 in, 2 either | which byte to turn | packet

As text and as a page: page.py.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.core.packets import udp
from tests.core.pair import NOW
from tests.fuzz.registry import One
from xfrmi.errors import XfrmError
from xfrmi.teach import Tables, explain

MAX_LEN = 300
STATES = Path(__file__).parents[3] / "examples" / "states.txt"
DIRECTIONS = "out", "in", None
NULL = """
ip xfrm state add src 192.0.2.1 dst 198.51.100.1 proto esp spi 0x3001 reqid 3 mode tunnel if_id 42 \
    enc 'ecb(cipher_null)' '' auth digest_null ''
"""


def tables() -> Tables:
    return Tables.parse(STATES.read_text() + NULL)


def seeds() -> list[bytes]:
    inner = udp("10.1.0.1", "10.2.1.1")
    outer = bytes.fromhex("4500004c000040004032 0000 c0000201c6336401".replace(" ", ""))
    null = outer + bytes.fromhex("00003001 00000001".replace(" ", "")) + inner + bytes((1, 2, 2, 4))
    sealed = outer + bytes.fromhex("0000100100000001") + bytes(60)
    kinds = [b"\0" + inner, b"\1" + null, b"\2" + sealed, b"\0" + udp("2001:db8::1", "2001:db8::2")]
    return [bytes((kind[0], turned)) + kind[1:] for kind in kinds for turned in (0, 9, 30)]


def make() -> One:
    known = tables()

    def one(data: bytes) -> None:
        if len(data) < 2:
            return
        direction = DIRECTIONS[data[0] % 3]
        try:
            found = explain(data[2:], known, direction=direction, interface="ipsec0", now=NOW)
        except XfrmError as error:
            assert error.detail
            return
        json.dumps(found.as_dict(flips=False))
        if data[1]:
            try:
                assert str(found.flip(data[1] - 1, 1 << data[1] % 8))
            except ValueError as error:
                assert str(error)

    return one
