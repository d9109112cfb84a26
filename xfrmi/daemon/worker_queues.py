"""The queues of every TUN of a daemon with workers: one for each worker to read, one that all write to. See workers.py.

A TUN that an earlier daemon has made with one queue keeps that: worker 0 reads it, and states for other processors have
no packets of that device to seal. So it is with one that another process hands over: no queue is added to what it has,
for there might be packets in it before it can be detached. What it has beyond one for each worker, worker 0 reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from xfrmi.daemon.devices import Devices
from xfrmi.daemon.worker_channel import DeviceChanged, DeviceIn, DeviceOut, Down, Link
from xfrmi.daemon.xfrm_device import XfrmDevice
from xfrmi.dev.tun import Tun, is_attached

if TYPE_CHECKING:
    from xfrmi.core.interface import Interface
    from xfrmi.daemon.worker_homes import Homes
    from xfrmi.wire.link_types import LinkInfo

Send = Callable[[int, Down, Sequence[int]], None]


class _Queued:
    """A device and its queues."""

    __slots__ = ("attached", "device", "key", "link", "reads", "writes")

    def __init__(self, key: int, device: XfrmDevice, count: int) -> None:
        own = [device.tun, *device.more]
        self.key = key
        self.device = device
        self.reads: list[list[Tun]] = [own[number : number + 1] for number in range(count)]
        self.reads[0] += own[count:]
        self.writes = device.writer or device.tun
        self.attached = [True, *(is_attached(tun.fileno()) for tun in own[1:count])]
        self.link = _link(device.interface)


class Queues:
    """`send(worker, message, fds)` tells a worker."""

    def __init__(self, count: int, homes: Homes, send: Send, begun: bool = True) -> None:
        """`begun`: all that comes is ours, see `begin`."""
        self._count = count
        self._homes = homes
        self._send = send
        self._last_key = 0
        self._begun = begun
        self._queued: dict[Interface, _Queued] = {}
        self._by_if_id: dict[int, _Queued] = {}
        self.interfaces: dict[int, Interface] = {}
        """By the key that workers know them by."""

    def add(self, device: XfrmDevice) -> None:
        """To be called in the namespace of the device, if it can have more queues. Raises XfrmError."""
        if device.tun.multi_queue:
            *device.more, device.writer = (device.tun.another_queue() for _ in range(self._count))
            for queue in (*device.more, device.writer):
                queue.set_attached(False)
        self._last_key += 1
        queued = self._queued[device.interface] = _Queued(self._last_key, device, self._count)
        self.interfaces[queued.key] = device.interface
        self._by_if_id[queued.link.if_id] = queued
        for number in range(self._count):
            message, reads, writes = self._for_worker(queued, number)
            self._send(number, message, [tun.fileno() for tun in (*reads, writes)])
        self._adjust(queued)

    def remove(self, device: XfrmDevice) -> None:
        queued = self._queued.pop(device.interface, None)
        if queued is None:
            return
        del self._by_if_id[queued.link.if_id]
        for number in range(self._count):
            self._send(number, DeviceOut(queued.key), ())
        for queue in device.queues[1:]:
            queue.close()
        del self.interfaces[queued.key]

    def change(self, device: XfrmDevice) -> None:
        """The kernel, or a request, may have changed what it is."""
        queued = self._queued.get(device.interface)
        if queued is None or (link := _link(device.interface)) == queued.link:
            return
        if self._by_if_id.get(queued.link.if_id) is queued:
            del self._by_if_id[queued.link.if_id]
        queued.link = link
        self._by_if_id[link.if_id] = queued
        for number in range(self._count):
            self._send(number, DeviceChanged(queued.key, link), ())
        self._adjust(queued)

    def adjust(self, if_id: int) -> None:
        """States of this if_id have come or gone."""
        if (queued := self._by_if_id.get(if_id)) is not None:
            self._adjust(queued)

    def device(self, key: int) -> XfrmDevice | None:
        interface = self.interfaces.get(key)
        return self._queued[interface].device if interface is not None else None

    def of_worker(self, number: int) -> list[tuple[DeviceIn, list[Tun], Tun]]:
        """What a new worker is given: each device, with the queues to read and the queue to write."""
        return [self._for_worker(queued, number) for queued in self._queued.values()]

    def _for_worker(self, queued: _Queued, number: int) -> tuple[DeviceIn, list[Tun], Tun]:
        message = DeviceIn(queued.key, queued.link, queued.device.interface.takes)
        return message, queued.reads[number], queued.writes

    def begin(self) -> None:
        """What was handed over is ours: from now on queues come and go with states. One that is attached may have
        packets, which would be lost if it was not."""
        self._begun = True
        for queued in self._queued.values():
            self._adjust(queued, detach=False)

    def _adjust(self, queued: _Queued, detach: bool = True) -> None:
        for number, was in enumerate(queued.attached):
            wanted = number == 0 or self._homes.seals(queued.device.interface.if_id, number)
            if self._begun and wanted != was and (wanted or detach):
                queued.reads[number][0].set_attached(wanted)
                queued.attached[number] = wanted


class QueuedDevices(Devices):
    """Devices whose packets the workers move. `settled()` returns when they have taken in what they were told."""

    def __init__(self, queues: Queues, settled: Callable[[], None], *args: Any) -> None:
        self._queues = queues
        self._settled = settled
        super().__init__(*args)

    def change(self, interface: Interface, info: LinkInfo) -> None:
        super().change(interface, info)
        self._queues.change(self[interface])

    def _open(self, name: str, ifindex: int = 0) -> Tun:
        return Tun(name, persist=True, multi_queue=True, ifindex=ifindex)

    def _watch(self, device: XfrmDevice) -> None:
        if device.tun.multi_queue:
            with self._inside(device):
                self._queues.add(device)
            return
        if not device.more:
            self._log(f"{device.interface.name} was made with one queue: worker 0 alone reads it")
        self._queues.add(device)

    def _unwatch(self, device: XfrmDevice) -> None:
        self._queues.remove(device)
        self._settled()  # as long as anybody holds a queue, the device is there

    def _refresh(self, device: XfrmDevice) -> None:
        super()._refresh(device)
        self._queues.change(device)


def _link(interface: Interface) -> Link:
    return Link(
        interface.name, interface.if_id, interface.link, interface.external, interface.ifindex, interface.mtu,
        interface.up, interface.away,
    )  # fmt: skip
