"""Somebody who receives the same packet again and again, each time as if it were the first: for `--flip`.

Each attempt is a real one: the bytes go through Engine.input, and what is told is which counters have risen by then.
Before that a host's IP and UDP have their say, about checksums and addresses, which is no business of xfrm; here it is
said by the same functions that make those checksums.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from operator import attrgetter

from xfrmi.core.dropped import Dropped
from xfrmi.core.engine import Engine
from xfrmi.core.state import State
from xfrmi.wire.ip import (
    IPV4_ADDRESSES,
    IPV6_ADDRESSES,
    UDP_HEADER_LEN,
    Buffer,
    checksum,
    destination_of,
    ipv4_header_checksum,
    pseudo_header_sum,
    split_outer,
    trim,
    upper_layer,
)
from xfrmi.wire.link_types import LinkStats
from xfrmi.wire.xfrm_const import IPPROTO_UDP, XfrmStat

_DEVICE = tuple(one.name for one in fields(LinkStats))
_device_values = attrgetter(*_DEVICE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a packet that arrived."""

    delivered: tuple[bytes, ...] = ()
    stat: XfrmStat | None = None
    reason: str = ""
    """Empty where it was delivered."""
    by: str = ""
    """Who dropped it: IP, UDP, ESP or the policy of the interface."""
    counters: dict[str, int] = field(default_factory=dict)
    """Counters of /proc/net/xfrm_stat that rose."""
    device: dict[str, int] = field(default_factory=dict)
    """Counters of interfaces that rose."""

    @property
    def text(self) -> str:
        """In one sentence."""
        if self.delivered:
            return "delivered"
        counted = f", {self.stat.label} rises" if self.stat is not None else ", no xfrm counter rises"
        return f"dropped by {self.by}: {self.reason}{counted}"


class Receiver:
    """`make` builds an engine; what changes in it while it receives is set back before each packet."""

    def __init__(self, make: Callable[[], Engine], original: bytes, now: float) -> None:
        """`original` is the packet as it should arrive."""
        self._make = make
        self._original = original
        self._now = now
        self._begin()

    def _begin(self) -> None:
        self.engine = self._make()
        self.engine.on_drop = self._told
        self._drops: list[Dropped] = []
        self._kept = [(state, *_mutable(state)) for state in self.engine.sad.dump()]

    def receive(self, packet: bytes) -> Outcome:
        refused = refused_by_host(packet, self._original)
        if refused is not None:
            return Outcome(by=refused[0], reason=refused[1])
        if any(state not in self.engine.sad for state, *_ in self._kept):  # one has reached its end
            self._begin()
        for state, top, seen, size, packets, use_time in self._kept:
            state.window.top, state.window.seen = top, seen
            state.bytes, state.packets, state.use_time = size, packets, use_time
        self._drops.clear()
        stats, device = list(self.engine.stats), self._device_counters()
        delivered = self.engine.input([split_outer(packet)], self._now)
        counters = {
            stat.label: self.engine.stats[stat] - stats[stat]
            for stat in XfrmStat
            if self.engine.stats[stat] != stats[stat]
        }
        after = self._device_counters()
        moved = {name: value - device[name] for name, value in after.items() if value != device[name]}
        inner = tuple(bytes(one) for _, packets in delivered for one in packets)  # type: ignore[arg-type]
        if inner:
            return Outcome(inner, counters=counters, device=moved)
        if not self._drops:
            return Outcome(by="nobody", reason="nothing came of it", counters=counters, device=moved)
        drop = self._drops[-1]
        by = "ESP" if isinstance(drop.packet, tuple) else "the policy"
        return Outcome((), drop.stat, drop.reason, by, counters, moved)

    def _device_counters(self) -> dict[str, int]:
        """Those of all interfaces, added up."""
        each = [_device_values(interface.stats()) for interface in self.engine.interfaces]
        return {name: sum(values) for name, *values in zip(_DEVICE, *each, strict=True)}

    def _told(self, drop: Dropped) -> None:
        self._drops.append(drop)


def _mutable(state: State) -> tuple[int, int, int, int, int]:
    return state.window.top, state.window.seen, state.bytes, state.packets, state.use_time


def refused_by_host(packet: bytes, original: bytes) -> tuple[str, str] | None:
    """(IP or UDP, why) where a host that would hand `original` to ESP would not do so with `packet`, else None."""
    try:
        whole = trim(packet)
        header_len = (whole[0] & 15) * 4 if whole[0] >> 4 == 4 else 40
        if whole[0] >> 4 == 4 and ipv4_header_checksum(whole[:header_len]) != int.from_bytes(whole[10:12], "big"):
            return "IP", "the header checksum is wrong"
        if destination_of(whole) != destination_of(original):
            return "IP", "the destination is another host"
        protocol, offset, fragment = upper_layer(whole)
        if fragment != -1:
            return "IP", "it says it is a fragment, and waits for others that never come"
        if protocol == IPPROTO_UDP and (refused := _refused_by_udp(whole, offset, original)) is not None:
            return "UDP", refused
        split_outer(whole)
    except ValueError as error:
        return "IP", str(error)
    return None


def _refused_by_udp(packet: Buffer, at: int, original: bytes) -> str | None:
    length = int.from_bytes(packet[at + 4 : at + 6], "big")
    if length < UDP_HEADER_LEN or at + length > len(packet):
        return "its length is wrong"
    if any(packet[at + 6 : at + 8]) or packet[0] >> 4 == 6:
        addresses = packet[IPV4_ADDRESSES if packet[0] >> 4 == 4 else IPV6_ADDRESSES]
        total = checksum(packet[at : at + length], pseudo_header_sum(addresses, IPPROTO_UDP, length))
        if total not in (0, 0xFFFF):
            return "its checksum is wrong"
    _, before, _ = upper_layer(original)
    if packet[at + 2 : at + 4] != original[before + 2 : before + 4]:
        return "nobody listens on that port for ESP"
    return None


