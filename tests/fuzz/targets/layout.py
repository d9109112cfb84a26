"""The fields that explain, watch and the lab's page show of a packet: whatever it is, they cover it, each byte once.

    where ESP begins | packet
"""

from __future__ import annotations

from tests.core.packets import udp
from tests.core.pair import INNER, OUTER, forge
from tests.fuzz.registry import One
from xfrmi.teach.layout import Layout, plain_packet, unopened

MAX_LEN = 200


def seeds() -> list[bytes]:
    found = [b"\0" + udp(*INNER[version]) for version in INNER] + [b"\x14" + forge(udp(*INNER[4]), 4)]
    return [*found, b"\x1c" + udp(*OUTER[4], bytes(range(40)), sport=4500, dport=4500)]


def make() -> One:
    return one


def one(data: bytes) -> None:
    packet = data[1:]
    whole(plain_packet("", packet))
    if packet:
        whole(unopened("", packet, min(data[0], len(packet))))


def whole(layout: Layout) -> None:
    at = 0
    for field in layout.fields:
        assert field.start == at < field.end and field.name and field.kind, layout.fields
        at = field.end
    assert at == len(layout.data), layout.fields
    if at:
        assert layout.field_at(at - 1) == layout.fields[-1]
