"""An explanation as HTML: a fragment for notebooks, and a page that is complete in itself (no script, nothing loaded).

Every byte says on hover which field it is. Colours are those of the terminal; there is a dark theme.
"""

from __future__ import annotations

from html import escape

from xfrmi.teach.diagram import Gap, Row, printable, rows_of
from xfrmi.teach.explanation import Explanation, Step, grouped, upper_first
from xfrmi.teach.layout import Layout

STYLE = """
.xfrmi { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; color: #1c2126; background: #fff; padding: 1rem; }
.xfrmi h1 { font-size: 1.4rem; margin: 0 0 .3rem } .xfrmi h2 { font-size: 1.1rem; margin: 1.6rem 0 .4rem }
.xfrmi .origin { color: #5a646e; margin: 0 } .xfrmi .hidden { color: #5a646e; font-size: .9rem }
.xfrmi .keys { background: #c1121f; color: #fff; font-weight: 700; padding: .15rem .6rem; border-radius: .3rem }
.xfrmi ol.steps { padding-left: 1.6rem } .xfrmi ol.steps > li { margin: .7rem 0 }
.xfrmi .step { font-weight: 650 } .xfrmi .ok { color: #2b8a3e } .xfrmi .bad { color: #c1121f; font-weight: 650 }
.xfrmi dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 .9rem; margin: .2rem 0; font-size: .92rem }
.xfrmi dt { color: #5a646e } .xfrmi dd { margin: 0; font-family: ui-monospace, monospace; overflow-wrap: anywhere }
.xfrmi table { border-collapse: collapse; font-size: .92rem; margin: .2rem 0 } .xfrmi td {
  padding: .05rem .7rem .05rem 0; vertical-align: top }
.xfrmi .not td { color: #7b858f } .xfrmi .taken td { color: #2b8a3e; font-weight: 600 }
.xfrmi .figure { overflow-x: auto } .xfrmi .figure td { font-family: ui-monospace, monospace; padding: .08rem .3rem;
  white-space: nowrap } .xfrmi .figure th { font: .75rem ui-monospace, monospace; color: #7b858f; text-align: left }
.xfrmi .figure td.b { text-align: center; width: 4.6rem; color: #111; border: 1px solid rgba(0,0,0,.18) }
.xfrmi .figure td.at, .xfrmi .figure td.say { color: #7b858f; font-size: .85rem } .xfrmi .figure td.gap {
  text-align: center; color: #111 } .xfrmi .figure td.ae { font-weight: 700; font-size: .8rem }
.xfrmi .swatch { color: #111; padding: 0 .4rem; border-radius: .2rem }
.xfrmi .verdict { font-size: 1.1rem; font-weight: 650; margin: 1rem 0 }
.xfrmi .f-ip { background: #9ad0f5 } .xfrmi .f-udp { background: #7fe3dc } .xfrmi .f-spi { background: #ffd43b }
.xfrmi .f-seq { background: #ffb059 } .xfrmi .f-iv { background: #f0a6e8 } .xfrmi .f-inner { background: #b9f3c2 }
.xfrmi .f-payload { background: #69d884 } .xfrmi .f-tfc { background: #b8bec4 } .xfrmi .f-pad { background: #d9dde1 }
.xfrmi .f-trailer { background: #f5f1a3 } .xfrmi .f-icv { background: #ff8787 } .xfrmi .f-opaque { background: #a9b0b7 }
@media (prefers-color-scheme: dark) { .xfrmi { color: #dfe5ea; background: #15191d } .xfrmi .ok, .xfrmi .taken td {
  color: #69d884 } .xfrmi .bad { color: #ff8787 } }
"""


