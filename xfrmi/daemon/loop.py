"""The one loop: who is readable, who may write again, what is due, and has somebody asked us to stop.

Level-triggered epoll and no threads. Each callback does one bounded piece of work (a burst, a request) and returns;
what is left keeps its descriptor readable and has its turn after the others had theirs. Time is Unix seconds.

Packets do not wait, clients do: while there are packets, all clients together get SHARE of the time that packets take,
however many clients there are and however much they ask (`patient` descriptors). Who has just been served and wants
more is one line, who is new another, who has been served and comes back after a while the third, and they are served in
turn: a request does not wait behind those of somebody who has hundreds, nor behind a crowd that has just come.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable

Callback = Callable[[], object]

MAX_SLEEP = 5.0
"""Seconds. The clock of the deadlines can be set while we sleep; this bounds how late that is noticed."""
SHARE = 0.3
"""Of the time that packets take, for clients: packets keep three quarters of the processor."""
CREDIT = 0.002
"""Seconds that clients may take at once when no packets have come."""
LOOK = 0.005
"""Seconds. For so long the next deadline is not asked for again, which a busy loop would do with each packet. What has
come up meanwhile can be late by this."""
MAX_FAULTS = 20
"""Unexpected exceptions that are printed; later ones are only counted."""


class Loop:
    def __init__(self) -> None:
        self.clock: Callable[[], float] = time.time
        self.faults = 0
        self._epoll = select.epoll()
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        self._patient: set[int] = set()
        self._back: dict[int, None] = {}
        self._new: dict[int, None] = {}
        self._again: dict[int, None] = {}
        self._known: set[int] = set()
        """Patient ones that have ever been served."""
        self._served: set[int] = set()
        """Patient ones that have been served and have not been without a wish since."""
        self._credit = CREDIT
        self._since = 0.0
        """When clients were served last: what has passed by then was for packets."""
        self._running = True
        self._left = False
        self._wake_in, self._wake_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._called: list[Callback] = []
        self.watch(self._wake_in, self._woken)

    def watch(self, fd: int, on_readable: Callback, patient: bool = False) -> None:
        """Call `on_readable` while `fd` is readable, hung up or in error; it must consume or unwatch."""
        self._epoll.register(fd, select.EPOLLIN)
        self._readers[fd] = on_readable
        if patient:
            self._patient.add(fd)

    def want_write(self, fd: int, on_writable: Callback | None) -> None:
        """Call `on_writable` when the watched `fd` takes data again, is hung up or in error; None to stop.

        Reading pauses meanwhile: nobody can ask faster than he listens. Either callback may come once too often.
        """
        if on_writable is None:
            self._writers.pop(fd, None)
        else:
            self._writers[fd] = on_writable
        self._epoll.modify(fd, select.EPOLLIN if on_writable is None else select.EPOLLOUT)

    def unwatch(self, fd: int) -> None:
        """Before `fd` is closed. Unknown descriptors are ignored."""
        self._writers.pop(fd, None)
        self._patient.discard(fd)
        self._served.discard(fd)
        self._known.discard(fd)
        for line in (self._back, self._new, self._again):
            line.pop(fd, None)
        if self._readers.pop(fd, None) is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)

    def stop_on(self, *signals: int) -> None:
        """From now on these signals end run(). Main thread only."""
        # The wakeup descriptor closes the gap between the test of _running and the system call that sleeps.
        signal.set_wakeup_fd(self._wake_out, warn_on_full_buffer=False)
        for number in signals:
            signal.signal(number, lambda *_: self.stop())

    def call_on(self, number: int, callback: Callback) -> None:
        """From now on this signal has `callback` called in a turn of run(). After `stop_on`; main thread only."""
        signal.signal(number, lambda *_: self._called.append(callback))

    def soon(self, callback: Callback) -> None:
        """Call this once, when who is readable already has been served."""
        self._called.append(callback)
        self._wake()

    def _woken(self) -> None:
        _drain(self._wake_in)
        called, self._called = self._called, []
        for callback in called:
            callback()

    def run(self, tick: Callable[[float], None], next_deadline: Callable[[], float | None]) -> None:
        """Until stop(). `tick(now)` runs whenever the time of `next_deadline()` has come."""
        deadline: float | None = None
        asked = 0.0
        while self._running:
            now = self.clock()
            longest = LOOK
            if abs(now - asked) >= LOOK:
                deadline, asked = next_deadline(), now
                longest = MAX_SLEEP
            pause = longest if deadline is None else min(max(deadline - now, 0.0), longest)
            self._serve([fd for fd, _ in self._epoll.poll(pause)])
            if deadline is not None and deadline <= self.clock() and not self._left:
                self._guard(lambda: tick(self.clock()))
                asked = 0.0

    def _serve(self, ready: list[int]) -> None:
        """One turn: packets first, then patient ones as far as they have credit. Those left are ready again at once."""
        if self._patient.isdisjoint(ready):
            for fd in ready:
                self._call(fd)
            self._served.clear()
            return
        patient = self._patient.intersection(ready)
        for fd in ready:
            if fd not in patient:
                self._call(fd)
        self._served &= patient
        lines = self._back, self._new, self._again
        for fd in ready:
            if fd in patient and not any(fd in line for line in lines):
                line = self._again if fd in self._served else self._back if fd in self._known else self._new
                line[fd] = None
        now = time.monotonic()
        earned = (now - self._since) * SHARE
        self._credit = CREDIT if len(patient) == len(ready) else min(self._credit + earned, CREDIT)
        while self._credit > 0 and any(lines):
            for line in lines:
                if line:
                    fd = next(iter(line))
                    del line[fd]
                    self._served.add(fd)
                    self._known.add(fd)
                    self._call(fd)
            now, before = time.monotonic(), now
            self._credit -= now - before
        self._since = now

    def _call(self, fd: int) -> None:
        # An earlier callback of this turn may have removed it, or made it wait to write.
        callback = self._writers.get(fd) or self._readers.get(fd)
        if callback is not None:
            self._guard(callback)

    def stop(self) -> None:
        """End run() after the callback at work. May be called from anywhere."""
        self._running = False
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_out, b"\0")

    def leave(self) -> None:
        """End run(), and call nothing more, not even for what was readable in the same turn: it is somebody else's."""
        self._left = True
        self._readers.clear()
        self._writers.clear()
        self.stop()

    def close(self) -> None:
        self._epoll.close()
        os.close(self._wake_in)
        os.close(self._wake_out)

    def _guard(self, callback: Callback) -> None:
        """A packet or request that finds a bug of ours must not end everybody's tunnels: say so and go on."""
        try:
            callback()
        except Exception:
            self.faults += 1
            if self.faults <= MAX_FAULTS:
                traceback.print_exc(file=sys.stderr)


def _drain(fd: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.read(fd, 4096):
            pass
