"""An explanation on a terminal, in colour where there is any, by rich."""

from __future__ import annotations

import io

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from xfrmi.teach.diagram import Gap, Row, printable, rows_of
from xfrmi.teach.explanation import Explanation, Flip, Step, grouped, upper_first
from xfrmi.teach.layout import Field, Layout

_BACKGROUNDS = {
    "ip": "#9ad0f5", "udp": "#7fe3dc", "spi": "#ffd43b", "seq": "#ffb059", "iv": "#f0a6e8", "inner": "#b9f3c2",
    "payload": "#69d884", "tfc": "#b8bec4", "pad": "#d9dde1", "trailer": "#f5f1a3", "icv": "#ff8787",
    "opaque": "#a9b0b7",
}  # fmt: skip
COLOURS = {kind: f"#111111 on {background}" for kind, background in _BACKGROUNDS.items()}
"""As in show_html.py."""
WIDE = 130
"""Columns from which on a bit has two of them, as in an RFC."""


def render(found: Explanation, *, whole: bool = False, flips: bool = True, width: int = 100) -> RenderableType:
    """`whole` draws every row of a long packet; `flips` tries a turned bit in each field."""
    parts: list[RenderableType] = [_title(found)]
    parts += [_step(number, step) for number, step in enumerate(found.steps, 1)]
    parts.append(Text(f"\n{upper_first(found.verdict)}.", _mood(found)))
    for layout in found.packets:
        parts.append(Text(f"\n{upper_first(layout.title)}, {len(layout.data)} bytes:", "bold"))
        parts.append(diagram(layout, whole, width))
    if flips and (tried := found.flips()):
        parts.append(Text("\nIf one bit is turned on the way (each tried, with a receiver of its own):", "bold"))
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for group in grouped(tried):
            names = Text(" ").join(Text(f" {one.field.name} ", COLOURS[one.field.kind]) for one in group)
            table.add_row(Text(f"{group[0].field.start:>5}", "dim"), names, "; ".join(group[0].texts))
        parts.append(table)
    return Group(*parts)


def plain(found: Explanation, *, whole: bool = False, flips: bool = True, width: int = 110) -> str:
    """The same as text."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(render(found, whole=whole, flips=flips, width=width), highlight=False)
    output = console.file
    assert isinstance(output, io.StringIO)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()) + "\n"


def render_flip(flip: Flip) -> RenderableType:
    """What `--flip N` prints."""
    outcome = flip.outcome
    lines: list[RenderableType] = [Text(str(flip), "green" if flip.outcome.delivered and flip.same else "bold red")]
    for name, value in {**outcome.counters, **outcome.device}.items():
        lines.append(Text(f"  {name} +{value}"))
    if not outcome.counters and not outcome.device:
        lines.append(Text("  no counter of ours rises", "dim"))
    return Group(*lines)


def _title(found: Explanation) -> Text:
    where = f"{'out through' if found.direction == 'out' else 'in through'} {found.interface or 'no interface'}"
    title = Text(f"{where}\n", "bold")
    title.append(f"{found.origin}\n", "italic")
    title.append(found.about_keys, "bold white on red" if found.keys else "dim")
    return title


def _mood(found: Explanation) -> str:
    return "bold red" if found.reason else "bold green"


def _step(number: int, step: Step) -> RenderableType:
    mark, style = ("✗", "bold red") if step.failed else ("✓", "bold green")
    head = Text(f"\n{number:>2} ", "bold")
    head.append(f"{mark} ", style)
    head.append(step.title, "bold")
    parts: list[RenderableType] = [head, Padding(Text(step.text), (0, 0, 0, 5))]
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for name, value in step.facts:
        table.add_row(Text(name, "dim"), Text(value))
    if step.facts:
        parts.append(Padding(table, (0, 0, 0, 5)))
    if step.candidates:
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for candidate in step.candidates:
            style = "green" if candidate.taken else "dim"
            mark = "➜" if candidate.taken else "·"
            table.add_row(Text(mark, style), Text(candidate.name, style), Text(candidate.why, style))
        parts.append(Padding(table, (0, 0, 0, 5)))
    return Group(*parts)


def diagram(layout: Layout, whole: bool, width: int) -> RenderableType:
    """The figure."""
    cell = 16 if width >= WIDE else 8
    lines: list[Text] = [*_ruler(cell, bool(layout.plain))]
    above: Field | None = None
    for row in rows_of(layout, whole):
        if isinstance(row, Gap):
            middle = f"{row.rows * 4} bytes more".center(cell * 4 - 1)
            lines.append(Text.assemble("      :", (middle, COLOURS[row.field.kind]), ":"))
            continue
        if above is not None and above is not row.cells[0].field:
            lines.append(Text(_border(cell)))
        lines.append(_row(row, cell))
        above = row.cells[-1].field
    lines.append(Text(_border(cell)))
    return Group(*lines)


def _ruler(cell: int, has_plain: bool) -> list[Text]:
    covered = "  A: authenticated, E: encrypted" + (", then its plaintext" if has_plain else "")
    if cell == 16:
        tens = "".join(f"{bit // 10 if bit % 10 == 0 else ' '} " for bit in range(32))
        ones = "".join(f"{bit % 10} " for bit in range(32))
        return [Text(f"       {tens}", "dim"), Text(f"       {ones}{covered}", "dim"), Text(_border(cell))]
    bits = "".join(f"{bit:<8}" for bit in range(0, 32, 8)).rstrip() + "    31"
    return [Text(f"       {bits}{covered}", "dim"), Text(_border(cell))]


def _border(cell: int) -> str:
    return "      +" + ("-+" * (cell * 2) if cell == 16 else ("-" * (cell - 1) + "+") * 4)


def _row(row: Row, cell: int) -> Text:
    line = Text(f"{row.offset:>5} ", no_wrap=True, overflow="ellipsis")
    for at, one in enumerate(row.cells):
        style = COLOURS[one.field.kind]
        line.append("|", "" if one.begins or at == 0 else style)
        line.append(f"{one.byte:02x}".center(cell - 1), style)
    line.append("|")
    line.append(" " * (cell * (4 - len(row.cells))))
    line.append(" A" if any(one.field.authenticated for one in row.cells) else "  ", "bold")
    line.append("E " if any(one.field.encrypted for one in row.cells) else "  ", "bold")
    if any(one.plain is not None for one in row.cells):
        hexes = " ".join("  " if one.plain is None else f"{one.plain:02x}" for one in row.cells)
        text = "".join(" " if one.plain is None else printable(one.plain) for one in row.cells)
        line.append(f"{hexes:<11} {text:<4} ")
    line.append(" | ".join(_label(field) for field in row.begun), "dim")
    return line


def _label(field: Field) -> str:
    short = field.kind not in ("icv", "iv", "pad")
    return f"{field.name} {field.text}" if field.text and short else field.name
