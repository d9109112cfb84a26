"""Events of the core as netlink notifications, for whoever subscribed to their multicast group (7.5).

Each event is encoded once, however many listen, and not at all when nobody does. A subscriber that does not read keeps
what fits its queue; the rest is lost to it, and it is told so with ENOBUFS at the place of the gap, as a netlink
socket tells it. Whatever a subscriber does, publishing never waits.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from xfrmi.daemon.notices import group_of, notice
from xfrmi.wire import netlink
from xfrmi.wire.xfrm_attr import Group

if TYPE_CHECKING:
    from xfrmi.core.engine import Engine
    from xfrmi.core.events import Event

MAX_QUEUED = 4096
"""Notifications kept for a subscriber that does not read."""


class Listener(Protocol):
    """Who hears of events."""

    groups: int
    """Union of the Group.bit it wants."""

    def put(self, datagram: bytes, group: Group) -> None:
        """Take one notification. Never waits, never raises."""


class Subscriber:
    """A bounded queue of notifications. `wake` is called when there is something to send."""

    def __init__(self, groups: int, wake: Callable[[], None]) -> None:
        self.groups = groups
        self.wake = wake
        self._queue: deque[bytes] = deque()
        self._lost = False

    def put(self, datagram: bytes, group: Group | None = None) -> None:
        if self._lost:
            return
        if len(self._queue) >= MAX_QUEUED:
            # As a congested netlink socket: nothing more until what is queued has been read.
            self._lost = True
            datagram = netlink.error(netlink.NO_REQUEST, errno.ENOBUFS)
        self._queue.append(datagram)
        self.wake()

    @property
    def queued(self) -> tuple[bytes, ...]:
        """What has not been taken."""
        return tuple(self._queue)

    def take(self) -> bytes:
        """The next notification, to be sent; empty if there is none."""
        if not self._queue:
            return b""
        datagram = self._queue.popleft()
        if not self._queue:
            self._lost = False
        return datagram


class Events:
    """The multicast groups of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._subscribers: list[Listener] = []
        self._cause = netlink.NO_REQUEST
        self.on_listeners: Callable[[], None] = lambda: None
        """Told when there may be more or fewer of them."""
        self.greet: Callable[[Listener], None] = lambda listener: None
        """Called with each that has come to listen."""
        engine.subscribe(self._publish)

    def subscribe(self, groups: int, wake: Callable[[], None]) -> Subscriber:
        """`groups`: Group bits. The caller sends what it finds in the subscriber's queue."""
        subscriber = Subscriber(groups, wake)
        self.add(subscriber)
        self.greet(subscriber)
        return subscriber

    def add(self, listener: Listener) -> None:
        self._subscribers.append(listener)
        self._count_listeners()

    def unsubscribe(self, listener: Listener) -> None:
        self._subscribers.remove(listener)
        self._count_listeners()

    @contextmanager
    def caused_by(self, request: netlink.Message) -> Iterator[None]:
        """Events published inside carry the sequence number and port of the request (NL-11)."""
        self._cause = request
        try:
            yield
        finally:
            self._cause = netlink.NO_REQUEST

    def _publish(self, event: Event) -> None:
        group = group_of(event)
        listeners = [subscriber for subscriber in self._subscribers if subscriber.groups & group.bit]
        if listeners:
            datagram = notice(event, self._cause)
            for subscriber in listeners:
                subscriber.put(datagram, group)

    def _count_listeners(self) -> None:
        """Larval states are made only while somebody listens for acquires (7.6), and counters are compared only while
        somebody listens for aevents (3.7)."""
        self._engine.acquire_listeners = self._listeners(Group.ACQUIRE)
        self._engine.sad.aevents.listeners = self._listeners(Group.AEVENTS)
        self.on_listeners()

    def _listeners(self, group: Group) -> int:
        return sum(1 for subscriber in self._subscribers if subscriber.groups & group.bit)
