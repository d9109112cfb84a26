"""The virtio_net_hdr of frames from the kernel, by itself: ValueError; or an IP packet that is all of what lies behind
it; or a super-packet whose header is read again as it was written. What becomes of the packet: tun.py.

    frame
"""

from __future__ import annotations

from tests.fuzz.registry import One
from tests.fuzz.targets import tun
from xfrmi.wire.vnet import GSO_NONE, VNET_HDR, VNET_HDR_LEN, SuperPacket, emit, parse

MAX_LEN = 500


def seeds() -> list[bytes]:
    return [seed for seed in tun.seeds() if len(seed) <= MAX_LEN]


def make() -> One:
    return one


def one(data: bytes) -> None:
    frame = bytearray(data)
    try:
        packet = parse(memoryview(frame))
    except ValueError as error:
        assert str(error)
        return
    assert frame[:VNET_HDR_LEN] == data[:VNET_HDR_LEN]
    if not isinstance(packet, SuperPacket):
        assert data[1] == GSO_NONE and bytes(packet) == frame[VNET_HDR_LEN:]
        return
    assert frame == data  # whoever cuts it, or the kernel that gets it, finishes its checksum
    header = emit(packet)
    _, _, header_len, size, start, offset = VNET_HDR.unpack(header)
    assert packet.data == frame[VNET_HDR_LEN:] and 0 < size == packet.gso_size
    assert start + offset + 2 <= header_len <= len(packet.data)
    again = parse(memoryview(bytearray(header + packet.data)))
    assert isinstance(again, SuperPacket) and emit(again) == header
