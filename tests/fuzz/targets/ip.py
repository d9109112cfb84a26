"""IP headers as they are: nothing but ValueError, and what is read twice is read alike."""

from __future__ import annotations

import contextlib

from tests.core.packets import udp
from tests.core.pair import INNER, OUTER, forge
from tests.fuzz.registry import One
from xfrmi.core.policy_check import quoted_flow
from xfrmi.wire import icmp
from xfrmi.wire.flow import flow_key, flow_of, flow_of_key, trimmed_key
from xfrmi.wire.fragment import fragment_ipv4, fragment_ipv6
from xfrmi.wire.ip import (
    checksum,
    ipv6_transport_offset,
    renew_checksum,
    split_outer,
    trim,
    upper_layer,
)

MAX_LEN = 400


def seeds() -> list[bytes]:
    tunnel = udp(*INNER[4])
    extended = bytearray(udp(*INNER[6]))
    headers = b"".join(bytes((next_header, 0)) + bytes(6) for next_header in (60, 43, 44, 17))
    extended[6] = 0
    extended[40:40] = headers
    extended[4:6] = (len(extended) - 40).to_bytes(2)
    encapsulated = bytearray(udp(*OUTER[4], bytes(range(40)), sport=4500, dport=4500))
    return [tunnel, udp(*INNER[6]), bytes(extended), forge(tunnel, 4), bytes(encapsulated)]


def make() -> One:
    return one


def one(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        whole = trim(data)
        assert trim(whole) == whole
    with contextlib.suppress(ValueError):
        _, offset, fragment_at = upper_layer(data)
        assert offset >= 20 and fragment_at >= -1
    with contextlib.suppress(ValueError):
        offset, previous = ipv6_transport_offset(data)
        assert 40 <= offset <= len(data) and 6 <= previous < offset
    _flow(data)
    with contextlib.suppress(ValueError):
        header, esp = split_outer(data)
        assert bytes(header) + bytes(esp) == data[: len(header) + len(esp)]
    changed = bytearray(data)
    renew_checksum(changed)
    again = bytearray(changed)
    renew_checksum(again)
    assert again == changed and len(changed) == len(data)
    for answer in (icmp.frag_needed, icmp.packet_too_big):
        with contextlib.suppress(ValueError):
            _complete(answer(data, 1280))
    for refuse in (icmp.host_unreachable, icmp.address_unreachable, icmp.prohibited):
        if data:
            with contextlib.suppress(ValueError):
                _complete(refuse(data))
    quoted_flow(data)
    for cut in (fragment_ipv4, fragment_ipv6):
        with contextlib.suppress(ValueError):
            pieces = cut(data, 128, 7)
            assert all(len(piece) <= 128 and trim(piece) == piece for piece in pieces)


def _flow(data: bytes) -> None:
    try:
        key = flow_key(trim(data))
    except ValueError:
        key = None
    try:
        assert trimmed_key(data) == key
    except ValueError:
        assert key is None
    if key is not None:
        assert flow_of_key(key) == flow_of(trim(data))


def _complete(packet: bytes | None) -> None:
    """An answer is a whole packet with right checksums."""
    if packet is not None:
        assert trim(packet) == packet
        if packet[0] >> 4 == 4:
            assert len(packet) <= 576 and checksum(packet[:20]) == 0 and checksum(packet[20:]) == 0
        else:
            assert len(packet) <= 1280
