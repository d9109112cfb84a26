"""Watching packets pass: for each one a record of what it was inside and outside, or why it died (`xfrmi trace`).

As long as nobody listens the data path calls the engine, and none of this exists to it. While somebody does, the data
path calls the tracer, which calls the engine and tells afterwards: what comes in is then opened packet by packet, so
that it is known which became what, and neighbours of a flow go into the TUN one by one. The packets are the same.

A listener has a bounded queue. What does not fit is lost to him, and the number of what was lost stands in its place.
Records hold plaintext, and never keys. Each is a line of JSON that begins with its time, by which worker_traces.py puts
together what several processes tell.
"""

from __future__ import annotations

import errno
import json
from binascii import b2a_base64
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from xfrmi.core.gso import segment
from xfrmi.core.plain import admit
from xfrmi.dev.device import taken_apart
from xfrmi.errors import XfrmError
from xfrmi.wire.ip import split_outer
from xfrmi.wire.link_types import POLICY_BASED
from xfrmi.wire.vnet import SuperPacket

if TYPE_CHECKING:
    from xfrmi.core.dropped import Dropped
    from xfrmi.core.engine import Engine
    from xfrmi.core.interface import Interface, Interfaces
    from xfrmi.core.outgoing import Outgoing
    from xfrmi.dev.device import Arrival
    from xfrmi.wire.ip import Buffer
    from xfrmi.wire.vnet import Packet

MAX_QUEUED = 8 << 20
"""Bytes kept for a listener who does not read, and one record more."""

AT_ONCE = 1 << 16
"""Bytes that are sent together, if so many wait."""

_TIME = b'{"time":'


class Wanted(NamedTuple):
    """What a listener wants to hear of."""

    interface: str | None
    direction: str | None
    dropped: bool
    """Only what died."""
    spi: int | None

    def takes(self, interface: str, direction: str, outer: Buffer, reason: str) -> bool:
        if (self.dropped and not reason) or self.interface not in (None, interface):
            return False
        return self.direction in (None, direction) and (self.spi is None or _spi_of(outer) == self.spi)


def wanted_of(request: Mapping[str, Any], interfaces: Interfaces) -> Wanted:
    """`request` may have "interface" (name), "dir" ("in" or "out"), "dropped" (true: only those), "spi" (number).

    POLICY_BASED is an interface in this, also while there are no policies without if_id.
    XfrmError EINVAL, ENODEV.
    """
    interface, direction, spi = request.get("interface"), request.get("dir"), request.get("spi")
    if direction not in (None, "in", "out"):
        raise XfrmError(errno.EINVAL, detail='"dir" is "in" or "out"')
    if spi is not None and (not isinstance(spi, int) or not 0 <= spi < 1 << 32):
        raise XfrmError(errno.EINVAL, detail='"spi" is a number of 32 bits')
    if interface not in (None, POLICY_BASED):
        interfaces[str(interface)]
    return Wanted(interface, direction, bool(request.get("dropped")), spi)


def time_of(line: bytes) -> float | None:
    """When what a line tells of has been, None if it tells of no packets."""
    return float(line[len(_TIME) : line.index(b",")]) if line.startswith(_TIME) else None


class Stream:
    """The queue of one listener. `wake` is called after each burst of which there is something to send."""

    endless = True

    def __init__(self, wanted: Wanted, wake: Callable[[], None], closed: Callable[[Stream], None]) -> None:
        self.wanted = wanted
        self.wake = wake
        self._closed = closed
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._lost = 0
        self._lost_last = 0.0

    def lose(self, now: float) -> bool:
        """Is the queue full? Then another record is lost, and nobody need write it down."""
        if self._size < MAX_QUEUED:
            return False
        self._lost += 1
        self._lost_last = now
        return True

    def put(self, line: bytes) -> None:
        """Never waits."""
        if self._lost:
            line = self._what_is_lost() + line
        self._lines.append(line)
        self._size += len(line)

    def take(self) -> bytes:
        """The next lines to be sent; empty if there are none."""
        lines: list[bytes] = []
        size = 0
        while self._lines and size < AT_ONCE:
            lines.append(self._lines.popleft())
            size += len(lines[-1])
        self._size -= size
        if not self._lines and self._lost:
            lines.append(self._what_is_lost())
        return b"".join(lines)

    def close(self) -> None:
        self._closed(self)

    def _what_is_lost(self) -> bytes:
        lost, self._lost = self._lost, 0
        return b'%s%r,"lost":%d}\n' % (_TIME, self._lost_last, lost)


