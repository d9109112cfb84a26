"""The processes of a daemon's workers: begun by fork, told, asked, buried and replaced. See workers.py.

A worker that dies is replaced at once, in a second if it has not lived that long. One that takes nothing, or answers
nothing, for five seconds is killed first: there are never two with one number.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence

from xfrmi.daemon import worker_channel as channel
from xfrmi.daemon.loop import Loop
from xfrmi.daemon.worker_channel import READY

PATIENCE, PATIENCE_AT_FIRST = 5.0, 60.0
"""Seconds the parent waits for a worker to take a message, or to answer. One that does not is taken for hung. At first
it has all tables to take in, some forty microseconds a state."""
BREATH = 1.0
"""Seconds until a worker is replaced that has not lived as long."""


GATHERED = 32
"""Messages in one: those of states have up to 4 KB."""


class _Process:
    __slots__ = ("begun", "down", "pid", "up")

    def __init__(self, pid: int, down: socket.socket, up: socket.socket, begun: float) -> None:
        self.pid = pid
        self.down = down
        self.up = up
        self.begun = begun


class Processes:
    """`run(number, down, up)` is the child; it never returns. `heard(message)` takes what a worker says."""

    def __init__(
        self,
        count: int,
        loop: Loop,
        run: Callable[[int, socket.socket, socket.socket], None],
        heard: Callable[[channel.Up], None],
        log: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._loop = loop
        self._run = run
        self._heard = heard
        self._log = log
        self._clock = clock
        self._running: list[_Process | None] = [None] * count
        self._due: dict[int, float] = {}
        self._told: set[int] = set()
        """Those that may not have taken in yet what they were told."""
        self._last_serial = 0
        self._gathered: list[list[tuple[channel.Down, Sequence[int]]]] | None = None

    @property
    def pids(self) -> list[int]:
        """0 for one that is away."""
        return [process.pid if process is not None else 0 for process in self._running]

    def begin(self, number: int) -> None:
        own_down, down = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        own_up, up = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        pid = os.fork()
        if not pid:
            self._run(number, down, up)
            os._exit(1)
        down.close()
        up.close()
        own_down.settimeout(PATIENCE_AT_FIRST)
        own_up.settimeout(PATIENCE_AT_FIRST)
        self._running[number] = _Process(pid, own_down, own_up, self._clock())
        self._loop.watch(own_up.fileno(), lambda: self._from_below(number))

    def send(self, number: int, message: channel.Down, fds: Sequence[int] = ()) -> None:
        """To who is there: a successor begins with all there is."""
        if self._gathered is not None:
            self._gathered[number].append((message, fds))
            return
        process = self._running[number]
        if process is not None:
            self._told.add(number)
            try:
                channel.send(process.down, message, fds)
            except OSError as error:
                self._bury(number, error)

    def gather(self) -> None:
        """Say nothing until `say` is called, or somebody is asked: each message would wake somebody who takes the
        processor from us. Descriptors stay open until then."""
        self._gathered = [[] for _ in self._running]

    def say(self) -> None:
        """What has been gathered, and no more of it."""
        gathered, self._gathered = self._gathered or [], None
        for number, told in enumerate(gathered):
            messages: list[tuple[channel.Down, int]] = []
            descriptors: list[int] = []
            for message, fds in told:
                if len(messages) == GATHERED or len(descriptors) + len(fds) > channel.MAX_FDS:
                    self.send(number, channel.Gathered(tuple(messages)), descriptors)
                    messages, descriptors = [], []
                messages.append((message, len(fds)))
                descriptors += fds
            if messages:
                self.send(number, channel.Gathered(tuple(messages)), descriptors)

    def send_all(self, message: channel.Down) -> None:
        for number in range(len(self._running)):
            self.send(number, message)

    def refresh(self) -> None:
        """Have every worker take in what it was told, and tell what it has counted up to now."""
        self.say()
        self._ask([number for number, process in enumerate(self._running) if process is not None], report=True)

    def settle(self) -> None:
        """Have every worker take in what it was told."""
        self.say()
        self._ask(sorted(self._told), report=False)

    def _ask(self, numbers: list[int], report: bool) -> None:
        self._last_serial += 1
        for number in numbers:
            self.send(number, channel.Ask(self._last_serial, report))
        for number in numbers:
            self._told.discard(number)
            while (process := self._running[number]) is not None:
                if self._receive(number, process) == channel.Answered(self._last_serial):
                    break

    def hold(self) -> bool:
        """Have every worker look at no packet any more, and tell what it has come to. False if one is away: then not
        all has been told."""
        self._last_serial += 1
        others = tuple(number for number, process in enumerate(self._running) if number and process is not None)
        for number in others:
            self.send(number, channel.Hold(self._last_serial, ()))
        self.send(0, channel.Hold(self._last_serial, others))
        for number in others:
            self._await_held(number)
        if None in self._running:  # worker 0 must not wait for the last word of one that is gone
            self.send(0, channel.GoOn())
        self._await_held(0)
        return None not in self._running

    def _await_held(self, number: int) -> None:
        while (process := self._running[number]) is not None:
            if isinstance(self._receive(number, process), channel.Held):
                return

    def end(self) -> None:
        """At once, whatever they are at."""
        for number, process in enumerate(self._running):
            if process is not None:
                self._end(number, process)
        self._due.clear()

    def due(self, now: float) -> list[int]:
        """Those that are to begin again."""
        numbers = [number for number, due in self._due.items() if due <= now]
        for number in numbers:
            del self._due[number]
        return numbers

    def next_deadline(self) -> float | None:
        return min(self._due.values(), default=None)

    def close(self) -> None:
        self.refresh()
        self.end()

    def _from_below(self, number: int) -> None:
        if (process := self._running[number]) is not None:
            self._receive(number, process)

    def _receive(self, number: int, process: _Process) -> channel.Up | None:
        try:
            message, _ = channel.receive(process.up)
        except (EOFError, OSError) as error:
            self._bury(number, error)
            return None
        if message == channel.Answered(READY):
            process.down.settimeout(PATIENCE)
            process.up.settimeout(PATIENCE)
        self._heard(message)  # type: ignore[arg-type]
        return message  # type: ignore[return-value]

    def _bury(self, number: int, why: Exception) -> None:
        process = self._running[number]
        if process is None:
            return
        status = self._end(number, process)
        now = self._clock()
        soon = now - process.begun < BREATH
        self._due[number] = now + BREATH if soon else now
        if os.WIFSIGNALED(status):
            how = f"ended with signal {os.WTERMSIG(status)}"
        else:
            how = f"ended with status {os.WEXITSTATUS(status)}"
        if isinstance(why, TimeoutError):
            how = "was killed, it did not listen any more"
        self._log(
            f"worker {number} (pid {process.pid}) {how}: nothing passes in its stead, it is replaced "
            + ("in a second" if soon else "now")
        )

    def _end(self, number: int, process: _Process) -> int:
        """Its wait status."""
        self._running[number] = None
        self._loop.unwatch(process.up.fileno())
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        _, status = os.waitpid(process.pid, 0)
        process.down.close()
        process.up.close()
        return status
