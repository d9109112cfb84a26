"""Watching a state at work: what stands in for its framing, its transform and its window writes down what goes through.

Nothing here decides or computes. Each call goes on to the engine's own object, and what went in and came out is kept.
A watched state takes the readable way, esp.seal and esp.open, as its transform is none that burst.py and lone.py know.
"""

from __future__ import annotations

from typing import Any

from xfrmi.core.mode import Framing, framing
from xfrmi.core.outer import Wrapped, Writable
from xfrmi.core.replay import Window
from xfrmi.core.state import State
from xfrmi.core.transform import Transform
from xfrmi.wire.ip import Buffer


class Work:
    """What one state did to one packet, as far as it came. Sealing fills it from the top, opening from the middle."""

    def __init__(self, state: State, before: int, seen: int) -> None:
        self.state = state
        self.packet = b""
        """The packet that went in or came out: an IP packet."""
        self.header = b""
        """In front of ESP: the outer header, as wrapped, then as it left or came."""
        self.payload = b""
        """What was put behind the IV, before padding."""
        self.next_header = -1
        self.number: int | None = None
        """Sequence number, upper half included."""
        self.window_top = before
        self.window_seen = seen
        """The window as it was when the packet came."""
        self.head = self.hi = self.iv = b""
        self.plaintext = b""
        """Payload and trailer."""
        self.sealed = b""
        """Ciphertext and ICV."""
        self.outer = b""
        """The complete outer packet."""
        self.authentic: bool | None = None
        """Was the ICV right? None: not looked at."""
        self.committed = False

    @property
    def icv(self) -> bytes:
        return self.sealed[len(self.sealed) - self.state.transform.icv_len :] if self.sealed else b""


class Watch:
    """All the states of one engine; `works` is what they did, in order."""

    def __init__(self, states: list[State]) -> None:
        self.works: list[Work] = []
        for state in states:
            state.sealer = state.opener = None
            state.wrap_cache = _WatchedFraming(self, state, framing(state))
            state.transform = _WatchedTransform(self, state, state.transform)
            state.window = _WatchedWindow(self, state, state.window)  # type: ignore[assignment]

    def begin(self, state: State) -> Work:
        work = Work(state, state.window.top, state.window.seen)
        self.works.append(work)
        return work

    def current(self, state: State) -> Work:
        """The work of `state` that is going on."""
        last = self.works[-1] if self.works else None
        return last if last is not None and last.state is state else self.begin(state)


class _WatchedFraming:
    def __init__(self, watch: Watch, state: State, real: Framing) -> None:
        self._watch, self._state, self._real = watch, state, real

    def wrap(self, packet: Buffer) -> Wrapped:
        work = self._watch.begin(self._state)
        work.packet = bytes(packet)
        header, payload, next_header = self._real.wrap(packet)
        work.header, work.payload, work.next_header = bytes(header), bytes(payload), next_header
        return header, payload, next_header

    def finish(self, outer: Writable, header_len: int) -> None:
        work = self._watch.current(self._state)
        self._real.finish(outer, header_len)
        work.outer = bytes(outer)
        work.header = work.outer[:header_len]

    def unwrap(self, header: Buffer, payload: Buffer, next_header: int) -> Buffer:
        work = self._watch.current(self._state)
        work.header, work.payload, work.next_header = bytes(header), bytes(payload), next_header
        inner = self._real.unwrap(header, payload, next_header)
        work.packet = bytes(inner)
        return inner


class _WatchedTransform:
    def __init__(self, watch: Watch, state: State, real: Transform) -> None:
        self._watch, self._state, self._real = watch, state, real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def _note(self, head: Buffer, hi: bytes, iv: Buffer) -> Work:
        work = self._watch.current(self._state)
        work.head, work.hi, work.iv = bytes(head), hi, bytes(iv)
        work.number = int.from_bytes(hi + work.head[4:8], "big")
        return work

    def seal(self, head: Buffer, hi: bytes, iv: Buffer, plaintext: Buffer) -> bytes:
        work = self._note(head, hi, iv)
        work.plaintext = bytes(plaintext)
        sealed = work.sealed = self._real.seal(head, hi, iv, plaintext)
        return sealed

    def open(self, head: Buffer, hi: bytes, iv: Buffer, sealed: Buffer) -> bytes:
        work = self._note(head, hi, iv)
        work.sealed = bytes(sealed)
        work.authentic = False
        plaintext = work.plaintext = self._real.open(head, hi, iv, sealed)
        work.authentic = True
        return plaintext


class _WatchedWindow:
    def __init__(self, watch: Watch, state: State, real: Window) -> None:
        self._watch, self._state, self._real = watch, state, real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def check(self, seq: int) -> int:
        work = self._watch.begin(self._state)
        work.number = seq
        hi = self._real.check(seq)
        work.number = hi << 32 | seq
        return hi

    def commit(self, seq: int, hi: int) -> None:
        self._real.commit(seq, hi)
        self._watch.current(self._state).committed = True


def unwatched(transform: Transform) -> Transform:
    """The engine's own."""
    return transform._real if isinstance(transform, _WatchedTransform) else transform
