"""Two samples compared: rates, and which states come first."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from xfrmi.client.samples import Sample, StateView, Use
from xfrmi.formats.numbers import parse_number
from xfrmi.wire.link_types import LinkInfo, LinkStats

SORTS = ("rate", "bytes", "spi", "if_id", "newest")

DEVICE_DROPS = (
    ("rx_errors", "rx_errors"), ("rx_dropped", "rx_dropped"), ("tx_errors", "tx_errors"),
    ("tx_dropped", "tx_dropped"), ("tx_carrier_errors", "tx_carrier"), ("tx_aborted_errors", "tx_aborted"),
    ("collisions", "collisions"),
)  # fmt: skip
"""Fields of LinkStats, and what `ip -s -s link` calls them."""


class Rate(NamedTuple):
    """A second."""

    packets: float
    bits: float


class Drop(NamedTuple):
    """A counter of what was dropped."""

    name: str
    total: int
    rate: float | None
    """A second; None where nothing is known of before."""


class Comparison:
    """Rates between `before` and `now`. They are None where there is no before, or another daemon was there."""

    def __init__(self, before: Sample | None, now: Sample) -> None:
        same = before is not None and all(before.status.get(k) == now.status.get(k) for k in ("pid", "started"))
        self._before = before if same else None
        self._now = now
        self._seconds = now.clock - before.clock if before is not None else 0.0
        self._uses = {use.key: use for use in self._before.uses} if self._before is not None else {}
        self._links = {link.name: link.stats for link in self._before.links} if self._before is not None else {}

    def a_second(self, now: int, before: int | None) -> float | None:
        """None where the counter began anew."""
        if before is None or now < before or self._seconds <= 0:
            return None
        return (now - before) / self._seconds

    def state(self, use: Use) -> Rate | None:
        """Of payload."""
        before = self._uses.get(use.key)
        return None if before is None else self._rate(use.packets, before.packets, use.bytes, before.bytes)

    def link(self, link: LinkInfo) -> tuple[Rate | None, Rate | None]:
        """In, out."""
        now, before = link.stats, self._links.get(link.name)
        if now is None or before is None:
            return None, None
        return (
            self._rate(now.rx_packets, before.rx_packets, now.rx_bytes, before.rx_bytes),
            self._rate(now.tx_packets, before.tx_packets, now.tx_bytes, before.tx_bytes),
        )

    def drops(self, if_ids: frozenset[int] | None) -> list[Drop]:
        """Every counter that has risen: those that rise now first, then the largest. The daemon's, which know no
        interface, and those of the devices with these if_ids."""
        old = self._before.stat if self._before is not None else {}
        found = [Drop(name, n, self.a_second(n, old.get(name))) for name, n in self._now.stat.items() if n]
        for link in self._now.links:
            if link.stats is not None and (if_ids is None or link.if_id in if_ids):
                found += self._of_device(link.name, link.stats)
        return sorted(found, key=lambda drop: (-(drop.rate or 0), -drop.total, drop.name))

    def _of_device(self, name: str, stats: LinkStats) -> list[Drop]:
        before = self._links.get(name)
        return [
            Drop(
                f"{name} {word}",
                getattr(stats, field),
                self.a_second(getattr(stats, field), None if before is None else getattr(before, field)),
            )
            for field, word in DEVICE_DROPS
            if getattr(stats, field)
        ]

    def _rate(self, packets: int, packets_before: int, size: int, size_before: int) -> Rate | None:
        count, amount = self.a_second(packets, packets_before), self.a_second(size, size_before)
        return None if count is None or amount is None else Rate(count, amount * 8)


def wanted_if_ids(text: str, links: tuple[LinkInfo, ...]) -> frozenset[int] | None:
    """What a filter means: the number of an if_id, or a part of interfaces' names. None: everything."""
    if not text:
        return None
    named = frozenset(link.if_id or 0 for link in links if text in link.name)
    number = parse_number(text, 32)
    return named if number is None else named | {number}


def in_order(sample: Sample, rates: Comparison, sort: str, if_ids: frozenset[int] | None) -> list[Use]:
    """All states with these if_ids; what is equal stays newest first."""
    uses = [use for use in sample.uses if if_ids is None or use.if_id in if_ids]
    orders: dict[str, Callable[[Use], tuple[float, ...]]] = {
        "rate": lambda use: (-rate.bits if (rate := rates.state(use)) is not None else 0.0, -use.bytes),
        "bytes": lambda use: (-use.bytes,),
        "spi": lambda use: (use.key.spi,),
        "if_id": lambda use: (use.if_id, use.key.spi),
    }
    return sorted(uses, key=orders[sort]) if sort in orders else uses


def larval_of(sample: Sample, if_ids: frozenset[int] | None) -> list[StateView]:
    return [state for state in sample.larval if if_ids is None or state.if_id in if_ids]
