"""The pump between the devices and the engine: what is readable goes in, what comes out goes on.

    TUN readable      -> recv_burst -> engine.output -> underlay.send    (and ICMP errors back into the TUN)
    socket readable   -> recv_burst -> engine.input  -> each TUN's send_burst
    ICMP readable     -> recv_burst -> engine.icmp_error -> tell_kernel  (a path carries less than it did)
    deadline passed   -> engine.tick                 -> underlay.send    (keepalives)

One burst a turn. It decides nothing and counts nothing but what the kernel refused to take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from xfrmi.core.events import StateAdded, StateUpdated
from xfrmi.core.plain import admit
from xfrmi.daemon.tracer import Tracer
from xfrmi.daemon.xfrm_device import XfrmDevice
from xfrmi.dev.kernel_pmtu import tell_kernel
from xfrmi.errors import XfrmError
from xfrmi.wire.vnet import SuperPacket
from xfrmi.wire.xfrm_const import UDP_ENCAP_ESPINUDP, SaDir

if TYPE_CHECKING:
    from xfrmi.core.engine import Engine
    from xfrmi.core.events import Event
    from xfrmi.core.outgoing import Outgoing
    from xfrmi.core.router import Router
    from xfrmi.daemon.devices import Devices
    from xfrmi.daemon.loop import Loop
    from xfrmi.dev.device import Arrival, Device
    from xfrmi.dev.icmp_errors import IcmpErrors
    from xfrmi.dev.underlay import Underlay
    from xfrmi.wire.vnet import Packet

LOOP_WARNING_INTERVAL = 5.0
"""Seconds between lines about packets that are routed back into the device they came from (TX-10)."""


class DataPath:
    def __init__(
        self, engine: Engine, underlay: Underlay, router: Router, loop: Loop, log: Callable[[str], None]
    ) -> None:
        self._engine = engine
        self._underlay = underlay
        self._router = router
        self._loop = loop
        self._log = log
        self._quiet_until = 0.0
        self._output, self._input = engine.output, engine.input
        self._admit: Callable[[Sequence[Packet], float], list[Packet]] = partial(admit, engine)
        self.tracer = Tracer(engine, self._trace, self._trace_no_more)
        self.shed = 0
        """Packets lost on purpose, to keep queues short."""
        self.devices: Devices
        self.policy_device: XfrmDevice | None = None
        """For policies without if_id, see policy_path.py."""
        for device in underlay:
            self.watch(device)
        for errors in underlay.icmp_errors:
            loop.watch(errors.fileno(), partial(self._icmp_readable, errors))
        engine.subscribe(self._open_ports)

    def tun_readable(self, device: XfrmDevice) -> None:
        packets = device.tun.recv_burst()
        if not packets:  # nothing after all, or the end: `ip link del` behind our back
            self.devices.gone(device)
            return
        self.take(device, packets)

    def take(self, device: XfrmDevice, packets: list[Packet]) -> None:
        """What was read from the TUN of `device`."""
        if device.queue.sheds(device.tun.emptied, self._loop.clock()):
            self._shed(device, packets)
        self.send(device, packets)

    def send(self, device: XfrmDevice, packets: Sequence[Packet]) -> None:
        """Send what came out of the TUN of `device`."""
        now = self._loop.clock()
        collisions = device.interface.collisions
        outgoing, replies = self._output(device.interface, packets, now)
        self._send(outgoing)
        if replies:
            device.tun.send_burst(replies)
        if device.interface.collisions != collisions and now >= self._quiet_until:
            self._quiet_until = now + LOOP_WARNING_INTERVAL
            self._log(f"{device.interface.name}: Local routing loop detected!")

    def admit(self, packets: Sequence[Packet]) -> list[Packet]:
        """Of what came in in the clear, where a policy might refuse it, what may enter."""
        return self._admit(packets, self._loop.clock())

    def share_port(self, family: int, port: int, address: str) -> None:
        """An IKE daemon has bound this UDP port, and lets us share it: ESP in UDP comes to us from now on, until we
        leave it to the next one. `address`: "" if it is bound to all.

        Raises XfrmError EADDRINUSE, EAFNOSUPPORT, EADDRNOTAVAIL.
        """
        self.leave_port(family, port, address)  # of two that share a port the IKE daemon has to be the first
        device = self._underlay.listen(family, port, address=address)
        if device is not None:
            self.watch(device)

    def leave_port(self, family: int, port: int, address: str) -> None:
        """Nobody shares it with us any more."""
        for device in self._underlay.leave(family, port, address):
            self._loop.unwatch(device.fileno())
            device.close()

    @property
    def underlay(self) -> Underlay:
        return self._underlay

    def adopt_port(self, family: int, port: int, address: str, fd: int) -> None:
        """Go on with the UDP socket of another process."""
        device = self._underlay.listen(family, port, address=address, fd=fd)
        if device is not None:
            self.watch(device)

    def hear(self) -> None:
        """Take in what routers have said by now, out of turn: somebody is about to ask the kernel for a route."""
        for errors in self._underlay.icmp_errors:
            self._icmp_readable(errors)

    def tick(self, now: float) -> None:
        self._send(self._engine.tick(now))

    def _trace(self, tracer: Tracer) -> None:
        self._output, self._input, self._admit = tracer.output, tracer.input, tracer.admit

    def _trace_no_more(self) -> None:
        self._output, self._input, self._admit = self._engine.output, self._engine.input, partial(admit, self._engine)

    def _shed(self, device: XfrmDevice, packets: list[Packet]) -> None:
        """Lose a super-packet. Of other packets no queue is long, and who sends them may not send less."""
        for index, packet in enumerate(packets):
            if isinstance(packet, SuperPacket):
                del packets[index]
                device.interface.tx_dropped += 1
                self.shed += 1
                return

    def _socket_readable(self, device: Device[Arrival, Outgoing]) -> None:
        self.receive(device.recv_burst())

    def receive(self, arrivals: Sequence[Arrival]) -> None:
        """What has arrived from peers."""
        for interface, packets in self._input(arrivals, self._loop.clock()):
            to = self.policy_device if interface.policy_based else self.devices[interface]
            if to is not None:
                to.tun.send_burst(packets)

    def _icmp_readable(self, errors: IcmpErrors) -> None:
        now = self._loop.clock()
        for message in errors.recv_burst():
            paths, mtu = self._engine.icmp_error(errors.family, message, now)
            for path in paths:
                tell_kernel(path, mtu)

    def _send(self, outgoing: list[Outgoing]) -> None:
        if outgoing:
            for failure in self._underlay.send(outgoing):
                self._engine.send_failed(failure.outgoing, failure.positions)

    def watch(self, device: Device[Arrival, Outgoing]) -> None:
        """Receive from one more device of the underlay."""
        self._loop.watch(device.fileno(), lambda: self._socket_readable(device))

    def _open_ports(self, event: Event) -> None:
        """ESP in UDP arrives at the port that the first state with it names as ours."""
        if (wanted := port_for(event, self._router)) is None:
            return
        family, port = wanted
        try:
            device = self._underlay.listen(family, port)
        except XfrmError as error:
            self._log(f"ESP in UDP will not be received on port {port}: {error}")
            return
        if device is not None:
            self.watch(device)
            self._log(f"UDP port {port} open for ESP")


def port_for(event: Event, router: Router) -> tuple[int, int] | None:
    """Family and number of the UDP port at which ESP may arrive because of `event`: the one that is on our side, the
    destination's of a state that comes in, else the source's."""
    if not isinstance(event, StateAdded | StateUpdated):
        return None
    info = event.info
    if info.encap is None or info.encap.type != UDP_ENCAP_ESPINUDP:
        return None
    inbound = router.is_local(0, info.dst) if info.dir == SaDir.NONE else info.dir == SaDir.IN
    return info.family, info.encap.dport if inbound else info.encap.sport
