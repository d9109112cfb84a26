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

    __slots__ = ("interface", "packets", "path")

    def __init__(self, path: Path, packets: list[Buffer], interface: Interface | None = None) -> None:
        self.path = path
        self.packets = packets
        self.interface = interface