class Tracer:
    """Stands between a data path and its engine while somebody listens."""

    def __init__(self, engine: Engine, begin: Callable[[Tracer], None], end: Callable[[], None]) -> None:
        """`begin` makes the data path call us, `end` makes it call the engine again."""
        self._engine = engine
        self._begin, self._end = begin, end
        self._streams: list[Stream] = []
        self._drops: list[Dropped] = []

    def subscribe(self, request: Mapping[str, Any], wake: Callable[[], None]) -> Stream:
        """As wanted_of."""
        stream = Stream(wanted_of(request, self._engine.interfaces), wake, self._unsubscribe)
        if not self._streams:
            self._begin(self)
        self._streams.append(stream)
        return stream

    def _unsubscribe(self, stream: Stream) -> None:
        if stream in self._streams:
            self._streams.remove(stream)
            if not self._streams:
                self._end()

    # The data path -----------------------------------------------------------------------------------------------

    def output(
        self, interface: Interface, packets: Sequence[Packet], now: float
    ) -> tuple[list[Outgoing], list[Buffer]]:
        """Engine.output, and tell of it."""
        if not self._wanted("out", interface.name):
            return self._engine.output(interface, packets, now)
        self._engine.on_drop = self._drops.append
        try:
            outgoing, replies = self._engine.output(interface, packets, now)
        finally:
            self._engine.on_drop = None
        for group in outgoing if self._wanted("out", interface.name, passed=True) else ():
            name = group.interface.name if group.interface is not None else ""
            for inner, outer in zip(_inner(group), group.packets, strict=True):
                self._tell(now, name, "out", inner, outer)
        self._tell_drops(now, interface.name, "out")
        self._wake()
        return outgoing, replies

    def input(self, burst: Sequence[Arrival], now: float) -> list[tuple[Interface, list[Packet]]]:
        """Engine.input, one by one, and tell of it."""
        if not self._wanted("in"):
            return self._engine.input(burst, now)
        delivered: list[tuple[Interface, list[Packet]]] = []
        for header, esp in taken_apart(burst):
            outer = b"".join((header, esp))
            self._engine.on_drop = self._drops.append
            try:
                came = self._engine.input([(header, esp)], now)
            finally:
                self._engine.on_drop = None
            self._tell_received(now, outer, came)
            self._drops.clear()
            for interface, packets in came:
                if delivered and delivered[-1][0] is interface:
                    delivered[-1][1].extend(packets)
                else:
                    delivered.append((interface, packets))
        self._wake()
        return delivered

    def _wanted(self, direction: str, interface: str | None = None, passed: bool = False) -> bool:
        """Might anybody want to hear of packets of this direction and, where it is known, interface? Of those that did
        not die, if `passed`. What nobody wants goes as if nobody listened."""
        return any(
            wanted.direction in (None, direction)
            and (interface is None or wanted.interface in (None, interface))
            and not (passed and wanted.dropped)
            for wanted in (stream.wanted for stream in self._streams)
        )

    def admit(self, packets: Sequence[Packet], now: float) -> list[Packet]:
        """core.plain.admit, and tell of it: what came in the clear has nothing outside."""
        self._engine.on_drop = self._drops.append
        try:
            admitted = admit(self._engine, packets, now)
        finally:
            self._engine.on_drop = None
        for packet in admitted:
            self._tell(now, POLICY_BASED, "in", packet.data if isinstance(packet, SuperPacket) else packet, b"")
        self._tell_drops(now, POLICY_BASED, "in")
        self._wake()
        return admitted

    def _tell_drops(self, now: float, interface: str, direction: str) -> None:
        """Of packets that were not in ESP when they died."""
        for drop in self._drops:
            packet = drop.packet.data if isinstance(drop.packet, SuperPacket) else drop.packet
            if not isinstance(packet, tuple):
                self._tell(now, interface, direction, packet, b"", drop.counter, drop.reason)
        self._drops.clear()

    def _tell_received(self, now: float, outer: bytes, came: list[tuple[Interface, list[Packet]]]) -> None:
        if came:
            interface, packets = came[0]
            inner = packets[0].data if isinstance(packets[0], SuperPacket) else packets[0]
            self._tell(now, interface.name, "in", inner, outer)
        elif self._drops:
            drop = self._drops[-1]
            name = drop.interface.name if drop.interface is not None else ""
            self._tell(now, name, "in", b"", outer, drop.counter, drop.reason)

    def _tell(
        self, now: float, interface: str, direction: str, inner: Buffer, outer: Buffer, counter: str = "",
        reason: str = "",
    ) -> None:  # fmt: skip
        line = b""
        for stream in self._streams:
            if stream.wanted.takes(interface, direction, outer, reason) and not stream.lose(now):
                line = line or _record(now, interface, direction, inner, outer, counter, reason)
                stream.put(line)

    def _wake(self) -> None:
        for stream in list(self._streams):
            stream.wake()


def _inner(group: Outgoing) -> Iterator[Buffer]:
    """For each outer packet what it holds; of super-packets the segments."""
    last: Packet | None = None
    segments: Iterator[Buffer] = iter(())
    for packet in group.inner:
        if isinstance(packet, SuperPacket):
            if packet is not last:
                segments = iter(segment(packet))
            yield next(segments, b"")
        else:
            yield b"" if packet is None else packet
        last = packet


def _spi_of(outer: Buffer) -> int | None:
    try:
        return int.from_bytes(split_outer(outer)[1][:4], "big")
    except (ValueError, IndexError):
        return None


@lru_cache(256)
def _quoted(text: str) -> bytes:
    """Names of devices and reasons are few, and said again and again."""
    return json.dumps(text).encode()


def _record(
    now: float, interface: str, direction: str, inner: Buffer, outer: Buffer, counter: str, reason: str
) -> bytes:
    """One line. Base64 has nothing that JSON would escape, and is nearly all of it, so no encoder looks at it."""
    return b'%s%r,"interface":%s,"dir":"%s","inner":"%s","outer":"%s","counter":"%s","reason":%s}\n' % (
        _TIME, now, _quoted(interface), direction.encode(), b2a_base64(inner, newline=False),
        b2a_base64(outer, newline=False), counter.encode(), _quoted(reason),
    )  # fmt: skip
