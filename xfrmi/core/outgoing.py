"""What the core hands to the sending side: complete outer packets that share one way out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from xfrmi.wire.vnet import SuperPacket

if TYPE_CHECKING:
    from xfrmi.core.interface import Interface
    from xfrmi.core.path import Path
    from xfrmi.core.train import Train
    from xfrmi.wire.ip import Buffer
    from xfrmi.wire.vnet import Packet


class Outgoing:
    """A run of packets for one Path, in order. Built once per burst and path, never per packet.

    `interface` is the xfrm device the packets came through (None for keepalives): send failures are charged to it.
    """

    __slots__ = ("inner", "interface", "packets", "path")

    def __init__(
        self,
        path: Path,
        packets: list[Buffer] | Train,
        interface: Interface | None = None,
        inner: list[Packet | None] | None = None,
    ) -> None:
        self.path = path
        self.packets: Sequence[Buffer] = packets
        """Complete outer packets: a list, or a Train that has not been taken apart."""
        self.interface = interface
        self.inner: list[Packet | None] = [] if inner is None else inner
        """For each of `packets` what the device has counted as sent for it: the inner packet, the super-packet of all
        its segments, None for what has been counted as an error already. Empty without a device."""

    def fail(self, positions: Iterable[int]) -> None:
        """Those of `packets` did not leave: errors and aborted instead of packets and bytes (1.4).

        A super-packet is one packet, and fails with any of its segments.
        """
        interface = self.interface
        if interface is None:
            return
        for position in positions:
            packet = self.inner[position]
            if packet is None:
                continue
            interface.tx_packets -= 1
            interface.tx_errors += 1
            interface.tx_aborted += 1
            if isinstance(packet, SuperPacket):
                interface.tx_bytes -= len(packet.data)
                self.inner = [None if other is packet else other for other in self.inner]
            else:
                interface.tx_bytes -= len(packet)
                self.inner[position] = None
