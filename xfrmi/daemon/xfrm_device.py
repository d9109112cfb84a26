"""One interface and its TUN."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xfrmi.daemon.standing_queue import StandingQueue
from xfrmi.wire.link_types import XFRM_LINK_QLEN

if TYPE_CHECKING:
    from xfrmi.core.interface import Interface
    from xfrmi.dev.tun import Tun


class XfrmDevice:
    """The interface is the engine's, the TUN may have several queues."""

    __slots__ = ("interface", "more", "multicast", "nsid", "queue", "tun", "txqlen", "writer")

    def __init__(self, interface: Interface, tun: Tun) -> None:
        self.interface = interface
        self.tun = tun
        self.nsid: int | None = None
        """Our number for the namespace where the TUN is, None for home, which is where the daemon is (NS-01). A number
        keeps that namespace from nothing: it ends when its inhabitants do, and the TUN with it."""
        self.multicast = False
        """IFF_MULTICAST: an xfrm device has it only when somebody switched it on, as routing daemons ask for."""
        self.txqlen = XFRM_LINK_QLEN
        self.queue = StandingQueue()
        self.more: list[Tun] = []
        """Queues that are read as well."""
        self.writer: Tun | None = None
        """The queue that is only written to, if there is one."""

    @property
    def queues(self) -> list[Tun]:
        """All: those to read, the first of which is `tun`, then the one to write."""
        return [self.tun, *self.more, *filter(None, [self.writer])]

    def close(self) -> None:
        for tun in reversed(self.queues):
            tun.close()
