"""`xfrmi daemon`: one network namespace's emulator, in the foreground, until SIGTERM or SIGINT.

Start in this order, so that a refusal leaves nothing behind and a client that gets in finds everything there: the
runtime directory's lock, raw sockets (from then on the kernel no longer answers ESP with ICMP), the TUNs of an earlier
daemon, the control sockets; then most capabilities are given up, and READY=1. Stop in the reverse order.
"""

from __future__ import annotations

import errno
import gc
import os
import resource
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from xfrmi import __version__
from xfrmi.core.engine import Engine
from xfrmi.core.timers import earliest
from xfrmi.daemon.control import ControlSockets
from xfrmi.daemon.data_path import DataPath
from xfrmi.daemon.devices import Devices
from xfrmi.daemon.events import Events
from xfrmi.daemon.handover import HandOver, Parts
from xfrmi.daemon.hub import Hub
from xfrmi.daemon.log import Log
from xfrmi.daemon.loop import Loop
from xfrmi.daemon.notify import notify
from xfrmi.daemon.policy_path import PolicyPath, refuse_with_workers
from xfrmi.daemon.route_handler import RouteHandler
from xfrmi.daemon.session import Stream
from xfrmi.daemon.shared_ports import SharedPorts
from xfrmi.daemon.state_file import StateFile
from xfrmi.daemon.state_samples import StateSamples
from xfrmi.daemon.successor import Successor
from xfrmi.daemon.takeover import Predecessor
from xfrmi.daemon.xfrm_handler import XfrmHandler
from xfrmi.dev.netns import netns_inode
from xfrmi.dev.privileges import close_memory, keep_capabilities, no_new_privileges, use_capabilities
from xfrmi.dev.router import KernelRouter
from xfrmi.dev.sockets import under_exec
from xfrmi.dev.sysctl import KernelSysctls
from xfrmi.dev.underlay import Underlay
from xfrmi.errors import XfrmError
from xfrmi.wire.xfrm_const import XfrmStat

if TYPE_CHECKING:
    from xfrmi.daemon.handover_sockets import Given
    from xfrmi.daemon.workers import Workers
    from xfrmi.wire.xfrm_types import PolicyInfo

STOPS = signal.SIGTERM, signal.SIGINT

GC_THRESHOLDS = 5_000, 10, 10_000
"""Nothing in here makes cycles. New objects are looked through now and then, which takes a millisecond or two; all of
them hardly ever: with 100,000 states that would hold up every packet for 150 ms."""


log = Log()

KEPT = frozenset(("net_admin", "net_raw"))
"""Capabilities that are needed as long as interfaces come and go (dev/privileges.py)."""


