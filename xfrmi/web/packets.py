"""Packets that pass through a lab, each put together from what was seen of it: who sealed it, on which links it was,
who opened it, and how that went.

The daemons tell inner and outer side of what they carry; the taps see what is on the links. What belongs together is
known by the ESP packet itself, from the SPI to the ICV: routers change the header in front of it, nobody else does.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from xfrmi.client.packets import Record
from xfrmi.lab.watch import describe
from xfrmi.lab.wiretap import ETH_HEADER_LEN, kind
from xfrmi.teach.wording import address, flow_text
from xfrmi.wire.flow import flow_of
from xfrmi.wire.ip import addresses_of, split_outer, trim

ECHOES = {(1, 8): "echo request", (1, 0): "echo reply", (58, 128): "echo request", (58, 129): "echo reply"}
"""(protocol, type) of what is in most packets of a lab."""
MAX_PACKETS = 400
"""Kept, the newest."""


@dataclass(frozen=True, slots=True)
class Told:
    """A node's daemon has carried it, or dropped it."""

    node: str
    record: Record


@dataclass(frozen=True, slots=True)
class Seen:
    """It was on a link."""

    link: int
    forward: bool
    """From the left end to the right one."""
    frame: bytes


@dataclass
class Packet:
    number: int
    time: float
    """Unix seconds."""
    esp: bytes = b""
    """From the SPI on; empty for what is no ESP."""
    origin: str = ""
    """What this page has done to send it; empty for the others."""
    frames: list[Seen] = field(default_factory=list)
    sealed: Told | None = None
    opened: list[Told] = field(default_factory=list)

    @property
    def told(self) -> list[Told]:
        """Who sealed it first."""
        return [*([self.sealed] if self.sealed is not None else []), *self.opened]

    @property
    def outer(self) -> bytes:
        """IP header first, as it was nearest to its sender; empty where nobody has sent anything."""
        if self.sealed is not None and self.sealed.record.outer:
            return self.sealed.record.outer
        if self.frames:
            return bytes(self.frames[0].frame[ETH_HEADER_LEN:])
        return self.opened[0].record.outer if self.opened else b""

    @property
    def inner(self) -> bytes:
        """Empty where nobody knows."""
        return next((told.record.inner for told in self.told if told.record.inner), b"")

    @property
    def spi(self) -> int:
        return int.from_bytes(self.esp[:4], "big")

    @property
    def sequence(self) -> int:
        return int.from_bytes(self.esp[4:8], "big")

    def summary(self) -> dict[str, Any]:
        """One line of a list, as JSON."""
        outer, inner = self.outer, self.inner
        return {
            "id": self.number,
            "time": self.time,
            "esp": {"spi": self.spi, "sequence": self.sequence} if self.esp else None,
            "outer": _outer_text(self, outer),
            "inner": _inner_text(inner) if inner else None,
            "bytes": len(outer),
            "origin": self.origin,
            "links": [{"link": seen.link, "forward": seen.forward} for seen in self.frames],
            "sealed": _told(self.sealed) if self.sealed is not None else None,
            "opened": [_told(told) for told in self.opened],
        }


class Log:
    """The last of them, by number."""

    def __init__(self) -> None:
        self._packets: OrderedDict[int, Packet] = OrderedDict()
        self._by_esp: dict[bytes, Packet] = {}
        self._next = 1
        self._changed: dict[int, Packet] = {}

    def __iter__(self) -> Iterator[Packet]:
        return iter(self._packets.values())

    def get(self, number: int) -> Packet | None:
        return self._packets.get(number)

    def take_changed(self) -> list[Packet]:
        """Those of which more is known than when this was last asked."""
        changed = [packet for number, packet in self._changed.items() if number in self._packets]
        self._changed.clear()
        return changed

    def told(self, node: str, record: Record) -> Packet:
        """A daemon says so."""
        esp = esp_of(record.outer)
        packet = self._newest(esp)
        if record.direction == "out":
            if packet is None or packet.sealed is not None or packet.origin:
                packet = self._new(esp, record.time)
            packet.sealed = Told(node, record)
        else:
            if packet is None:
                packet = self._new(esp, record.time)
            packet.opened.append(Told(node, record))
        self._changed[packet.number] = packet
        return packet

    def seen(self, link: int, forward: bool, frame: bytes) -> Packet | None:
        """It was on a link. None for what holds networks together and is not of interest, such as ARP."""
        if not kind(frame).startswith(("ESP", "IP")):
            return None
        esp = esp_of(frame[ETH_HEADER_LEN:])
        packet = self._newest(esp)
        if packet is None or any(one.link == link and one.forward == forward for one in packet.frames):
            packet = self._new(esp, time.time())
        packet.frames.append(Seen(link, forward, frame))
        self._changed[packet.number] = packet
        return packet

    def announce(self, esp: bytes, origin: str) -> Packet:
        """We are about to send this."""
        packet = self._new(esp, time.time())
        packet.origin = origin
        self._changed[packet.number] = packet
        return packet

    def clear(self) -> None:
        self._packets.clear()
        self._by_esp.clear()
        self._changed.clear()

    def _newest(self, esp: bytes) -> Packet | None:
        return self._by_esp.get(esp) if esp else None

    def _new(self, esp: bytes, when: float) -> Packet:
        packet = Packet(self._next, when, esp)
        self._next += 1
        self._packets[packet.number] = packet
        if esp:
            self._by_esp[esp] = packet
        while len(self._packets) > MAX_PACKETS:
            _, old = self._packets.popitem(last=False)
            if self._by_esp.get(old.esp) is old:
                del self._by_esp[old.esp]
        return packet


def esp_of(packet: bytes) -> bytes:
    """From the SPI to the ICV; empty for what holds none."""
    try:
        return bytes(split_outer(packet)[1])
    except ValueError:
        return b""


def _told(told: Told) -> dict[str, Any]:
    record = told.record
    return {"node": told.node, "interface": record.interface, "counter": record.counter, "reason": record.reason}


def _outer_text(packet: Packet, outer: bytes) -> str:
    if packet.esp:
        try:
            header, _ = split_outer(outer)
        except ValueError:
            return ""
        return " → ".join(map(address, addresses_of(header)))
    return describe(packet.frames[0].frame) if packet.frames else ""


def _inner_text(packet: bytes) -> str:
    try:
        flow = flow_of(trim(packet))
    except ValueError:
        return "no IP packet"
    if (echo := ECHOES.get((flow.proto, flow.sport))) is not None and flow.sport_known:
        return f"{echo} {address(flow.saddr)} → {address(flow.daddr)}"
    return flow_text(flow).replace(" > ", " → ")
