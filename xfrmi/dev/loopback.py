"""Two ends of nothing but memory: what one sends, the other receives. For tests, benches and lessons.

`tun_pair` carries inner packets as a TUN does, `wire_pair` carries outer packets as the underlay does. Both can be
waited for like any descriptor.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic

from xfrmi.core.outgoing import Outgoing
from xfrmi.dev.device import Arrival, Received, Sent
from xfrmi.wire.ip import split_outer
from xfrmi.wire.vnet import Packet, SuperPacket

QUEUE = 1024
"""Items that wait for the receiver; what comes on top is lost and counted."""
BURST = 64


class Loopback(Generic[Received, Sent]):
    """One end. `arrive` turns what the other end sends into what this end receives (copies: senders reuse memory)."""

    def __init__(self, arrive: Callable[[Sent], Iterable[Received]]) -> None:
        self._arrive = arrive
        self._queue: deque[Received] = deque()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.peer: Loopback[Received, Sent] | None = None
        self.overruns = 0

    def fileno(self) -> int:
        return self._event

    def recv_burst(self) -> list[Received]:
        queue = self._queue
        burst = [queue.popleft() for _ in range(min(BURST, len(queue)))]
        if burst and not queue:
            os.eventfd_read(self._event)
        return burst

    def send_burst(self, burst: Sequence[Sent]) -> int:
        peer = self.peer
        if peer is None:
            return 0
        return sum(peer._take(item) for sent in burst for item in peer._arrive(sent))

    def close(self) -> None:
        """The other end then sends into the void."""
        if self._event >= 0:
            os.close(self._event)
            self._event = -1
        if self.peer is not None:
            self.peer.peer = None
            self.peer = None

    def _take(self, item: Received) -> bool:
        if len(self._queue) >= QUEUE:
            self.overruns += 1
            return False
        if not self._queue:
            os.eventfd_write(self._event, 1)
        self._queue.append(item)
        return True


def tun_pair() -> tuple[Loopback[Packet, Packet], Loopback[Packet, Packet]]:
    """The device's end and the host's end of a TUN: both receive what the other sent."""
    return _joined(Loopback(_copied), Loopback(_copied))


def wire_pair() -> tuple[Loopback[Arrival, Outgoing], Loopback[Arrival, Outgoing]]:
    """Two hosts back to back: one's outer packets are the other's (header, ESP) tuples."""
    return _joined(Loopback(_split), Loopback(_split))


def _joined(
    one: Loopback[Received, Sent], other: Loopback[Received, Sent]
) -> tuple[Loopback[Received, Sent], Loopback[Received, Sent]]:
    one.peer, other.peer = other, one
    return one, other


def _copied(packet: Packet) -> tuple[Packet]:
    if not isinstance(packet, SuperPacket):
        return (bytes(packet),)
    data = memoryview(bytearray(packet.data))
    return (
        SuperPacket(
            data, packet.gso_type, packet.hdr_len, packet.gso_size, packet.csum_start, packet.csum_offset
        ),
    )


def _split(outgoing: Outgoing) -> list[Arrival]:
    return [split_outer(bytes(packet)) for packet in outgoing.packets]
