"""What an explanation consists of: steps in order, packets with their fields, and what a turned bit would do.

The same values are printed (show_text.py), made into a page (show_html.py) and into JSON (`as_dict`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

from xfrmi.core.dropped import Dropped
from xfrmi.teach.choices import Candidate
from xfrmi.teach.layout import Field, Layout
from xfrmi.teach.receiver import Outcome, Receiver

MAX_FLIPS = 512
"""Bytes that are turned for `flips`; of longer fields the first, the last, and some between."""
KEYS_ARE_VISIBLE = "KEYS ARE VISIBLE HERE"
KEYS_ARE_HIDDEN = "keys are not shown"


class Step(NamedTuple):
    """One thing the engine did."""

    title: str
    text: str
    facts: tuple[tuple[str, str], ...] = ()
    """(name, value), in order."""
    candidates: tuple[Candidate, ...] = ()
    failed: bool = False
    """The packet ends here."""


def dropped(drop: Dropped, facts: Iterable[tuple[str, str]] = ()) -> Step:
    """The last one of a packet that dies, with what else there is to tell."""
    counter = ("counter", drop.counter or "none of /proc/net/xfrm_stat")
    return Step("Dropped", f"{drop.reason[:1].upper()}{drop.reason[1:]}.", (counter, *facts), failed=True)


class Flip(NamedTuple):
    """A bit turned on the way, and what the receiver did."""

    offset: int
    mask: int
    before: int
    after: int
    field: Field
    outcome: Outcome
    same: bool
    """Was delivered what would have been without?"""

    def __str__(self) -> str:
        what = f"byte {self.offset} ({self.field.name}) {self.before:#04x} -> {self.after:#04x}: {self.outcome.text}"
        if not self.outcome.delivered:
            return what
        return what + (", unchanged: nobody noticed" if self.same else ", CHANGED, and nobody noticed")


class FieldFlips(NamedTuple):
    """All that was tried with one field."""

    field: Field
    tried: int
    texts: tuple[str, ...]
    """What happened, each once."""


@dataclass
class Explanation:
    """Shows itself in a notebook; `text`, `html` and `as_dict` for everybody else."""

    direction: str
    """`out` or `in`."""
    interface: str
    origin: str
    """What packet this is, and with which tables and keys, in a sentence."""
    steps: list[Step] = field(default_factory=list)
    packets: list[Layout] = field(default_factory=list)
    """In the order in which the packet became them."""
    sent: tuple[bytes, ...] = ()
    """Outer packets as the engine sent them, out only."""
    fragments: tuple[bytes, ...] = ()
    """What leaves instead, where the way is narrower than the outer packet."""
    delivered: tuple[bytes, ...] = ()
    """Inner packets as the engine delivered them, in only."""
    counter: str = ""
    """The counter of /proc/net/xfrm_stat that rose; empty where none did."""
    reason: str = ""
    """Why the packet was dropped; empty where it was not."""
    keys: bool = False
    """Are keys in here?"""
    happened: bool = False
    """Is it a packet that a daemon has carried?"""
    receiver: Receiver | None = None
    on_wire: Layout | None = None
    """The packet on the wire: what `flip` turns bits of."""

    @property
    def verdict(self) -> str:
        """How it ended, in one sentence."""
        if self.reason:
            counted = f"{self.counter} rises" if self.counter else "no xfrm counter rises"
            return f"dropped: {self.reason}; {counted}"
        would_be = "" if self.happened else "would be "
        if self.direction == "in":
            return f"{would_be}delivered through {self.interface}"
        pieces = f" in {len(self.fragments)} fragments" if self.fragments else ""
        return f"{would_be}sent{pieces}"

    @property
    def about_keys(self) -> str:
        return KEYS_ARE_VISIBLE if self.keys else KEYS_ARE_HIDDEN

    def flip(self, offset: int, mask: int = 1) -> Flip:
        """Turn bits of one byte of the packet on the wire, and let the receiver have it. Really done, by an engine.

        ValueError if there is no such byte, or no packet on the wire.
        """
        layout, receiver = self.on_wire, self.receiver
        if layout is None or receiver is None:
            raise ValueError("no packet went out, so there is nothing to be turned on its way")
        if not 0 <= offset < len(layout.data):
            raise ValueError(f"the packet has bytes 0 to {len(layout.data) - 1}, and no byte {offset}")
        if not 0 < mask < 256:
            raise ValueError(f"a mask has 1 to 255, not {mask}")
        packet = bytearray(layout.data)
        packet[offset] ^= mask
        outcome = receiver.receive(bytes(packet))
        same = outcome.delivered == receiver.receive(layout.data).delivered
        return Flip(offset, mask, layout.data[offset], packet[offset], layout.field_at(offset), outcome, same)

    def flips(self) -> list[FieldFlips]:
        """Each field in turn: what happens if a bit of it is turned. Empty where nothing went out, or would arrive."""
        if self.on_wire is None or self.receiver is None or not self.receiver.receive(self.on_wire.data).delivered:
            return []
        share = max(MAX_FLIPS // len(self.on_wire.fields), 2)
        found = []
        for one in self.on_wire.fields:
            done = [self.flip(offset) for offset in _spread(one, share)]
            texts = dict.fromkeys(str(flip).partition(": ")[2] for flip in done)
            found.append(FieldFlips(one, len(done), tuple(texts)))
        return found

    def text(self, **options: Any) -> str:
        """As printed to a terminal, without colours; options as show_text.render."""
        from xfrmi.teach.show_text import plain

        return plain(self, **options)

    def html(self) -> str:
        """A page of its own, complete in itself."""
        from xfrmi.teach.show_html import page

        return page(self)

    def _repr_html_(self) -> str:
        from xfrmi.teach.show_html import fragment

        return fragment(self)

    def as_dict(self, flips: bool = False) -> dict[str, Any]:
        """For JSON. Bytes are hexadecimal."""
        found: dict[str, Any] = {
            "direction": self.direction,
            "interface": self.interface,
            "origin": self.origin,
            "keys": self.about_keys,
            "verdict": self.verdict,
            "counter": self.counter or None,
            "reason": self.reason or None,
            "steps": [
                {
                    "title": step.title,
                    "text": step.text,
                    "failed": step.failed,
                    "facts": dict(step.facts),
                    "candidates": [candidate._asdict() for candidate in step.candidates],
                }
                for step in self.steps
            ],
            "packets": [_layout_dict(layout) for layout in self.packets],
            "sent": [packet.hex() for packet in self.sent],
            "fragments": [packet.hex() for packet in self.fragments],
            "delivered": [packet.hex() for packet in self.delivered],
        }
        if flips:
            found["flips"] = [
                {"field": one.field.name, "start": one.field.start, "end": one.field.end, "outcomes": list(one.texts)}
                for one in self.flips()
            ]
        return found


def grouped(flips: list[FieldFlips]) -> list[list[FieldFlips]]:
    """Neighbours with which the same happened, together."""
    return [list(group) for _, group in groupby(flips, lambda one: one.texts)]


def upper_first(text: str) -> str:
    """As a sentence begins."""
    return text[:1].upper() + text[1:]


def _layout_dict(layout: Layout) -> dict[str, Any]:
    return {
        "title": layout.title,
        "bytes": layout.data.hex(),
        "plaintext": layout.plain.hex() or None,
        "plaintext_at": layout.plain_at if layout.plain else None,
        "fields": [
            {
                **one._asdict(),
                "bytes": layout.data[one.start : one.end].hex(),
            }
            for one in layout.fields
        ],
    }


def _spread(one: Field, share: int) -> Iterator[int]:
    """Offsets in a field: all, or so many of them, the first and the last included."""
    length = one.end - one.start
    if length <= share:
        yield from range(one.start, one.end)
    else:
        yield from (one.start + at * (length - 1) // (share - 1) for at in range(share))
