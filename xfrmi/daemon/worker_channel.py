"""What a daemon and its workers tell each other, and how: pickled values over Unix sockets that nobody else has.

Down goes what the tables and devices have become, up what traffic has done. Two sockets, one for each way: the parent
may wait for a worker to take something, and a worker never waits for its parent, so they cannot wait for each other.
States carry keys: the sockets exist in these processes only, and messages are never logged.
"""

from __future__ import annotations

import os
import pickle
import socket
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xfrmi.core.events import Event
from xfrmi.daemon.descriptors import received_fds, room_for
from xfrmi.daemon.loop import Loop
from xfrmi.wire.xfrm_types import PolicyInfo, StateInfo, Template

MAX_FDS = 200
MAX_MESSAGE = 1 << 18
"""Bytes. A report of many states goes in pieces."""
READY = 0
"""The serial number of the answer that nobody has asked for: the worker has begun."""

Numbers = tuple[int, int, int]
"""The last sequence number sent, the highest one received, and which of those below it have been."""

# Down ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StateIn:
    """A state of which this worker is the home: see workers.py."""

    key: int
    """Names it from now on; never used again."""
    role: int
    """SaDir.OUT: this worker seals with it. SaDir.IN: it opens."""
    place: int
    """Its marks (worker_marks.py)."""
    info: StateInfo
    """Its configuration, and its counters as far as the parent knows."""
    numbers: Numbers
    km: int
    dying: bool
    iv_salt: int
    iv_counter: int
    """The first IV of a range that nobody else ever gets."""


@dataclass(frozen=True, slots=True)
class StateChanged:
    key: int
    info: StateInfo
    dying: bool
    numbers: Numbers | None
    """They have been set by request."""
    recounted: bool
    """So have the counters in `info`."""


@dataclass(frozen=True, slots=True)
class StateUsed:
    """By somebody else, before this worker does anything with it."""

    key: int
    numbers: Numbers
    counted: tuple[int, int, int, int]
    """Bytes and packets; when it was used first and last."""
    iv_counter: int
    """As `StateIn`."""


@dataclass(frozen=True, slots=True)
class StateOut:
    key: int


@dataclass(frozen=True, slots=True)
class PolicyIn:
    key: int
    info: PolicyInfo
    rank: tuple[int, int]


@dataclass(frozen=True, slots=True)
class PolicyOut:
    key: int


@dataclass(frozen=True, slots=True)
class DefaultsSet:
    defaults: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Link:
    """What an interface is at the moment."""

    name: str
    if_id: int
    link: int
    external: bool
    ifindex: int
    mtu: int
    up: bool
    away: bool


@dataclass(frozen=True, slots=True)
class DeviceIn:
    """With descriptors: the queues to read, if there are any, and the queue to write."""

    key: int
    link: Link
    takes: frozenset[int]


@dataclass(frozen=True, slots=True)
class DeviceChanged:
    key: int
    link: Link


@dataclass(frozen=True, slots=True)
class DeviceOut:
    key: int


@dataclass(frozen=True, slots=True)
class PortOpened:
    """With one descriptor: this worker's socket of the port."""

    family: int
    port: int


@dataclass(frozen=True, slots=True)
class Strays:
    """What has arrived at the wrong socket: outer header and ESP packet of each."""

    datagrams: tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Listeners:
    """How many hear of acquires, and of aevents."""

    acquire: int
    aevents: int


@dataclass(frozen=True, slots=True)
class TraceWanted:
    """With one descriptor: a connection on which somebody is to be told of packets (worker_traces.py)."""

    request: Mapping[str, Any]
    """As Tracer.subscribe takes it."""


@dataclass(frozen=True, slots=True)
class Learned:
    """Path MTUs: as LearnedPaths.learned."""

    paths: tuple[tuple[tuple[bytes, int], tuple[int, float]], ...]


@dataclass(frozen=True, slots=True)
class Gathered:
    """Several messages, each with the number of its descriptors."""

    messages: tuple[tuple[Down, int], ...]


