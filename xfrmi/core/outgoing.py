"""What the core hands to the sending side: complete outer packets that share one way out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xfrmi.core.interface import Interface
    from xfrmi.core.path import Path
    from xfrmi.wire.ip import Buffer


class Outgoing:
    """A run of packets for one Path, in order. Built once per burst and path, never per packet.

    `interface` is the xfrm device the packets came through (None for keepalives): send failures are charged to it.
    """

    __slots__ = ("counted_bytes", "counted_packets", "failed", "interface", "packets", "path")

    def __init__(self, path: Path, packets: list[Buffer], interface: Interface | None = None) -> None:
        self.path = path
        self.packets = packets
        self.interface = interface
        self.counted_packets = self.counted_bytes = 0
        """What the interface has counted as sent for these: inner packets (a super-packet is one) and their bytes."""
        self.failed = 0
        """How many of `packets` are known not to have left."""

    def fail(self, count: int) -> None:
        """`count` more of `packets` did not leave: errors and aborted instead of packets and bytes (1.4).

        Which ones is not known, so inner packets and bytes are taken back in proportion: exactly if all failed, or
        if all were of one size; a super-packet fails with any of its segments.
        """
        interface = self.interface
        if interface is None:
            return
        packets_before, bytes_before = self._share()
        self.failed += count
        packets, size = self._share()
        interface.tx_packets -= packets - packets_before
        interface.tx_bytes -= size - bytes_before
        interface.tx_errors += packets - packets_before
        interface.tx_aborted += packets - packets_before

    def _share(self) -> tuple[int, int]:
        """(inner packets, their bytes) that `failed` of `packets` stand for, packets rounded up."""
        packets = -(-self.counted_packets * self.failed // len(self.packets))
        return packets, self.counted_bytes * packets // self.counted_packets if packets else 0
