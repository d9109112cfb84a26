"""The report of `make bench`: sections of tables and charts, as text for a terminal and as one HTML file.

The page needs nothing but itself: no script, no style sheet, no font or picture from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, NamedTuple

from bench.chart import Bar, Chart, svg
from bench.figures import BARE, CABLE, Figure, Results, compare, is_ours
from bench.rounds import Measurement
from bench.show import cell, show_rows, times

STYLE = """
:root { color-scheme: light dark; --ours: #2a6fdb; --peer: #c7803a; --floor: #9aa3ad; --line: #8884 }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line) }
div { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: pre-line }
th:first-child, td:first-child { text-align: left } td small { opacity: .6; display: block }
figure { margin: 1.2rem 0 } figcaption { font-weight: 600; font-size: 13px } figcaption small { font-weight: 400 }
svg { width: 100%; height: auto; font-size: 12px } svg text { fill: currentColor } .label { text-anchor: end }
.ours { fill: var(--ours) } .peer { fill: var(--peer) } .floor { fill: var(--floor) }
.whisker { stroke: currentColor; stroke-width: 1.2; fill: none; opacity: .7 }
"""
LEGEND = "Blue is xfrmi, brown its peers, grey a floor that no tunnel here can pass; » marks a bar that was cut."


class Section(NamedTuple):
    title: str
    text: str
    """A sentence on how to read it."""
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    """The first column is text, the others are numbers; what follows a line break in a cell is small print."""
    charts: Sequence[Chart] = ()


def sections(measurement: Measurement[Any], results: Results[Any], text: str = "") -> list[Section]:
    """The table of an end-to-end measurement with a chart for each figure, then xfrmi against its peers."""
    figures = measurement.figures
    rows = [[way.name, *(cell(figure, each) for figure in figures)] for way, each in results.items()]
    heads = ["", *(f"{figure.title}\n{figure.unit}" for figure in figures)]
    charts = [chart(figure, results) for figure in figures if figure.goal]
    found = [Section(measurement.title, text, heads, rows, charts)] if rows else []
    figures = [figure for figure in figures if figure.goal]
    against = [[row.ours, row.peer, *map(times, row.times)] for row in compare(results, figures)]
    if against:
        heads = ["", "peer", *(figure.title for figure in figures)]
        found.append(Section(f"{measurement.title}: times as good as a peer", "Of medians.", heads, against))
    return found


def chart(figure: Figure[Any], results: Results[Any]) -> Chart:
    bars = []
    for way, each in results.items():
        kind = "ours" if is_ours(way) else "floor" if way.contender in (CABLE, BARE) else "peer"
        spread = figure.spread(each)
        bars.append(Bar(way.name, *spread, figure.text(spread.median), kind))
    return Chart(figure.title, figure.unit, figure.larger, bars)


def show(found: Iterable[Section]) -> None:
    """On standard output."""
    for section in found:
        rows = [[dimmed(text) for text in row] for row in section.rows]
        show_rows(section.title, section.heads, rows, section.text)


def dimmed(text: str) -> str:
    first, line_break, rest = text.partition("\n")
    return f"{first}\n[dim]{rest}[/]" if line_break else text


def page(title: str, found: Iterable[Section], notes: Iterable[str]) -> str:
    """A whole HTML document. `notes` stand at its top: the machine, who was absent, what failed."""
    body = "".join(map(html_of, found))
    lines = "".join(f"<p>{escape(note)}</p>" for note in [*notes, LEGEND])
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{STYLE}</style></head>\n<body><h1>{escape(title)}</h1>{lines}{body}</body></html>\n"
    )


def html_of(section: Section) -> str:
    heads = "".join(f"<th>{escape(head)}</th>" for head in section.heads)
    rows = "".join(f"<tr>{''.join(map(html_cell, row))}</tr>\n" for row in section.rows)
    text = f"<p>{escape(section.text)}</p>" if section.text else ""
    table = f"<div><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    return f"<h2>{escape(section.title)}</h2>\n{text}{''.join(map(svg, section.charts))}{table}\n"


def html_cell(text: str) -> str:
    first, _, rest = text.partition("\n")
    return f"<td>{escape(first)}{f'<small>{escape(rest)}</small>' if rest else ''}</td>"
