"""Anti-replay: which sequence numbers were seen, which comes next (RFC 4303 3.3.3, 3.4.3, 2.2.1; RP-01..RP-11).

A window remembers the highest number accepted (`top`) and, for the `size` numbers that end there, whether each has
been seen. The memory is one integer: bit d stands for top - d.

        older <---                                     ---> newer
              | size-1 .  .  .  .  3   2   1   0 |
     too late |  seen or not, one bit a number   | new
                                            top -^

 1  check    before decryption: is this number worth the work? Cheap, changes nothing but the drop counters
 2  commit   after the ICV has been verified, and only then: check again and remember the number

An attacker can therefore never move the window. Two things differ by the kind of state:

 - With 32-bit numbers (`Window`) the window ends at 2^32 - 1 and stays there until the peers rekey.
 - With ESN (`EsnWindow`) numbers have 64 bits of which only the lower 32 travel. The receiver infers the rest: the
   number is taken to lie within the window or less than 2^32 - size ahead of it (RFC 4303 appendix A2.1). A wrong
   guess shows as a wrong ICV, because the upper half is authenticated too.

The kernel stores the bits as a ring in which number n has bit (n - 1) mod size; `export` and the constructor
translate, so that dumps show what the kernel shows.
"""

from __future__ import annotations

from collections import abc

from xfrmi.errors import Drop
from xfrmi.wire.xfrm_const import STATE_ESN, XfrmStat
from xfrmi.wire.xfrm_types import Replay, ReplayEsn, StateInfo

LEGACY_MAX = 32
"""Packets a window without XFRMA_REPLAY_ESN_VAL can have, whatever is asked for (RP-02)."""

_32_BITS = 0xFFFFFFFF


class Window:
    """The numbers of one inbound state, 32 bits wide. Size 0 accepts everything and remembers nothing (RP-01).

    `kept` is how many bits are remembered, where that is more than the window looks at: the kernel's legacy bitmap
    always has 32, and a dump shows them.
    """

    __slots__ = ("kept", "late", "replayed", "seen", "size", "top")

    def __init__(self, size: int, top: int = 0, seen: int = 0, kept: int = 0) -> None:
        self.size = size
        self.top = top
        self.seen = seen
        self.kept = kept or size
        self.late = 0
        """Packets dropped as too old (stats: replay-window)."""
        self.replayed = 0
        """Packets dropped as seen before (stats: replay)."""

    def check(self, seq: int) -> int:
        """Would `seq`, as received (32 bits), be accepted? Returns its upper half, always 0 here. Raises Drop."""
        if seq <= self.top and self.size:  # RP-06: above the top, everything is new
            if not seq:  # RP-05
                raise Drop(XfrmStat.IN_STATE_SEQ_ERROR, "sequence number 0")
            self._refuse(self.top - seq)
        return 0

    def commit(self, seq: int, hi: int) -> None:
        """Remember `seq`, whose ICV was right; `hi` is what check returned. Raises Drop as check does (RP-09)."""
        if self.size:
            self.check(seq)
            self.remember(seq)

    def ahead(self, first: int, last: int) -> int | None:
        """For a burst whose numbers go up from `first` to `last`: the upper half of them all, if every one of them is
        beyond the window and would be accepted one by one; None if that takes a closer look."""
        if not self.size:
            return 0
        if first <= self.top & _32_BITS or last + self.size > _32_BITS:
            return None
        return self.top >> 32

    def advance(self, numbers: abc.Sequence[int]) -> None:
        """commit for such a burst: whole numbers, upper half included, each larger than the one before. A range tells
        that none is missing."""
        if isinstance(numbers, range) and self.size > 1:
            behind = self.seen << numbers[-1] - self.top if numbers[0] - self.top < self.size else 0
            self.top = numbers[-1]
            self.seen = (behind | (1 << len(numbers)) - 1) & (1 << self.kept) - 1
        elif self.size:
            for number in numbers:
                self.remember(number)

    def _refuse(self, behind: int) -> None:
        """Raise Drop if the number `behind` the top is too old (RP-07) or has been seen (RP-08)."""
        if behind >= self.size:
            self.late += 1
            raise Drop(XfrmStat.IN_STATE_SEQ_ERROR, "behind the replay window")
        if self.seen >> behind & 1:
            self.replayed += 1
            raise Drop(XfrmStat.IN_STATE_SEQ_ERROR, "replayed")

    def remember(self, number: int) -> None:
        ahead = number - self.top
        if ahead <= 0:
            self.seen |= 1 << -ahead
            return
        self.top = number
        if ahead < self.size:
            self.seen = (self.seen << ahead | 1) & (1 << self.kept) - 1
        else:  # RP-11
            self.seen = 1


