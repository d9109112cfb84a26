"""Bar charts as SVG, to stand inside a page: a bar for each median, a whisker from the smallest to the largest."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from typing import NamedTuple

WIDTH, LABEL, VALUE = 900, 280, 130
"""Pixels: of all, of the names on the left, of the figures on the right."""
ROW, THICK = 24, 14
SPAN = WIDTH - LABEL - VALUE


class Bar(NamedTuple):
    label: str
    median: float
    low: float
    high: float
    text: str
    """The median as it is to be read."""
    kind: str = "peer"
    """ours, peer or floor: how it is coloured. Bars of floors may be cut, the others are what the scale is for."""


class Chart(NamedTuple):
    title: str
    unit: str
    larger: bool
    """Is a long bar good?"""
    bars: list[Bar]


def svg(chart: Chart) -> str:
    """Bars without a finite median are left out; without any bar there is no chart."""
    bars = [bar for bar in chart.bars if math.isfinite(bar.median)]
    if not bars:
        return ""
    scale = SPAN / (longest(bars) or 1)
    height = len(bars) * ROW + 4
    unit = f", {chart.unit}" if chart.unit else ""
    hint = "longer is better" if chart.larger else "shorter is better"
    parts = [
        f"<figure><figcaption>{escape(chart.title + unit)} <small>({hint})</small></figcaption>",
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(chart.title)}">',
        *(row for index, bar in enumerate(bars) for row in drawn(bar, index * ROW + 2, scale)),
        "</svg></figure>",
    ]
    return "\n".join(parts)


def longest(bars: Iterable[Bar]) -> float:
    """What fills the width: the largest that is no floor, whisker included, if it is finite."""
    bars = list(bars)
    measured = [bar for bar in bars if bar.kind != "floor"] or bars
    return max(bar.high if math.isfinite(bar.high) else bar.median for bar in measured)


def drawn(bar: Bar, top: int, scale: float) -> list[str]:
    middle = top + ROW / 2
    length = min(bar.median * scale, SPAN)
    cut = bar.median * scale > SPAN + 0.5
    low, high = (LABEL + min(max(end * scale, 0), SPAN) for end in (bar.low, bar.high))
    y = middle - THICK / 2
    parts = [
        f'<text x="{LABEL - 8}" y="{middle + 4}" class="label">{escape(bar.label)}</text>',
        f'<rect x="{LABEL}" y="{y}" width="{length:.1f}" height="{THICK}" class="{bar.kind}"/>',
    ]
    if not cut and high - low >= 1:
        parts.append(f'<path d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {y + 2}v{THICK - 4}M{high:.1f} {y + 2}v'
                     f'{THICK - 4}" class="whisker"/>')  # fmt: skip
    at = max(LABEL + length, 0 if cut else high) + 6
    more = "» " if cut else ""
    parts.append(f'<text x="{at:.1f}" y="{middle + 4}" class="value">{more}{escape(bar.text)}</text>')
    return parts