def page(found: Explanation) -> str:
    """A whole document."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>xfrmi explain: {escape(found.verdict)}</title>"
        "<style>body { margin: 0 } @media (prefers-color-scheme: dark) { body { background: #15191d } }</style></head>"
        f"<body>{fragment(found)}</body></html>\n"
    )


def fragment(found: Explanation) -> str:
    """What a notebook shows."""
    way = f"{'Out' if found.direction == 'out' else 'In'} through {found.interface or 'no interface'}"
    keys = "keys" if found.keys else "hidden"
    parts = [
        f'<style>{STYLE}</style><div class="xfrmi"><h1>{escape(way)}</h1>',
        f'<p class="origin">{escape(found.origin)} <span class="{keys}">{escape(found.about_keys)}</span></p>',
        '<ol class="steps">',
        *map(_step, found.steps),
        f'</ol><p class="verdict {"bad" if found.reason else "ok"}">{escape(upper_first(found.verdict))}.</p>',
        *map(_figure, found.packets),
        _flips(found),
        "</div>",
    ]
    return "".join(parts)


def _step(step: Step) -> str:
    mark = '<span class="bad">✗</span>' if step.failed else '<span class="ok">✓</span>'
    parts = [f'<li>{mark} <span class="step">{escape(step.title)}</span> {escape(step.text)}']
    if step.facts:
        facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in step.facts)
        parts.append(f"<dl>{facts}</dl>")
    if step.candidates:
        rows = (
            f'<tr class="{"taken" if one.taken else "not"}"><td>{"➜" if one.taken else "·"}</td>'
            f"<td>{escape(one.name)}</td><td>{escape(one.why)}</td></tr>"
            for one in step.candidates
        )
        parts.append(f"<table>{''.join(rows)}</table>")
    return "".join(parts) + "</li>"


def _figure(layout: Layout) -> str:
    bits = "".join(f"<th>bit {bit}</th>" for bit in (0, 8, 16, 24))
    plain = "<th>plaintext</th>" if layout.plain else "<th></th>"
    head = f'<tr><th></th>{bits}<th title="authenticated">A</th><th title="encrypted">E</th>{plain}<th></th></tr>'
    rows = "".join(_gap(row) if isinstance(row, Gap) else _row(row) for row in rows_of(layout))
    title = escape(upper_first(layout.title))
    return f'<h2>{title}, {len(layout.data)} bytes</h2><div class="figure"><table>{head}{rows}</table></div>'


def _row(row: Row) -> str:
    cells = []
    for at, one in enumerate(row.cells):
        field = one.field
        plain = f", plaintext {one.plain:02x}" if one.plain is not None else ""
        title = f"byte {row.offset + at}: {field.name}{': ' + field.text if field.text else ''}{plain}"
        cells.append(f'<td class="b f-{field.kind}" title="{escape(title)}">{one.byte:02x}</td>')
    cells.append("<td></td>" * (4 - len(row.cells)))
    authenticated = "A" if any(one.field.authenticated for one in row.cells) else ""
    encrypted = "E" if any(one.field.encrypted for one in row.cells) else ""
    plain = ""
    if any(one.plain is not None for one in row.cells):
        plain = " ".join("  " if one.plain is None else f"{one.plain:02x}" for one in row.cells)
        plain += "  " + "".join(" " if one.plain is None else printable(one.plain) for one in row.cells)
    names = " | ".join(f"{field.name} {field.text}".strip() for field in row.begun)
    return (
        f'<tr><td class="at">{row.offset}</td>{"".join(cells)}<td class="ae">{authenticated}</td>'
        f'<td class="ae">{encrypted}</td><td>{escape(plain)}</td><td class="say">{escape(names)}</td></tr>'
    )


def _gap(gap: Gap) -> str:
    return f'<tr><td></td><td colspan="4" class="gap f-{gap.field.kind}">{gap.rows * 4} bytes more</td></tr>'


def _flips(found: Explanation) -> str:
    tried = grouped(found.flips())
    if not tried:
        return ""
    rows = "".join(
        f'<tr><td class="at">{group[0].field.start}</td><td>'
        + " ".join(f'<span class="swatch f-{one.field.kind}">{escape(one.field.name)}</span>' for one in group)
        + f"</td><td>{escape('; '.join(group[0].texts))}</td></tr>"
        for group in tried
    )
    return (
        "<h2>If one bit is turned on the way</h2>"
        f'<p class="origin">Each was tried, with a receiver of its own.</p><table>{rows}</table>'
    )
