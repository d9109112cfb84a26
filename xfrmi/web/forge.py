"""A packet that was on a link, sent once more: as it was, or with bits of it turned. What an attacker on the way does.

A receiver looks at the number before it looks at the ICV: a copy whose number it has seen is dropped as replayed,
whatever else is wrong with it. So that a turned bit is found by what is to find it, the copy may get a number that was
not used yet. That it is not authentic keeps it from using the number up.
"""

from __future__ import annotations

from dataclasses import dataclass

from xfrmi.lab.wiretap import ETH_HEADER_LEN
from xfrmi.web.held import HeldLab
from xfrmi.web.packets import Packet, esp_of
from xfrmi.wire.ip import split_outer, upper_layer
from xfrmi.wire.xfrm_const import IPPROTO_UDP

AHEAD = 64
"""Numbers that genuine packets may use up before the copy arrives."""


@dataclass(frozen=True)
class Copy:
    link: int
    forward: bool
    frame: bytes
    esp: bytes
    text: str
    """What is different, in words."""


def copy_of(packet: Packet, offset: int | None = None, mask: int = 1, number: int | None = None) -> Copy:
    """For the last link it was on, so that it goes on from there. `offset` counts from the IP header on. ValueError."""
    if not packet.frames:
        raise ValueError("it was on no link of this lab, so there is nothing to be sent again")
    seen = packet.frames[-1]
    frame = bytearray(seen.frame)
    said = []
    if number is not None:
        at = _esp_at(packet, seen.frame)
        frame[at + 4 : at + 8] = (number & 0xFFFFFFFF).to_bytes(4, "big")
        said.append(f"number {packet.sequence} → {number & 0xFFFFFFFF}, which was not used yet")
    if offset is not None:
        if not 0 <= offset < len(frame) - ETH_HEADER_LEN:
            raise ValueError(f"the packet has bytes 0 to {len(frame) - ETH_HEADER_LEN - 1}, and no byte {offset}")
        if not 0 < mask < 256:
            raise ValueError(f"a mask has 1 to 255, not {mask}")
        before = frame[ETH_HEADER_LEN + offset]
        frame[ETH_HEADER_LEN + offset] ^= mask
        said.append(f"byte {offset}: {before:02x} → {before ^ mask:02x}")
    copy = bytes(frame)
    return Copy(seen.link, seen.forward, copy, esp_of(copy[ETH_HEADER_LEN:]), "; ".join(said) or "unchanged")


def unused_number(lab: HeldLab, packet: Packet) -> int | None:
    """One that its receiver has not seen; None where the receiver does not mind, or nobody knows who that is. For the
    worker. XfrmError."""
    for node in lab.with_daemons():
        assert node.client is not None
        for info in node.client.states():
            if info.spi != packet.spi or not node.is_local(info.dst):
                continue
            replay = info.replay_esn
            window, top = (replay.replay_window, replay.seq) if replay is not None else (info.replay_window, 0)
            if replay is None and info.replay is not None:
                top = info.replay.seq
            authentic = info.aead is not None or info.auth is not None or info.auth_trunc is not None
            return max(top, packet.sequence) + (AHEAD if authentic else 1) if window else None
    return None


def may_renumber(packet: Packet) -> bool:
    """Not where a UDP checksum covers the number: it would be wrong, and that be noticed first."""
    outer = packet.outer
    if not packet.esp:
        return False
    protocol, offset, _ = upper_layer(outer)
    return protocol != IPPROTO_UDP or not any(outer[offset + 6 : offset + 8])


def _esp_at(packet: Packet, frame: bytes) -> int:
    if not packet.esp:
        raise ValueError("it is no ESP packet, and has no number")
    return ETH_HEADER_LEN + len(split_outer(frame[ETH_HEADER_LEN:])[0])
