"""One packet in full, as JSON: every byte on the wire with what it was before it was sealed, and how that came about.

What is told is what `xfrmi explain` tells of a packet that passed (xfrmi.teach), once for the node that sealed it and
once for the one that opened it. Keys are never in it. For the worker of a HeldLab.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from xfrmi.dev.netns import inside
from xfrmi.lab.wiretap import ETH_HEADER_LEN
from xfrmi.teach import Explanation, Tables
from xfrmi.teach.layout import Field, Layout, header_fields, plain_packet, unopened
from xfrmi.teach.one_packet import explain_record
from xfrmi.web.held import HeldLab
from xfrmi.web.packets import Packet, Told
from xfrmi.wire.ip import split_outer

MAX_TABLES = 32
MAX_EXPLAINED = 16


class Details:
    def __init__(self, lab: HeldLab) -> None:
        self._lab = lab
        self._tables: OrderedDict[tuple[str, int], Tables] = OrderedDict()
        """The tables of a node when it first used an SPI: after a rekey they still explain what went before."""
        self._explained: OrderedDict[tuple[int, str], Explanation] = OrderedDict()

    def knows(self, node: str, spi: int) -> bool:
        return (node, spi) in self._tables

    def remember(self, node: str, spi: int) -> None:
        """Keep the tables of now. XfrmError."""
        client = self._lab.nodes[node].client
        assert client is not None
        self._tables[node, spi] = Tables.of(client)
        while len(self._tables) > MAX_TABLES:
            self._tables.popitem(last=False)

    def forget(self) -> None:
        self._tables.clear()
        self._explained.clear()

    def of(self, packet: Packet) -> dict[str, Any]:
        """Everything. XfrmError where a daemon cannot be asked."""
        sides = [(told, self._explain(packet, told)) for told in _tellers(packet)]
        layout = _best(packet, [found for _, found in sides])
        return {
            **packet.summary(),
            "wire": _wire(layout) if layout is not None else None,
            "inner": _wire(plain_packet("the packet inside", packet.inner)) if packet.inner else None,
            "sides": [_side(told, found) for told, found in sides],
            "can_send": bool(packet.frames),
        }

    def flip(self, packet: Packet, offset: int, mask: int) -> dict[str, Any]:
        """What the receiver would do: tried with an engine of the same tables. ValueError, XfrmError."""
        told = next((told for told in packet.opened if not told.record.reason), packet.sealed)
        if told is None or not told.record.outer:
            raise ValueError("nobody who can be asked has sealed or opened this packet")
        flip = self._explain(packet, told).flip(offset, mask)
        return {
            "delivered": bool(flip.outcome.delivered),
            "outcome": str(flip).partition(": ")[2],
            "counters": {**flip.outcome.counters, **flip.outcome.device},
        }

    def _explain(self, packet: Packet, told: Told) -> Explanation:
        key = (packet.number, told.node)
        found = self._explained.get(key)
        if found is None:
            node = self._lab.nodes[told.node]
            with inside(node.fd):  # its sysctls are asked, too
                found = explain_record(told.record, self._tables_for(told.node, packet.spi), node.router())
            self._explained[key] = found
            while len(self._explained) > MAX_EXPLAINED:
                self._explained.popitem(last=False)
        return found

    def _tables_for(self, node: str, spi: int) -> Tables:
        client = self._lab.nodes[node].client
        assert client is not None
        tables = Tables.of(client)
        if spi and all(state.spi != spi for state in tables.states):
            return self._tables.get((node, spi), tables)
        return tables


def _tellers(packet: Packet) -> list[Told]:
    """One for each node, who sealed it first."""
    found: dict[str, Told] = {}
    for told in packet.told:
        if told.record.outer or told.record.direction == "out":
            found.setdefault(told.node, told)
    return list(found.values())


def _best(packet: Packet, explanations: list[Explanation]) -> Layout | None:
    """The layout of the packet on the wire by somebody who knows what is in it."""
    layouts = [found.on_wire for found in explanations if found.on_wire is not None]
    for layout in layouts:
        if layout.plain:
            return layout
    if layouts:
        return layouts[0]
    if not packet.frames:
        return None
    frame = packet.frames[0].frame[ETH_HEADER_LEN:]
    if not packet.esp:
        return plain_packet("a packet on the link", frame)
    return unopened("a packet on the link", frame, len(split_outer(frame)[0]))


def _side(told: Told, found: Explanation) -> dict[str, Any]:
    entry = found.as_dict()
    return {
        "node": told.node,
        "direction": found.direction,
        "reason": told.record.reason,
        "origin": entry["origin"],
        "verdict": entry["verdict"],
        "keys": entry["keys"],
        "steps": [{name: step[name] for name in ("title", "text", "failed", "facts")} for step in entry["steps"]],
    }


def _wire(layout: Layout) -> dict[str, Any]:
    """Bytes as hexadecimal. Fields follow each other without a gap; `plain` lies at `plain_at`."""
    return {
        "bytes": layout.data.hex(),
        "plain": layout.plain.hex(),
        "plain_at": layout.plain_at,
        "fields": [one._asdict() for field in layout.fields for one in _split(field, layout)],
    }


def _split(field: Field, layout: Layout) -> list[Field]:
    """An inner IP header, in its fields."""
    if field.name != "inner IP header" or not layout.plain:
        return [field]
    inside = layout.plain[field.start - layout.plain_at : field.end - layout.plain_at]
    return [
        field._replace(
            start=field.start + one.start, end=field.start + one.end, name=f"inner {one.name}", text=one.text
        )
        for one in header_fields(inside)
    ]