class Daemon:
    """Everything of one daemon, assembled. XfrmError if this machine or another daemon does not let it be."""

    def __init__(
        self,
        resources: ExitStack,
        remove_on_exit: bool = False,
        kernel_quirks: bool = False,
        workers: int = 1,
        while_used: bool = False,
        predecessor: Predecessor | None = None,
    ) -> None:
        """`resources` gives back, in reverse order, what has been taken, also if this raises half-way. With a
        `predecessor` nothing is ours before `run`, and nothing is to be given back."""
        self._started = time.time()
        self._predecessor = predecessor
        self._held: float | None = None
        """Seconds for which no packet was looked at when this process took over."""
        self._loop = Loop()
        resources.callback(self._loop.close)
        if predecessor is None:
            control = ControlSockets(self._loop)
        else:
            control = ControlSockets(self._loop, predecessor.lock, predecessor.doors)
        given = predecessor.given if predecessor is not None else None
        resources.callback(control.close)
        router = KernelRouter()
        resources.callback(router.close)
        self._loop.watch(router.fileno(), router.process)
        self._workers: Workers | None = None
        self._data_path: DataPath | None = None
        self._policy_path: PolicyPath | None = None
        prepare: Callable[[PolicyInfo], None] = refuse_with_workers
        flushed: Callable[[], None] = _nothing
        self.tick: Callable[[float], None]
        hear: Callable[[], None] = _nothing  # workers hear by themselves, when their turn comes
        if workers > 1:
            devices = self._with_workers(resources, router, kernel_quirks, workers, given)
        else:
            self._engine = Engine(router, kernel_quirks=kernel_quirks, sysctls=KernelSysctls())
            underlay = Underlay(self._engine.router, esp=given.esp if given else {}, icmp=given.icmp if given else {})
            resources.callback(underlay.close)
            data_path = self._data_path = DataPath(self._engine, underlay, router, self._loop, log)
            devices = data_path.devices = Devices(self._engine, self._loop, data_path.tun_readable, log)
            self.tick, hear = data_path.tick, data_path.hear
            policy_path = self._policy_path = PolicyPath(self._engine, self._loop, data_path, log)
            resources.callback(policy_path.close)
            prepare, flushed = policy_path.prepare, policy_path.let_go
        resources.callback(devices.close, remove_on_exit)
        if predecessor is None:
            devices.take_over()
            if self._policy_path is not None:
                self._policy_path.take_over()
        events = Events(self._engine)
        state_file = StateFile(control.directory, log, inherited=predecessor is not None)
        self._engine.subscribe(state_file.note)
        events.greet = state_file.tell
        xfrm = XfrmHandler(self._engine, events, prepare=prepare, flushed=flushed).handle
        route = RouteHandler(devices, hear).handle
        if self._workers is not None:
            events.on_listeners = self._workers.tell_listeners
            xfrm, route = self._workers.everywhere(xfrm), self._workers.everywhere(route)
        hub = Hub(events, self._unused if while_used else _nothing)
        resources.callback(hub.close)
        resources.callback(lambda: state_file.close(forget=while_used and not hub.used))
        self._ports = SharedPorts(self._data_path, self._loop, log)
        commands = {"stat": self._stat, "status": self._status, "share-port": self._share_port}
        commands["let-pass"] = self._let_pass
        self._successor = Successor(self._loop, log)
        commands["succeed"] = self._successor.command
        self._parts = Parts(
            self._engine, self._loop, control, devices, hub, self._ports, state_file, self._data_path,
            self._policy_path, self._workers, given,
        )  # fmt: skip
        if predecessor is not None:
            predecessor.fill(self._parts)
        self._hand_overs = HandOver(self._parts, log)
        commands["hand-over"] = self._hand_overs.command
        if predecessor is None:  # who gets in may tell us to stop; until then a signal ends the process, as any other
            self._loop.stop_on(*STOPS)
        control.listen(xfrm, route, events, hub, commands, {"trace": self._trace, "states": self._states})

    def _with_workers(
        self, resources: ExitStack, router: KernelRouter, kernel_quirks: bool, count: int, given: Given | None
    ) -> Devices:
        from xfrmi.daemon.worker_tables import ToldSad, ToldSpd
        from xfrmi.daemon.workers import Workers

        engine = self._engine = Engine(
            router, kernel_quirks=kernel_quirks, sysctls=KernelSysctls(count), make_sad=ToldSad, make_spd=ToldSpd
        )
        workers = self._workers = Workers(engine, self._loop, count, log, given=given)
        resources.callback(workers.close)

        def tick(now: float) -> None:
            engine.tick(now)  # the keepalives it has are sent by who seals
            workers.tick(now)

        self.tick = tick
        return workers.make_devices(log)

    def _unused(self) -> None:
        """The last of those for whom exec has started this has gone."""
        if self._policy_path is not None:
            self._policy_path.leave()
        self._loop.stop()

    def run(self) -> bool:
        """Serve until a signal, or another process does. Returns whether what was taken is to be given back."""
        self._loop.stop_on(*STOPS)
        self._loop.call_on(signal.SIGHUP, self._successor.hung_up)
        log(f"xfrmi {__version__} serves network namespace {netns_inode()}")
        notify("READY=1")
        deadline = self._engine.next_deadline
        if self._workers is not None:
            if not any(self._workers.pids):
                self._workers.start()
            sources = self._engine.next_deadline, self._workers.next_deadline
            deadline = partial(earliest, sources)
        self._loop.run(self.tick, deadline)
        if self._hand_overs.done:
            return False
        notify("STOPPING=1")
        log("stopping")
        return True

    def succeed(self) -> None:
        """Before `run`: take the place of the predecessor, if there is one. XfrmError if it is not to be, and then
        nothing has happened."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        if (predecessor := self._predecessor) is not None:
            if self._workers is not None:
                self._workers.start(held=True)
            predecessor.catch_up()
            held_since = predecessor.commit()
            predecessor.begin()
            self._held = time.monotonic() - held_since
            self._predecessor = None
            what = f"{len(self._engine.sad)} states; packets waited {self._held * 1000:.1f} ms"
            log(f"pid {predecessor.pid} has handed over, with {what}")

    def _stat(self, request: Mapping[str, Any]) -> dict[str, int]:
        if self._workers is not None:
            self._workers.refresh()
        return {stat.label: self._engine.stats[stat] for stat in XfrmStat}

    def _share_port(self, request: Mapping[str, Any]) -> dict[str, object]:
        self._ports.command(request)
        return self._let_pass(request)

    def _let_pass(self, request: Mapping[str, Any]) -> dict[str, object]:
        port = request.get("port")
        if not isinstance(port, int) or not 0 < port < 1 << 16:
            raise XfrmError(errno.EINVAL, detail='"let-pass" takes "port"')
        if self._policy_path is not None:
            self._policy_path.let_pass(port)
        return {}

    def _trace(self, request: Mapping[str, Any], wake: Callable[[], None]) -> Stream:
        if self._workers is not None:
            return self._workers.traces.subscribe(request, wake)
        assert self._data_path is not None
        return self._data_path.tracer.subscribe(request, wake)

    def _states(self, request: Mapping[str, Any], wake: Callable[[], None]) -> Stream:
        if self._workers is not None:
            self._workers.refresh()
        return StateSamples(self._engine.sad, request)

    def _status(self, request: Mapping[str, Any]) -> dict[str, object]:
        return {
            "version": __version__,
            "pid": os.getpid(),
            "held": self._held,
            "netns": netns_inode(),
            "started": self._started,
            "interfaces": [interface.name for interface in self._engine.interfaces],
            "states": len(self._engine.sad),
            "policies": len(self._engine.spd),
            "faults": self._loop.faults,
            "shed": self._data_path.shed if self._data_path is not None else None,
            "workers": self._workers.pids if self._workers is not None else [],
        }


def _nothing() -> None:
    pass


def _predecessor() -> Predecessor | None:
    """None if no daemon serves here. XfrmError if it does not hand over."""
    try:
        return Predecessor()
    except XfrmError as error:
        if error.errno == errno.ECONNREFUSED:
            log("no daemon to replace: this is the first")
            return None
        raise


def run_daemon(
    remove_on_exit: bool = False,
    kernel_quirks: bool = False,
    workers: int = 1,
    while_used: bool = False,
    keep: frozenset[str] = KEPT,
    replace: bool = False,
) -> None:
    """The body of `xfrmi daemon`, which goes on with the capabilities `keep`. `replace`: instead of the one that serves
    here, if there is one. Raises XfrmError if it cannot start."""
    if under_exec():
        raise XfrmError(
            errno.EDEADLK,
            detail="this shell is run by `xfrmi exec`, whose supervisor and a daemon in here would wait for each "
            "other; there is a daemon already, or start one outside",
        )
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # a TUN is a descriptor, a client another
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    close_memory()
    no_new_privileges()
    use_capabilities()
    with ExitStack() as resources:
        predecessor = _predecessor() if replace else None
        try:
            daemon = Daemon(resources, remove_on_exit, kernel_quirks, workers, while_used, predecessor)
            keep_capabilities(keep)
            daemon.succeed()
        except BaseException:
            if predecessor is not None:  # everything is still the other's
                resources.pop_all()
            raise
        predecessor = None  # the keys that it has told are those of their states now, and go with them
        if not daemon.run():
            resources.pop_all()
