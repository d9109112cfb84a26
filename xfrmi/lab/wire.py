"""The process that is a bad link: two TAP devices, and between them what `one_way` makes of the frames.

    python -m xfrmi.lab.wire FD FD STEM FAULTS(JSON) > counters

A cable without faults is a veth pair and needs no process. Counters are written over and over into the same place of
the file, so that whoever asks can read how the link fares at any time: `read_counts`. What it does can be changed while
it is at work: see `link_setting`, which says what the files named STEM are for.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import struct
import sys
import time
from dataclasses import astuple, fields
from pathlib import Path

from xfrmi.lab.faults import Faults
from xfrmi.lab.link_setting import CHANGE, NOW, WANTED, Setting, read_setting, write_setting
from xfrmi.lab.one_way import Counts, OneWay

TUNSETIFF, TUNSETCARRIER = 0x400454CA, 0x400454E2
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
MAX_FRAME = 65536
BURST = 64
"""Frames read from one end before the other end has its turn."""
COUNTS_SECONDS = 0.2
"""The file of counters is at most so old."""


def open_tap(device: str) -> int:
    """A TAP device of this name in the calling thread's namespace, gone with its last descriptor. Raises OSError."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", device.encode(), IFF_TAP | IFF_NO_PI))
    except OSError:
        os.close(fd)
        raise
    return fd


def read_counts(path: Path) -> tuple[Counts, Counts] | None:
    """What has become of the frames of the left and of the right end; None if there is no such link."""
    try:
        ours, theirs = (line.split() for line in path.read_text().splitlines())
        return Counts(*map(int, ours)), Counts(*map(int, theirs))
    except (OSError, ValueError, TypeError):
        return None


class Wire:
    """Carries frames between two descriptors until told to stop."""

    def __init__(self, ends: tuple[int, int], faults: Faults, stem: str) -> None:
        self._ends = ends
        self._stem = stem
        self._on = True
        self._bell = _bell()
        self._ways = tuple(OneWay(faults, seed) for seed in self._seeds(faults))
        write_setting(Path(stem + NOW), Setting(faults))
        self._told: tuple[int, ...] = ()
        self._tell_at = 0.0

    def run(self) -> None:
        while True:
            self._tell(now := time.monotonic())
            readable, _, _ = select.select((*self._ends, self._bell), (), (), self._patience(now))
            now = time.monotonic()
            if self._bell in readable:
                self._change(now)
            for side, way in enumerate(self._ways):
                if self._ends[side] in readable:
                    self._read(self._ends[side], way, now)
                for frame in way.pop(now):
                    self._write(self._ends[1 - side], frame)

    def _seeds(self, faults: Faults) -> list[str]:
        name = os.path.basename(self._stem)
        return [f"{faults.seed} {name} {side}" for side in ("left", "right")]

    def _change(self, now: float) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._bell, BURST):
                pass
        wanted = read_setting(Path(self._stem + WANTED))
        if wanted is None:
            return
        for way, seed in zip(self._ways, self._seeds(wanted.faults), strict=True):
            way.change(wanted.faults, seed, now)
            if not wanted.on:
                way.forget()
        if wanted.on != self._on:
            self._on = wanted.on
            for end in self._ends:
                with contextlib.suppress(OSError):  # Linux before 5.0: packets vanish all the same
                    fcntl.ioctl(end, TUNSETCARRIER, struct.pack("i", wanted.on))
        write_setting(Path(self._stem + NOW), wanted)

    def _patience(self, now: float) -> float | None:
        moments = [way.next_due for way in self._ways]
        if self._changed():
            moments.append(self._tell_at)
        return min((max(moment - now, 0.0) for moment in moments if moment is not None), default=None)

    def _read(self, end: int, way: OneWay, now: float) -> None:
        for _ in range(BURST):
            try:
                frame = os.read(end, MAX_FRAME)
            except OSError:  # nothing more, or the device is down
                return
            if self._on:
                way.push(frame, now)

    def _write(self, end: int, frame: bytes) -> None:
        try:
            os.write(end, frame)
        except OSError:  # down: as if the plug were pulled
            return

    def _numbers(self) -> tuple[int, ...]:
        return sum((astuple(way.counts) for way in self._ways), ())

    def _changed(self) -> bool:
        return self._numbers() != self._told

    def _tell(self, now: float) -> None:
        if now < self._tell_at or not self._changed():
            return
        self._told, self._tell_at = self._numbers(), now + COUNTS_SECONDS
        each = len(fields(Counts))
        lines = (" ".join(map(str, self._told[at : at + each])) for at in (0, each))
        os.pwrite(1, ("\n".join(lines) + "\n").encode(), 0)


def _bell() -> int:
    """Readable when the signal has come."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer)
    signal.signal(CHANGE, lambda number, frame: None)
    return reader


def main() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    left, right, stem, faults = sys.argv[1:]
    Wire((int(left), int(right)), Faults(**json.loads(faults)), stem).run()


if __name__ == "__main__":
    main()
