"""Every socket towards the peers of one network namespace, and which of them sends what.

A Path says how its packets leave. Protocol 50 goes by the raw socket of its family. So does UDP in transport and BEET
mode, whose outer header continues the inner one and must go out bit for bit. UDP in tunnel mode goes by the UDP socket
of its source port, which can segment; while nobody has opened that, by the raw socket, too: the packets are complete.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from xfrmi.core.outgoing import Outgoing
from xfrmi.core.router import Router
from xfrmi.dev.device import Arrival, Device, Failure
from xfrmi.dev.icmp_errors import IcmpErrors
from xfrmi.dev.raw import RawEsp
from xfrmi.dev.udp import OnOther, UdpEncap
from xfrmi.errors import XfrmError
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6

_NO_ESP: Final[Mapping[int, Sequence[int]]] = {}
_NO_ICMP: Final[Mapping[int, int]] = {}


class Underlay:
    """Belongs for life to the network namespace it is made in; UDP ports, too, must be opened from inside it."""

    def __init__(
        self,
        router: Router,
        on_other: OnOther | None = None,
        esp: Mapping[int, Sequence[int]] = _NO_ESP,
        icmp: Mapping[int, int] = _NO_ICMP,
    ) -> None:
        """Open the raw sockets; or take those of another process, by family: `esp`, of which there may be several, each
        with a share of what arrives (steering.py), and `icmp`. A machine without IPv6 has one family only. XfrmError
        EPERM without CAP_NET_RAW."""
        self._raw: dict[int, RawEsp] = {}
        self._udp: dict[tuple[int, int], UdpEncap] = {}
        """By family and port: what sends from it."""
        self._bound: dict[tuple[int, int, str], UdpEncap] = {}
        """All that do, by address, too: "" is all addresses."""
        self._more_raw: list[RawEsp] = []
        self._more_udp: list[tuple[tuple[int, int, str], UdpEncap]] = []
        """What only receives."""
        self.icmp_errors: list[IcmpErrors] = []
        """What routers on the way say, one for each family."""
        self._on_other = on_other
        try:
            for family in (AF_INET, AF_INET6):
                first, *more = esp.get(family) or (-1,)
                self._raw[family] = RawEsp(family, router, first)
                self._more_raw += [RawEsp(family, router, fd) for fd in more]
                self.icmp_errors.append(IcmpErrors(family, icmp.get(family, -1)))
        except XfrmError as error:
            if error.errno != errno.EAFNOSUPPORT or not self._raw:
                self.close()
                raise

    def __iter__(self) -> Iterator[Device[Arrival, Outgoing]]:
        """The open devices: what the loop waits for."""
        yield from self._raw.values()
        yield from self._more_raw
        yield from self._bound.values()
        for _, device in self._more_udp:
            yield device

    @property
    def raw_sockets(self) -> Iterator[tuple[int, int]]:
        """Family and descriptor of each, in the order in which they were given."""
        for raw in (*self._raw.values(), *self._more_raw):
            yield raw.family, raw.fileno()

    @property
    def udp_sockets(self) -> Iterator[tuple[int, int, str, int]]:
        """Family, port, address ("": all) and descriptor of each, in the order in which they were opened or given."""
        for (family, port, address), device in (*self._bound.items(), *self._more_udp):
            yield family, port, address, device.fileno()

    def ask(self, router: Router) -> None:
        """Have path MTUs told by this router from now on."""
        for raw in (*self._raw.values(), *self._more_raw):
            raw.ask(router)

    def listen(
        self, family: int, port: int, *, address: str = "", shared: bool = False, fd: int = -1
    ) -> UdpEncap | None:
        """Open a UDP port for ESP. Returns the new device for the loop, None if it is open already. `address`,
        `shared`, `fd`: see UdpEncap. Of several descriptors for one port each receives a share.

        Raises XfrmError EADDRINUSE, EACCES, EAFNOSUPPORT, EADDRNOTAVAIL.
        """
        known = (family, port, address) in self._bound
        if fd < 0 and (known or (not address and (family, port) in self._udp)):
            return None
        raw = self._raw.get(family)
        if raw is None:
            raise XfrmError(errno.EAFNOSUPPORT, detail="this kernel has no IPv6")
        if known:
            device = self._open(family, port, address, raw, shared, fd)
            self._more_udp.append(((family, port, address), device))
            return device
        device = self._bound[family, port, address] = self._open(family, port, address, raw, shared, fd)
        self._udp.setdefault((family, port), device)
        return device

    def leave(self, family: int, port: int, address: str = "") -> list[UdpEncap]:
        """Give up a port. Returns its devices, for the caller to close."""
        device = self._bound.pop((family, port, address), None)
        if device is None:
            return []
        if self._udp[family, port] is device:
            del self._udp[family, port]
            for (of_family, of_port, _), other in self._bound.items():
                if (of_family, of_port) == (family, port):
                    self._udp.setdefault((family, port), other)
        more = [other for bound, other in self._more_udp if bound == (family, port, address)]
        self._more_udp = [(bound, other) for bound, other in self._more_udp if other not in more]
        return [device, *more]

    def _open(self, family: int, port: int, address: str, raw: RawEsp, shared: bool, fd: int) -> UdpEncap:
        try:
            return UdpEncap(family, port, raw, on_other=self._on_other, address=address, shared=shared, fd=fd)
        except XfrmError as error:
            if error.errno != errno.EADDRINUSE or shared:
                raise
        # The other may have been made to share it. If not, this says so.
        return UdpEncap(family, port, raw, on_other=self._on_other, address=address, with_ike=True)

    def send(self, burst: list[Outgoing]) -> list[Failure]:
        """Send everything; per device in order. Returns what did not leave."""
        failures: list[Failure] = []
        shares: dict[RawEsp | UdpEncap, list[Outgoing]] = {}
        for outgoing in burst:
            path = outgoing.path
            device: RawEsp | UdpEncap | None = self._raw.get(path.family)
            if path.use_udp_socket:
                device = self._udp.get((path.family, path.sport), device)
            if device is not None and len(burst) == 1:
                device.send_burst(burst)
                return device.failures
            if device is None:
                failures.append(Failure(outgoing, range(len(outgoing.packets)), errno.EAFNOSUPPORT))
            else:
                shares.setdefault(device, []).append(outgoing)
        for device, share in shares.items():
            device.send_burst(share)
            failures += device.failures
        return failures

    def close(self) -> None:
        for device in (*self, *self.icmp_errors):
            device.close()
