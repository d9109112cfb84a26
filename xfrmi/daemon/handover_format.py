"""What a daemon and its successor tell each other, and how: pickled values over a socket pair that nobody else has.

Both ends may be of different versions of the code, of which one knows fields that the other does not: what becomes of
them, and what to mind when one is added, is said in self_describing.py. Who asks says the number of the whole, and one
of another number is refused before anything is told. It is to be raised when what is told has another meaning or order.

The values carry keys: they go through memory and the socket only. What is received is wiped when it has been read; what
Python has made of it on the way cannot be.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, get_args

from xfrmi.core.saved import SavedPolicy, SavedRest, SavedState
from xfrmi.daemon.descriptors import received_fds, room_for
from xfrmi.daemon.self_describing import Kinds
from xfrmi.errors import XfrmError
from xfrmi.wire import xfrm_types
from xfrmi.wire.xfrm_types import StateInfo

FORMAT = 3
MAX_MESSAGE = 1 << 18
"""Bytes. The largest is the answer to a client that it has not taken, or its piece of a stream."""
MAX_FDS = 200
"""The queues of a device."""
AT_ONCE = 16
"""States of a message: 30 KB at most."""
KEYS_AT_ONCE = 4096

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EspSocket:
    """The next of its family. One descriptor."""

    family: int
    reader: int
    """The worker for which it was opened; see handover_sockets.py."""


@dataclass(frozen=True, slots=True)
class IcmpSocket:
    """One descriptor."""

    family: int


@dataclass(frozen=True, slots=True)
class Steered:
    """Which SPIs arrive at which of the ESP sockets of their family, and where all others do. Told each time."""

    pins: tuple[tuple[int, int], ...]
    default: int


@dataclass(frozen=True, slots=True)
class Door:
    """A control socket that takes connections. One descriptor."""

    name: str


@dataclass(frozen=True, slots=True)
class Lock:
    """The right to serve this network namespace. One descriptor."""


@dataclass(frozen=True, slots=True)
class DeviceIn:
    """A descriptor for each queue: those that are read, then perhaps one that is written to."""

    key: int
    name: str
    if_id: int
    link: int
    external: bool
    reads: int


@dataclass(frozen=True, slots=True)
class DevicesOut:
    keys: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StatesIn:
    """New ones, after all that have been told before, or what has become of those told before; by key."""

    states: tuple[tuple[int, SavedState], ...]


@dataclass(frozen=True, slots=True)
class StatesOut:
    keys: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PoliciesIn:
    """As `StatesIn`."""

    policies: tuple[tuple[int, SavedPolicy], ...]


@dataclass(frozen=True, slots=True)
class PoliciesOut:
    keys: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """That was all for now. From the successor: it has taken in all of that."""


# With the packets held ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Port:
    """The next UDP socket of this port. One descriptor."""

    family: int
    port: int
    address: str
    reader: int


@dataclass(frozen=True, slots=True)
class Holder:
    """An IKE daemon that shares a port. One descriptor, of its process."""

    family: int
    port: int
    address: str


@dataclass(frozen=True, slots=True)
class PolicyTuns:
    """Behind policies without if_id; not with workers. Two descriptors if they are there."""

    ports: tuple[int, ...]
    held: bool


@dataclass(frozen=True, slots=True)
class HubSocket:
    """One descriptor."""


@dataclass(frozen=True, slots=True)
class LinkMonitor:
    """Hears of devices in other namespaces, for which who opens it must have CAP_NET_BROADCAST. One descriptor."""


@dataclass(frozen=True, slots=True)
class Client:
    """One connection. One descriptor."""

    door: str
    owed: tuple[bytes, ...]
    """What is still to be sent."""
    heard: bytes
    """The beginning of a line."""
    groups: int | None
    """What it is subscribed to, and what waits for it."""
    notices: tuple[bytes, ...]
    attached: int | None
    """What the programs of this supervisor listen to."""
    stream: dict[str, Any] | None
    """The request that began it."""


@dataclass(frozen=True, slots=True)
class More:
    """Of the last client."""

    owed: tuple[bytes, ...]
    notices: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Counters:
    devices: tuple[tuple[int, dict[str, int]], ...]
    """By key."""


@dataclass(frozen=True, slots=True)
class Lost:
    """States of an earlier daemon whose end nobody has been told."""

    states: tuple[StateInfo, ...]


@dataclass(frozen=True, slots=True)
class Rest:
    rest: SavedRest
    policy_counters: dict[str, int] | None
    lost_until: float
    """On the monotonic clock, as `held_since`."""
    shed: int
    faults: int
    held_since: float
    """Seconds: since then no packet has been looked at."""


@dataclass(frozen=True, slots=True)
class Yours:
    """The last word. Who has said it never seals again; who has not heard it never begins."""


Message = (
    EspSocket | IcmpSocket | Steered | Door | Lock | DeviceIn | DevicesOut | StatesIn | StatesOut | PoliciesIn
    | PoliciesOut | Prepared | Port | Holder | PolicyTuns | HubSocket | LinkMonitor | Client | More | Counters | Lost
    | Rest | Yours
)  # fmt: skip


_TYPES = [value for value in vars(xfrm_types).values() if isinstance(value, type)]
_VALUES = [value for value in _TYPES if value.__module__ == xfrm_types.__name__]
KINDS = Kinds((*get_args(Message), SavedState, SavedPolicy, SavedRest, *_VALUES))
"""All that may be in a message."""


def in_pieces(client: Client) -> Iterator[Client | More]:
    """The connection itself first."""
    yield replace(client, owed=(), notices=())
    for owed in client.owed:
        yield More((owed,), ())
    for notices in in_batches(client.notices):
        yield More((), notices)


def in_batches(items: Sequence[T], size: int = AT_ONCE) -> Iterator[tuple[T, ...]]:
    """What fits into a message each."""
    for start in range(0, len(items), size):
        yield tuple(items[start : start + size])


def send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """OSError as sendmsg."""
    data = KINDS.dumps(message)
    if fds:
        socket.send_fds(sock, [data], list(fds))
    else:
        sock.send(data)


def receive_alone(sock: socket.socket, buffer: bytearray) -> Message:
    """As `receive`, from who is not to send any descriptors."""
    message, fds = receive(sock, buffer)
    for fd in fds:
        os.close(fd)
    return message


def receive(sock: socket.socket, buffer: bytearray) -> tuple[Message, tuple[int, ...]]:
    """`buffer` has MAX_MESSAGE bytes. EOFError if the other has gone or talks nonsense; XfrmError EPROTONOSUPPORT if it
    tells what only another version can take; OSError as recvmsg."""
    length, ancillary, flags, _ = sock.recvmsg_into([buffer], room_for(MAX_FDS), socket.MSG_CMSG_CLOEXEC)
    fds = received_fds(ancillary)
    try:
        if not length or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise EOFError
        message: Message = KINDS.loads(memoryview(buffer)[:length])
    except Exception as error:
        for fd in fds:
            os.close(fd)
        if isinstance(error, XfrmError):
            raise
        raise EOFError from error
    finally:
        buffer[:length] = bytes(length)
    return message, fds
