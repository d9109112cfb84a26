"""One worker: the data path of daemon/data_path.py over queues and sockets of its own. See workers.py.

It begins as a copy of its parent (fork), of which it keeps the descriptors that are meant for it, and ends with it:
when the way up is closed, there is nobody to work for.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn

from xfrmi.core.engine import Engine
from xfrmi.daemon import worker_channel as channel
from xfrmi.daemon.data_path import DataPath
from xfrmi.daemon.loop import Loop
from xfrmi.daemon.session import LineSession
from xfrmi.daemon.worker_marks import Marks
from xfrmi.daemon.worker_relay import RelayIn, RelayOut
from xfrmi.daemon.worker_replica import Replica
from xfrmi.daemon.worker_tables import WorkerSad
from xfrmi.daemon.xfrm_device import XfrmDevice
from xfrmi.dev.privileges import keep_capabilities
from xfrmi.dev.router import KernelRouter
from xfrmi.dev.sysctl import KernelSysctls
from xfrmi.dev.tun import Tun
from xfrmi.errors import XfrmError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xfrmi.core.interface import Interface
    from xfrmi.dev.underlay import Underlay

_PR_SET_PDEATHSIG = 1
_KEPT = frozenset(("net_admin", "net_raw"))
"""Of its parent's capabilities: to mark packets, and to tell the kernel a path MTU."""

REPORTS_EVERY = 1.0
"""Seconds: what a killed worker has not told yet is lost to the counters."""
REPORTS_SHARE = 50
"""A report may take one part in so many of a worker's time."""


@dataclass(frozen=True, slots=True)
class Kit:
    """What a worker is given."""

    number: int
    kernel_quirks: bool
    marks: Marks
    underlay: Underlay
    down: socket.socket
    up: socket.socket
    relays: Sequence[socket.socket]
    """Worker 0: from each of the others. The others: to worker 0."""
    devices: Sequence[tuple[channel.DeviceIn, Sequence[Tun], Tun]]
    """With the queues to read, if there are any, and the queue to write."""
    tables: Iterable[channel.Down]
    """What there is already. Taken once."""
    log: Callable[[str], None]
    held: bool
    """Look at no packet before you are told to."""

    def descriptors(self) -> set[int]:
        fds = {sock.fileno() for sock in (self.down, self.up, *self.relays)}
        fds |= {device.fileno() for device in (*self.underlay, *self.underlay.icmp_errors)}
        return fds | {tun.fileno() for _, reads, writes in self.devices for tun in (*reads, writes)}


class _Ends:
    """A device's TUN as a worker sees it: one queue to read, another to write."""

    def __init__(self, reads: Tun | None, writes: Tun) -> None:
        self.reads = reads
        self.send_burst = writes.send_burst
        if reads is not None:
            self.recv_burst = reads.recv_burst
        self._writes = writes

    @property
    def emptied(self) -> bool:
        return self.reads is None or self.reads.emptied

    def close(self) -> None:
        if self.reads is not None:
            self.reads.close()
        self._writes.close()


class WorkerDevices:
    """As Devices, for the data path of a worker."""

    def __init__(self, loop: Loop, tell: Callable[[channel.Up], None]) -> None:
        self._loop = loop
        self._tell = tell
        self._devices: dict[Interface, tuple[int, list[XfrmDevice]]] = {}
        """With the key, one for each queue to read, or one that has none."""

    def __getitem__(self, interface: Interface) -> XfrmDevice:
        return self._devices[interface][1][0]

    def key_of(self, interface: Interface) -> int:
        """By which the parent knows it."""
        return self._devices[interface][0]

    def add(
        self, key: int, interface: Interface, reads: Sequence[Tun], writes: Tun, readable: Callable[[XfrmDevice], None]
    ) -> None:
        ends = [_Ends(tun, writes) for tun in reads or (None,)]
        devices = [XfrmDevice(interface, end) for end in ends]  # type: ignore[arg-type]
        self._devices[interface] = key, devices
        for tun, device in zip(reads, devices, strict=False):
            self._loop.watch(tun.fileno(), partial(readable, device))

    def remove(self, interface: Interface) -> None:
        _, devices = self._devices.pop(interface)
        for device in devices:
            ends = _ends_of(device)
            if ends.reads is not None:
                self._loop.unwatch(ends.reads.fileno())
            ends.close()

    def gone(self, device: XfrmDevice) -> bool:
        """Nothing to be read. If that is because somebody deleted the TUN, the parent sees to it."""
        reads = _ends_of(device).reads
        if reads is None or not reads.gone:
            return False
        self._loop.unwatch(reads.fileno())
        self._tell(channel.DeviceGone(self.key_of(device.interface)))
        return True


def _ends_of(device: XfrmDevice) -> _Ends:
    ends = device.tun
    assert isinstance(ends, _Ends)
    return ends


