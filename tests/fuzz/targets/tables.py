"""What `xfrmi explain --config` reads: commands and listings, mixed. Tables, or XfrmError that names a line.

    text
"""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.registry import One
from tests.fuzz.targets import grammar, listing
from xfrmi.errors import XfrmError
from xfrmi.teach.tables import Tables

MAX_LEN = 1200
EXAMPLES = Path(__file__).parents[3] / "examples"


def seeds() -> list[bytes]:
    text = (EXAMPLES / "states.txt").read_bytes()
    found = [text[:MAX_LEN], text[-MAX_LEN:], b"src 192.0.2.1 dst 192.0.2.2\n\tproto esp spi 0x1 reqid 1 mode tunnel\n"]
    return found + grammar.seeds() + [entry[1:] for entry in listing.seeds()]


def make() -> One:
    return one


def one(data: bytes) -> None:
    try:
        tables = Tables.parse(data.decode("utf-8", "surrogateescape"))
    except XfrmError as error:
        assert error.detail and error.errno
        return
    assert repr(tables)
