"""Taking over from the daemon that serves here: the successor's side of handover.py, whose order it follows.

Nothing that is done here before `commit` returns may be noticed by anybody: the other one may have to go on. So who
fails before that exits without cleaning up.
"""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from xfrmi.client.channel import connect
from xfrmi.core.saved import restore_counters, restore_rest
from xfrmi.core.state import KM_ACQ
from xfrmi.daemon import handover_format as told
from xfrmi.daemon.handover_format import FORMAT, MAX_MESSAGE, Client, Message
from xfrmi.daemon.handover_sockets import SocketsHeard
from xfrmi.daemon.handover_tables import TablesHeard
from xfrmi.daemon.policy_path import refuse_with_workers
from xfrmi.daemon.runtime import JSON_SOCKET
from xfrmi.dev.netns import OWN_NETNS
from xfrmi.errors import XfrmError

if TYPE_CHECKING:
    from xfrmi.core.interface import Interface
    from xfrmi.core.saved import SavedPolicy
    from xfrmi.daemon.handover import Parts
    from xfrmi.daemon.handover_sockets import Given
    from xfrmi.wire.xfrm_types import StateInfo

PATIENCE = 10.0
"""Seconds for the other one to say something."""


class Predecessor:
    """The daemon that serves this network namespace, and what it has told."""

    def __init__(self) -> None:
        """Ask it to hand over. XfrmError ECONNREFUSED if there is none; what it refuses with."""
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.settimeout(PATIENCE)
        self._buffer = bytearray(MAX_MESSAGE)
        self.lock = -1
        self.doors: dict[str, int] = {}
        self._sockets = SocketsHeard()
        self._device_fds: dict[int, tuple[told.DeviceIn, tuple[int, ...]]] = {}
        self._tables = TablesHeard()
        self._interfaces: dict[int, Interface] = {}
        self._clients: list[tuple[Client, int]] = []
        self._lost: list[StateInfo] = []
        self._ears: int | None = None
        self._rest: told.Rest
        self._parts: Parts
        with theirs:
            self.pid = self._ask(theirs.fileno())
        self._hear(self._keep)

    def _ask(self, fd: int) -> int:
        with connect(OWN_NETNS, JSON_SOCKET, socket.SOCK_STREAM, PATIENCE) as control:
            request = json.dumps({"cmd": "hand-over", "format": FORMAT}).encode() + b"\n"
            socket.send_fds(control, [request], [fd])
            with control.makefile("rb") as lines:
                answer = json.loads(lines.readline() or b"{}")
        if "result" not in answer:
            detail = str(answer.get("error", "the running daemon hung up"))
            if detail.startswith("a request is one line"):  # a version that knows nothing of it
                detail = "the running daemon is of a version that cannot hand over: stop it, then start this one"
            raise XfrmError(int(answer.get("errno", errno.ECONNRESET)), detail=detail)
        return int(answer["result"]["pid"])

    def _hear(self, take: Callable[[Message, tuple[int, ...]], None]) -> None:
        """All up to `Prepared`, or the last of the rest. XfrmError ECONNRESET, ETIMEDOUT."""
        while True:
            message, fds = self._receive()
            if isinstance(message, told.Prepared):
                return
            take(message, fds)
            if isinstance(message, told.Rest):
                return

    def _receive(self) -> tuple[Message, tuple[int, ...]]:
        try:
            return told.receive(self._channel, self._buffer)
        except TimeoutError:
            raise XfrmError(errno.ETIMEDOUT, detail="the running daemon does not go on handing over") from None
        except (OSError, EOFError):
            raise XfrmError(errno.ECONNRESET, detail="the running daemon has stopped handing over") from None

    # Packets pass over there ------------------------------------------------------------------------------------------

    def _keep(self, message: Message, fds: tuple[int, ...]) -> None:
        match message:
            case told.Lock():
                (self.lock,) = fds
            case told.Door(name):
                (self.doors[name],) = fds
            case told.EspSocket() | told.IcmpSocket() | told.Steered():
                self._sockets.take(message, fds)
            case told.DeviceIn(key):
                self._device_fds[key] = message, fds
            case told.StatesIn() | told.PoliciesIn():
                self._tables.take(message)
            case _:
                raise XfrmError(errno.EPROTO, detail=f"the daemon has told a {type(message).__name__} too early")

    def fill(self, parts: Parts) -> None:
        """A daemon has been built around its sockets: with all that is known by now. XfrmError."""
        self._parts = parts
        for device, fds in self._device_fds.values():
            self._adopt(device, fds)
        if parts.workers is None:
            self._tables.use(parts.engine)
        else:
            self._tables.use(parts.engine, parts.workers.state_anew, _refuse_with_workers)
        self._device_fds.clear()

    @property
    def given(self) -> Given:
        """The sockets, but those of UDP ports."""
        return self._sockets.given

    def _adopt(self, device: told.DeviceIn, fds: Sequence[int]) -> None:
        self._interfaces[device.key] = self._parts.devices.adopt(
            device.name, device.if_id, device.link, device.external, fds, device.reads
        )

    def catch_up(self) -> None:
        """All of this process is there and waits: take in what has become of what was told. XfrmError."""
        self._say(told.Prepared())
        self._hear(self._take)
        if self._parts.workers is not None:
            self._parts.workers.hands.caught_up()

    def _say(self, message: Message) -> None:
        try:
            told.send(self._channel, message)
        except OSError:
            raise XfrmError(errno.ECONNRESET, detail="the running daemon has gone on by itself") from None

    # No packet passes -------------------------------------------------------------------------------------------------

    def commit(self) -> float:
        """Take in the last of it, and be the daemon of this namespace. Returns since when (monotonic seconds) no packet
        has been looked at. XfrmError if it is not to be."""
        parts = self._parts
        self._say(told.Prepared())
        self._hear(self._take)
        rest = self._rest
        restore_rest(parts.engine, rest.rest)
        if rest.policy_counters is not None and parts.engine.interfaces.policy_based is not None:
            restore_counters(parts.engine.interfaces.policy_based, rest.policy_counters)
        parts.loop.faults = rest.faults
        if parts.data_path is not None:
            parts.data_path.shed = rest.shed
        if parts.workers is not None:
            parts.workers.hands.ready()
        self._say(told.Prepared())
        message, _ = self._receive()
        if not isinstance(message, told.Yours):
            raise XfrmError(errno.EPROTO, detail="the running daemon goes on by itself")
        self._channel.close()
        return rest.held_since

    def begin(self) -> None:
        """After `commit`: first what packets wait for."""
        parts = self._parts
        if parts.workers is not None:
            parts.workers.hands.begin()
        parts.control.begin(self._clients)
        if parts.policy_path is not None:
            parts.policy_path.begin()
        if (ears := self._ears) is not None:
            parts.loop.soon(lambda: parts.devices.hear_by(ears))
        parts.loop.soon(self._resume_file)

    def _resume_file(self) -> None:
        """Of many states it takes as long as packets might wait."""
        states = [state.info for state in self._parts.engine.sad.dump()[::-1] if state.km != KM_ACQ]
        self._parts.state_file.resume(states, self._lost, self._rest.lost_until)

    def _take(self, message: Message, fds: tuple[int, ...]) -> None:
        parts = self._parts
        match message:
            case told.DevicesOut(keys):
                for key in keys:
                    parts.devices.let_go(self._interfaces.pop(key))
            case told.DeviceIn():
                self._adopt(message, fds)
            case told.Steered():
                self._sockets.take(message, fds)
            case told.StatesOut() | told.StatesIn() | told.PoliciesOut() | told.PoliciesIn():
                self._tables.take(message)
            case told.Port():
                self._adopt_port(message, fds[0])
            case told.Holder(family, port, address):
                if parts.workers is not None:
                    raise _workers_cannot(f"UDP port {port} is shared with an IKE daemon, which workers cannot do")
                parts.ports.adopt((family, port, address), fds[0])
            case told.PolicyTuns():
                if parts.policy_path is not None:
                    parts.policy_path.adopt(message, fds)
                elif fds:
                    raise _workers_cannot(_POLICIES)
            case told.HubSocket():
                parts.hub.adopt(fds[0])
            case told.LinkMonitor():
                self._ears = fds[0]
            case told.Client():
                self._clients.append((message, fds[0]))
            case told.More(owed, notices):
                client, fd = self._clients[-1]
                client = replace(client, owed=client.owed + owed, notices=client.notices + notices)
                self._clients[-1] = client, fd
            case told.Counters(devices):
                for key, counters in devices:
                    restore_counters(self._interfaces[key], counters)
            case told.Lost(states):
                self._lost += states
            case told.Rest():
                self._rest = message
            case _:
                raise XfrmError(errno.EPROTO, detail=f"the daemon has told a {type(message).__name__} too late")

    def _adopt_port(self, bound: told.Port, fd: int) -> None:
        parts = self._parts
        self._sockets.take_port(bound)
        if parts.data_path is not None:
            parts.data_path.adopt_port(bound.family, bound.port, bound.address, fd)
        elif parts.workers is not None:
            if bound.address:
                raise _workers_cannot(f"UDP port {bound.port} is shared with an IKE daemon, which workers cannot do")
            parts.workers.hands.adopt_port(bound.family, bound.port, bound.reader, fd)


_POLICIES = "there are policies without if_id, which workers cannot carry out"


def _refuse_with_workers(saved: SavedPolicy) -> None:
    try:
        refuse_with_workers(saved.info)
    except XfrmError:
        raise _workers_cannot(_POLICIES) from None


def _workers_cannot(why: str) -> XfrmError:
    return XfrmError(errno.EOPNOTSUPP, detail=f"{why}: leave --workers out")