class Worker:
    def __init__(self, kit: Kit) -> None:
        self._kit = kit
        self._loop = Loop()
        self._upward = channel.Upward(self._loop, kit.up)
        router = KernelRouter()
        self._loop.watch(router.fileno(), router.process)
        self._engine = Engine(
            router,
            kernel_quirks=kit.kernel_quirks,
            sysctls=KernelSysctls(),
            cpu=kit.number,
            make_sad=WorkerSad,
        )
        kit.underlay.ask(self._engine.router)
        sad = self._engine.sad
        assert isinstance(sad, WorkerSad)
        self._replica = Replica(self._engine, sad, kit.marks, self._upward.put)
        self._data_path = DataPath(self._engine, kit.underlay, router, self._loop, kit.log)
        self._devices = WorkerDevices(self._loop, self._upward.put)
        self._data_path.devices = self._devices  # type: ignore[assignment]
        for message, reads, writes in kit.devices:
            self._add_device(message, reads, writes)
        for change in kit.tables:
            self._replica.apply(change)
        self._relays: dict[int, tuple[RelayIn, Callable[[], None]]] = {}
        """By worker that hands packets on, with what takes a turn's."""
        self._relay_out: RelayOut | None = None
        if kit.number:
            self._relay_out = RelayOut(kit.relays[0], self._devices.key_of)
            self._engine.pass_on = self._relay_out.send
        else:
            for cpu, sock in enumerate(kit.relays, 1):
                relay = RelayIn(sock, self._replica.interfaces)
                self._relays[cpu] = relay, self._relay(relay, cpu)
                self._loop.watch(sock.fileno(), self._relays[cpu][1])
        kit.down.setblocking(False)
        self._loop.watch(kit.down.fileno(), self._from_above)
        self._next_report = self._loop.clock() + REPORTS_EVERY
        self._upward.put(channel.Answered(channel.READY))

    def run(self) -> None:
        if self._kit.held:
            self._hold()
        self._loop.run(self._tick, self._next_deadline)

    def _tick(self, now: float) -> None:
        self._data_path.tick(now)
        if now >= self._next_report:
            self._replica.report()
            took = self._loop.clock() - now
            self._next_report = now + max(REPORTS_EVERY, REPORTS_SHARE * took)

    def _next_deadline(self) -> float:
        deadline = self._engine.next_deadline()
        return self._next_report if deadline is None or self._next_report < deadline else deadline

    def _from_above(self) -> None:
        try:
            message, fds = channel.receive(self._kit.down)
        except BlockingIOError:
            return
        except (EOFError, OSError):
            os._exit(0)
        try:
            self._take_in(message, fds)
        except Exception:  # no longer what the parent is: rather none than that
            traceback.print_exc(file=sys.stderr)
            os._exit(1)

    def _take_in(self, message: channel.Down | channel.Up, fds: tuple[int, ...]) -> None:
        if isinstance(message, channel.DeviceIn):
            name = message.link.name
            *reads, writes = (Tun(name, persist=True, multi_queue=len(fds) > 1, fd=fd) for fd in fds)
            self._add_device(message, reads, writes)
        elif isinstance(message, channel.DeviceOut):
            self._devices.remove(self._replica.remove_interface(message))
        elif isinstance(message, channel.PortOpened):
            if (device := self._kit.underlay.listen(message.family, message.port, fd=fds[0])) is not None:
                self._data_path.watch(device)
        elif isinstance(message, channel.TraceWanted):
            self._trace(message.request, socket.socket(fileno=fds[0]))
        elif isinstance(message, channel.Gathered):
            rest = iter(fds)
            for one, count in message.messages:
                self._take_in(one, tuple(islice(rest, count)))
        elif isinstance(message, channel.Strays):
            self._data_path.receive(message.datagrams)
        elif isinstance(message, channel.Hold):
            self._finish(message)
            self._hold()
        else:
            self._replica.apply(message)  # type: ignore[arg-type]

    def _add_device(self, message: channel.DeviceIn, reads: Sequence[Tun], writes: Tun) -> None:
        interface = self._replica.add_interface(message)
        self._devices.add(message.key, interface, reads, writes, self._data_path.tun_readable)

    def _trace(self, request: Mapping[str, Any], listener: socket.socket) -> None:
        streams = {"trace": self._data_path.tracer.subscribe}
        session = LineSession(self._loop, listener, lambda session: None, {}, streams)
        try:
            session.listen(request)
        except XfrmError:  # the device has gone since it was asked for
            session.close()

    def _finish(self, hold: channel.Hold) -> None:
        """Nothing is on its way from worker to worker any more."""
        if self._relay_out is not None:
            self._relay_out.end(hold.serial)
        for number in hold.others:
            relay, take = self._relays[number]
            relay.drain(take, hold.serial, self._kit.down)

    def _hold(self) -> None:
        """Look at nothing but what comes from above, until that is the word to go on. Or the end."""
        self._replica.report()
        self._upward.put(channel.Held(tuple(self._engine.router.learned.items())))
        down = self._kit.down
        down.setblocking(True)
        while True:
            self._upward.wait()
            try:
                message, fds = channel.receive(down)
            except (EOFError, OSError):
                os._exit(0)
            self._take_in(message, fds)
            if isinstance(message, channel.GoOn):
                break
        down.setblocking(False)

    def _relay(self, relayed: RelayIn, cpu: int) -> Callable[[], None]:
        """What another worker has no state for is sent here, on its behalf: a policy may want one for its processor."""
        sad = self._engine.sad

        def readable() -> None:
            sad.cpu = cpu
            try:
                for interface, packet in relayed.receive():
                    self._data_path.send(self._devices[interface], [packet])
            finally:
                sad.cpu = 0

        return readable


def run_worker(kit: Kit, parent: int) -> NoReturn:
    """Called right after fork, in the child of `parent`. Never returns, so that nothing of the parent is cleaned up."""
    try:
        _die_with(parent)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT):  # the parent's to handle: this process ends with it
            signal.signal(number, signal.SIG_IGN)
        _close_all_but(kit.descriptors())
        keep_capabilities(_KEPT)
        Worker(kit).run()
    except BaseException:
        traceback.print_exc(file=sys.stderr)
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(1)


def _die_with(parent: int) -> None:
    """The end of the way up tells only who listens to it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _close_all_but(kept: set[int]) -> None:
    """The parent's sockets, locks and clients. Their Python objects stay, untouched until this process ends."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2 and fd not in kept:
            with contextlib.suppress(OSError):  # that of the listing itself
                os.close(fd)