@dataclass(frozen=True, slots=True)
class Brace:
    """`Hold` is to follow: from now on note what is to be told then."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Look at no packet until `GoOn` comes: another process may be about to."""

    serial: int
    """By which worker 0 knows the last word of each of the others, see worker_relay.py."""
    others: tuple[int, ...]
    """To worker 0: who has been told the same."""


@dataclass(frozen=True, slots=True)
class GoOn:
    """It has come to nothing, or is yours."""


@dataclass(frozen=True, slots=True)
class Ask:
    """For an answer once all that was told before has been taken in, and for a report before it."""

    serial: int
    report: bool


Down = (
    StateIn | StateUsed | StateChanged | StateOut | PolicyIn | PolicyOut | DefaultsSet | DeviceIn | DeviceChanged
    | DeviceOut | PortOpened | Strays | Listeners | TraceWanted | Learned | Gathered | Brace | Hold | GoOn | Ask
)  # fmt: skip

# Up ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StateUsage:
    key: int
    counted: tuple[int, ...]
    """Since the last report: bytes, packets; drops: late, replayed, wrong ICV."""
    use_time: int
    lastused: int
    sent: int | None
    window: tuple[int, int] | None
    """Top and seen. Each is told by the worker that moves it."""


@dataclass(frozen=True, slots=True)
class Report:
    """What has been counted since the last one."""

    stats: tuple[int, ...] = ()
    """By XfrmStat."""
    devices: tuple[tuple[int, tuple[int, ...]], ...] = ()
    """Key and counters, see worker_usage.DEVICE_COUNTERS."""
    states: tuple[StateUsage, ...] = ()
    policies: tuple[tuple[int, int], ...] = ()
    """Key and use_time."""


@dataclass(frozen=True, slots=True)
class Answered:
    serial: int


@dataclass(frozen=True, slots=True)
class Happened:
    """A StateExpired, StateReplayed or Mapping of the state `key`."""

    key: int
    event: Event


@dataclass(frozen=True, slots=True)
class Needed:
    """A packet needs a state that is not there."""

    state: StateInfo
    template: Template
    policy: PolicyInfo


@dataclass(frozen=True, slots=True)
class DeviceGone:
    """Reading it fails for good."""

    key: int


@dataclass(frozen=True, slots=True)
class Held:
    """The answer to `Hold`, when all has been told that there is to tell."""

    learned: tuple[tuple[tuple[bytes, int], tuple[int, float]], ...]
    """As `Learned`."""


Up = Report | Answered | Happened | Needed | DeviceGone | Held


def send(sock: socket.socket, message: Down | Up, fds: Sequence[int] = ()) -> None:
    """OSError if it is not taken: BlockingIOError or TimeoutError, as the socket is."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    if fds:
        socket.send_fds(sock, [data], list(fds))
    else:
        sock.send(data)


def receive(sock: socket.socket) -> tuple[Down | Up, tuple[int, ...]]:
    """A message and the descriptors that came with it. EOFError when the other side is gone; OSError."""
    data, ancillary, _, _ = sock.recvmsg(MAX_MESSAGE, room_for(MAX_FDS), socket.MSG_CMSG_CLOEXEC)
    if not data:
        raise EOFError
    message: Down | Up = pickle.loads(data)
    return message, received_fds(ancillary)


class Upward:
    """A worker's end of the way up: what the parent does not take at once waits."""

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        self._loop = loop
        self._socket = sock
        self._waiting: deque[Up] = deque()
        sock.setblocking(False)
        loop.watch(sock.fileno(), lambda: os._exit(0))  # the parent says nothing here: it has gone

    def put(self, message: Up) -> None:
        self._waiting.append(message)
        if len(self._waiting) == 1:
            self._send()

    def wait(self) -> None:
        """Return when the parent has taken everything, or has room for it."""
        self._socket.setblocking(True)
        self._send()
        self._socket.setblocking(False)

    def _send(self) -> None:
        try:
            while self._waiting:
                send(self._socket, self._waiting[0])
                self._waiting.popleft()
        except BlockingIOError:
            self._loop.want_write(self._socket.fileno(), self._send)
            return
        except OSError:
            os._exit(0)
        self._loop.want_write(self._socket.fileno(), None)
