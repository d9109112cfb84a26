"""What must outlive a worker: how far it has gone with the numbers of its states, in memory shared with its parent.

Two words of 64 bits a state, each written by one process, and always before what it says is used:

    sent      no number above this one has left. Raised by BLOCK numbers at a time: a successor begins above it, so
              numbers may be skipped, and never repeated
    received  the highest number accepted. A successor takes all below it for seen: a packet that was late at the
              moment of the crash may be lost, and none is accepted twice

Memory that several processes map goes with the last of them, and a word is written whole or not at all.
"""

from __future__ import annotations

import errno
import mmap
from collections.abc import Sequence as Numbers

from xfrmi.core.replay import EsnWindow, Sequence, Window
from xfrmi.errors import XfrmError

BLOCK = 4096
"""Sequence numbers a worker may use before it has to say so again."""
MAX_STATES = 1 << 20
"""Two words each, of memory that costs nothing until it is written."""

_32_BITS = 0xFFFF_FFFF
_64_BITS = 0xFFFF_FFFF_FFFF_FFFF


class Marks:
    """The shared memory, and which places in it are free. Made before the first worker; the parent gives places."""

    def __init__(self) -> None:
        self.words = memoryview(mmap.mmap(-1, MAX_STATES * 16)).cast("Q")
        self._free: list[int] = []
        self._fresh = 0

    def take(self, sent: int, received: int) -> int:
        """A place for a state that begins there. XfrmError ENOBUFS when there are too many."""
        if self._free:
            place = self._free.pop()
        elif self._fresh < MAX_STATES:
            place = self._fresh
            self._fresh += 1
        else:
            raise XfrmError(errno.ENOBUFS, detail=f"a daemon with workers has room for {MAX_STATES} states")
        self.words[2 * place], self.words[2 * place + 1] = sent, received
        return place

    def move(self, place: int, sent: int, received: int) -> None:
        """The state there begins somewhere else, and nobody has used it yet."""
        self.words[2 * place], self.words[2 * place + 1] = sent, received

    def give_back(self, place: int) -> None:
        self._free.append(place)

    def sent(self, place: int) -> int:
        return self.words[2 * place]

    def received(self, place: int) -> int:
        return self.words[2 * place + 1]


class MarkedSequence(Sequence):
    """A Sequence that says how far it may go before it goes there."""

    __slots__ = ("_last", "_may_reach", "_place", "_words")

    def __init__(self, sequence: Sequence, marks: Marks, place: int) -> None:
        self._words = marks.words
        self._place = 2 * place
        self._last = self._may_reach = sequence.last
        self.esn = sequence.esn
        self.may_wrap = sequence.may_wrap

    @property
    def last(self) -> int:
        return self._last

    @last.setter
    def last(self, number: int) -> None:
        if number > self._may_reach or number < self._last:  # less: it has wrapped, and was allowed to
            self._may_reach = min(number + BLOCK, _64_BITS if self.esn else _32_BITS)
            self._words[self._place] = self._may_reach
        self._last = number


class MarkedWindow(Window):
    """A Window that says how far it has come before anybody gets the packet."""

    __slots__ = ("_place", "_words")

    def __init__(self, window: Window, marks: Marks, place: int) -> None:
        super().__init__(window.size, window.top, window.seen, window.kept)
        self.late, self.replayed = window.late, window.replayed
        self._words = marks.words
        self._place = 2 * place + 1

    def remember(self, number: int) -> None:
        super().remember(number)
        self._words[self._place] = self.top

    def advance(self, numbers: Numbers[int]) -> None:
        super().advance(numbers)
        if self.size:
            self._words[self._place] = self.top


class MarkedEsnWindow(MarkedWindow, EsnWindow):
    __slots__ = ()


def marked_window(window: Window, marks: Marks, place: int) -> MarkedWindow:
    kind = MarkedEsnWindow if isinstance(window, EsnWindow) else MarkedWindow
    return kind(window, marks, place)


def resume_sequence(sequence: Sequence, marks: Marks, place: int) -> None:
    """Make it what a successor has to begin with. Where the numbers may wrap the mark is newer than `sequence`."""
    sent = marks.sent(place)
    sequence.last = sent if sequence.may_wrap else max(sequence.last, sent)


def resume_window(window: Window, marks: Marks, place: int) -> None:
    received = marks.received(place)
    if window.size and received > window.top:
        window.top = received
        window.seen = (1 << window.kept) - 1
