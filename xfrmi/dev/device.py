"""What every edge of the emulator looks like: a descriptor to wait for, and bursts in and out.

A device never blocks. Buffers that recv_burst returns lie in memory of the device and are valid until its next
recv_burst; whoever keeps one longer makes a copy. Buffers given to send_burst are the caller's again when it returns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

from xfrmi.core.outgoing import Outgoing
from xfrmi.core.train import Arrived
from xfrmi.wire.ip import Buffer

Datagram: TypeAlias = tuple[Buffer, Buffer]
"""What the underlay delivers: (outer header, with the UDP header if there is one; ESP from the SPI on)."""

Arrival: TypeAlias = Datagram | Arrived
"""An item of a burst from the underlay: one datagram, or many of one size at once."""

Received = TypeVar("Received")
Sent = TypeVar("Sent", contravariant=True)


class Device(Protocol[Received, Sent]):
    """A TUN is a Device[Packet, Packet]; a socket of the underlay is a Device[Arrival, Outgoing]."""

    def fileno(self) -> int:
        """Readable when recv_burst would return something."""

    def recv_burst(self) -> list[Received]:
        """What has arrived, at most one burst; empty if nothing has."""

    def send_burst(self, burst: Sequence[Sent]) -> int:
        """Number of packets that left. Never raises for a packet: what did not leave is counted by the device."""

    def close(self) -> None: ...


class Failure(NamedTuple):
    """Packets that did not leave: which of `outgoing`'s, and why (EMSGSIZE, EAGAIN, ENETUNREACH...)."""

    outgoing: Outgoing
    positions: range
    errno: int


def taken_apart(burst: Sequence[Arrival]) -> Iterator[Datagram]:
    """All of its datagrams, in order."""
    for item in burst:
        if isinstance(item, Arrived):
            yield from item.datagrams()
        else:
            yield item