class EsnWindow(Window):
    """The same for 64-bit numbers (RP-04): `top` is the whole number. Size >= 1."""

    __slots__ = ()

    def check(self, seq: int) -> int:
        """As Window.check; returns the upper half inferred for `seq`, which the ICV has to confirm."""
        number = self._infer(seq)
        self._admit(number)
        return number >> 32 & _32_BITS

    def commit(self, seq: int, hi: int) -> None:
        """As Window.commit. The window may have moved since check, so that `seq` would now mean another number."""
        number = self._infer(seq)
        if number >> 32 & _32_BITS != hi:
            self.late += 1
            raise Drop(XfrmStat.IN_STATE_SEQ_ERROR, "the window moved on while the packet was decrypted")
        self._admit(number)
        self.remember(number)

    def _admit(self, number: int) -> None:
        if number <= self.top:
            # Number 0 is never sent; the kernel refuses it only while the window still reaches below it.
            if not number and self.top < self.size - 1:
                raise Drop(XfrmStat.IN_STATE_SEQ_ERROR, "sequence number 0")
            self._refuse(self.top - number)

    def _infer(self, seq: int) -> int:
        """The 64-bit number that `seq` is the lower half of (appendix A2.1). Negative means: before the first one."""
        low = self.top & _32_BITS
        number = self.top - low + seq
        bottom = low - self.size + 1
        if bottom >= 0:  # the window lies within one subspace: what is below it belongs to the next
            return number + 0x1_0000_0000 if seq < bottom else number
        return number - 0x1_0000_0000 if seq >= bottom + 0x1_0000_0000 else number


class Sequence:
    """The outbound numbers of one state. `last` is the last one sent, 64 bits with ESN (the first sent is 1)."""

    __slots__ = ("esn", "last", "may_wrap")

    def __init__(self, last: int = 0, esn: bool = False, may_wrap: bool = False) -> None:
        self.last = last
        self.esn = esn
        self.may_wrap = may_wrap

    def next(self) -> int:
        """Take one number. Raises Drop (EOVERFLOW in the kernel) when all are used up: until a rekey, for good."""
        number = self.last + 1
        if number > _32_BITS and not self.esn:
            if not self.may_wrap:
                raise Drop(XfrmStat.OUT_STATE_SEQ_ERROR, "sequence numbers exhausted")
            number = 0
        elif number > 0xFFFFFFFFFFFFFFFF:
            raise Drop(XfrmStat.OUT_STATE_SEQ_ERROR, "sequence numbers exhausted")
        self.last = number
        return number

    def reserve(self, count: int) -> tuple[int, int]:
        """Take up to `count` consecutive numbers for a burst: (the first, how many).

        Fewer than `count` are left only at the end of the space: the packets beyond get Drop as from `next`. A state
        that may wrap hands out the numbers before the wrap first.
        """
        limit = 0xFFFFFFFFFFFFFFFF if self.esn else _32_BITS
        first = self.last + 1
        if first > limit:
            if not self.may_wrap or self.esn:
                return first, 0
            first = 0
        count = min(count, limit - first + 1)
        self.last = first + count - 1
        return first, count


def make_window(info: StateInfo) -> Window:
    """The window that `info` asks for, with the contents it gives."""
    given = info.replay_esn
    if given is None:
        replay = info.replay or Replay()
        return Window(min(info.replay_window, LEGACY_MAX), replay.seq, replay.bitmap, kept=LEGACY_MAX)
    size = given.replay_window
    ring = 0
    for word in reversed(given.bitmap):
        ring = ring << 32 | word
    seen = _unroll(ring, given.seq, size) if ring and size else 0
    if info.flags & STATE_ESN and size:
        return EsnWindow(size, given.seq_hi << 32 | given.seq, seen)
    return Window(size, given.seq, seen)


def make_sequence(info: StateInfo, may_wrap: bool) -> Sequence:
    """The outbound counter, continuing where `info` says."""
    given = info.replay_esn
    if given is None:
        return Sequence(info.replay.oseq if info.replay else 0, may_wrap=may_wrap)
    if info.flags & STATE_ESN:
        return Sequence(given.oseq_hi << 32 | given.oseq, esn=True)
    return Sequence(given.oseq, may_wrap=may_wrap)


def export(info: StateInfo, window: Window, sequence: Sequence) -> Replay | ReplayEsn:
    """What a dump shows: the form `info` was configured in, with the numbers of now."""
    given = info.replay_esn
    top, last = window.top, sequence.last
    if given is None:
        return Replay(last & _32_BITS, top & _32_BITS, window.seen & _32_BITS)
    ring = _roll(window.seen, top & _32_BITS, window.size) if window.seen and window.size else 0
    words = tuple(ring >> shift & _32_BITS for shift in range(0, 32 * len(given.bitmap), 32))
    return ReplayEsn(words, last & _32_BITS, top & _32_BITS, last >> 32, top >> 32, given.replay_window)


def _roll(seen: int, top: int, size: int) -> int:
    """Bit d = number top - d  ->  bit (number - 1) mod size (RP-03): reversed, and rotated to where the top belongs."""
    newest_last = int(f"{seen:0{size}b}"[::-1], 2)  # bit d is now at size - 1 - d
    return _rotate(newest_last, ((top - 1) & _32_BITS) % size + 1, size)


def _unroll(ring: int, top: int, size: int) -> int:
    """The inverse of _roll. Bits of the ring beyond its size mean nothing."""
    newest_last = _rotate(ring & (1 << size) - 1, size - 1 - ((top - 1) & _32_BITS) % size, size)
    return int(f"{newest_last:0{size}b}"[::-1], 2)


def _rotate(bits: int, count: int, size: int) -> int:
    """Rotate the lowest `size` bits left."""
    count %= size
    return (bits << count | bits >> size - count) & (1 << size) - 1
