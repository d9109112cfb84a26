"""A lab drawn: for a terminal, as Mermaid (which GitHub and many editors render), as DOT for graphviz.

Links are solid, tunnels between two xfrm interfaces are dotted.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace

from xfrmi.formats.grammar import parse, split_line
from xfrmi.formats.requests_link import AddLink
from xfrmi.formats.requests_state import AddState
from xfrmi.lab.plan import LinkPlan, NodePlan, Plan

GAP = 3
"""Columns of line on either side of what a link does."""


@dataclass(frozen=True)
class Tunnel:
    """Two interfaces that share a state, or, where no states are given, an if_id that no third one has."""

    left: tuple[str, str]
    """Node in which it is used, and interface."""
    right: tuple[str, str]
    if_ids: tuple[int, int]

    @property
    def key(self) -> str:
        return f"if_id {self.if_ids[0]}" if len(set(self.if_ids)) == 1 else "if_id {}, {}".format(*self.if_ids)


@dataclass
class _Xfrm:
    """What a node's lines come to."""

    interfaces: dict[int, str]
    """if_id -> name."""
    states: dict[int, int]
    """SPI -> if_id."""


def _xfrm(node: NodePlan) -> _Xfrm:
    found = _Xfrm({netdev.if_id: netdev.name for netdev, _ in node.interfaces}, {})
    for text in node.xfrm:
        for _, line in text.commands():
            request = parse(words, ifindex_of=lambda name: 1) if (words := split_line(line)) else None
            if isinstance(request, AddLink):
                found.interfaces[request.info.if_id or 0] = request.info.name
            elif isinstance(request, AddState):
                found.states[request.info.spi] = request.info.if_id
    return found


def tunnels(plan: Plan) -> list[Tunnel]:
    known = {node.name: _xfrm(node) for node in plan.nodes.values()}

    def end(node: str, if_id: int) -> tuple[str, str]:
        name = known[node].interfaces[if_id]
        moved = plan.nodes[node].moved
        return (moved[name].word if name in moved else node), name

    pairs: dict[tuple[tuple[str, int], ...], None] = {}
    for sharing in (_by_state(known), _by_if_id(known)):
        for ends in sharing:
            if len(ends) == 2 and not any(end in pair for pair in pairs for end in ends):
                pairs[tuple(ends)] = None
    return [Tunnel(end(*left), end(*right), (left[1], right[1])) for left, right in pairs]


def _by_state(known: dict[str, _Xfrm]) -> list[list[tuple[str, int]]]:
    sharing: dict[int, list[tuple[str, int]]] = {}
    for node, xfrm in known.items():
        for spi, if_id in xfrm.states.items():
            if if_id in xfrm.interfaces:
                sharing.setdefault(spi, []).append((node, if_id))
    return list(sharing.values())


def _by_if_id(known: dict[str, _Xfrm]) -> list[list[tuple[str, int]]]:
    sharing: dict[int, list[tuple[str, int]]] = {}
    for node, xfrm in known.items():
        for if_id in xfrm.interfaces:
            sharing.setdefault(if_id, []).append((node, if_id))
    return list(sharing.values())


def text(plan: Plan, width: int | None = None) -> str:
    """Boxes in a row, if the lab is a chain that fits into `width` columns (default: the terminal's); else a list."""
    width = width or shutil.get_terminal_size((100, 24)).columns
    chain = _chain(plan)
    drawing = _row(plan, chain) if chain else ""
    if not drawing or max(map(len, drawing.splitlines())) > width:
        drawing = _list(plan)
    lines = [f"{plan.name}: {plan.about}" if plan.about else plan.name, drawing]
    for tunnel in tunnels(plan):
        lines.append(f"{' '.join(tunnel.left)} ┄┄┄ {tunnel.key} ┄┄┄ {' '.join(tunnel.right[::-1])}")
    return "\n".join(lines)


def _labels(plan: Plan, node: str) -> dict[str, str]:
    """What its devices are called in a drawing: name and addresses."""
    planned = plan.nodes[node]
    names = [*plan.devices(node), *(name for name in planned.addresses if name not in plan.devices(node))]
    return {name: " ".join([name, *(address.word for address in planned.addresses.get(name, ()))]) for name in names}


def _chain(plan: Plan) -> list[LinkPlan]:
    """The links from one end to the other, each turned so that its left end comes first; [] if it is no chain."""
    degree = {name: len(plan.devices(name)) for name in plan.nodes}
    ends = [name for name, links in degree.items() if links == 1]
    if len(ends) != 2 or len(plan.links) != len(plan.nodes) - 1 or any(links > 2 for links in degree.values()):
        return []
    at, rest, chain = ends[0], list(plan.links), []
    while rest:
        link = next((link for link in rest if at in (link.left[0], link.right[0])), None)
        if link is None:
            return []
        rest.remove(link)
        if link.left[0] != at:
            link = replace(link, left=link.right, right=link.left)
        chain.append(link)
        at = link.right[0]
    return chain


def _row(plan: Plan, chain: list[LinkPlan]) -> str:
    names = [chain[0].left[0], *(link.right[0] for link in chain)]
    rows = max(len(_labels(plan, name)) for name in names)
    lines = [""] * (rows + 2)
    for at, name in enumerate(names):
        labels = list(_labels(plan, name).values())
        kind = plan.nodes[name].kind
        title = f" {name} " if kind == "host" else f" {name} ({kind}) "
        inner = max(len(title) + 1, *(len(label) + 2 for label in labels), 1)
        last = at == len(names) - 1
        doing = "" if last else _doing(chain[at])
        gap = 0 if last else len(doing) + 2 * GAP + (2 if doing else 0)
        body = [f"│ {label:<{inner - 2}} │" for label in labels] + [f"│{'':{inner}}│"] * (rows - len(labels))
        box = [f"╭─{title:─<{inner - 1}}╮", *body, f"╰{'':─<{inner}}╯"]
        for number, part in enumerate(box):
            line = "╌" if not last and chain[at].pulled else "─"
            wire = (f" {doing} " if doing else "").center(gap, line) if number == 1 and not last else " " * gap
            if number == 1:
                part = ("┤" if at else "│") + part[1:-1] + ("│" if last else "├")
            lines[number] += part + wire
    return "\n".join(line.rstrip() for line in lines)


def _doing(link: LinkPlan) -> str:
    if link.pulled:
        return "pulled"
    parts = [link.faults.describe()] if link.faults else []
    parts += [f"mtu {link.mtu}"] if link.mtu else []
    return ", ".join(parts)


def _list(plan: Plan) -> str:
    lines = []
    wires = {}
    for link in plan.links:
        line = "╌╌" if link.pulled else "──"
        doing = f" {_doing(link)} " if _doing(link) else ""
        for end, far in ((link.left, link.right), (link.right, link.left)):
            wires[end] = f" {line}{doing}{line} {' '.join(far)}"
    for name, node in plan.nodes.items():
        lines.append(name if node.kind == "host" else f"{name} ({node.kind})")
        labels = _labels(plan, name)
        for at, (device, label) in enumerate(labels.items()):
            branch = "└─" if at == len(labels) - 1 else "├─"
            lines.append(f"{branch} {label}{wires.get((name, device), '')}")
    return "\n".join(lines)


def mermaid(plan: Plan) -> str:
    lines = ["flowchart LR"]
    for name, node in plan.nodes.items():
        labels = "<br/>".join([f"<b>{name}</b>", *_labels(plan, name).values()])
        shape = '["{}"]' if node.kind == "host" else '(["{}"])'
        lines.append(f"  {_id(name)}{shape.format(labels)}")
    for link in plan.links:
        doing = _doing(link)
        lines.append(f"  {_id(link.left[0])} ---{f'|{doing}|' if doing else ''} {_id(link.right[0])}")
    for tunnel in tunnels(plan):
        (left, name), (right, far) = tunnel.left, tunnel.right
        lines.append(f"  {_id(left)} -. {name if name == far else f'{name} {far}'}, {tunnel.key} .- {_id(right)}")
    return "\n".join(lines)


def dot(plan: Plan) -> str:
    lines = [f'graph "{plan.name}" {{', "  node [shape=box];"]
    for name in plan.nodes:
        labels = "\\n".join([name, *_labels(plan, name).values()])
        lines.append(f'  "{name}" [label="{labels}"];')
    for link in plan.links:
        lines.append(f'  "{link.left[0]}" -- "{link.right[0]}" [label="{_doing(link)}"];')
    for tunnel in tunnels(plan):
        (left, name), (right, far) = tunnel.left, tunnel.right
        look = f'style=dotted, taillabel="{name}", headlabel="{far}", label="{tunnel.key}"'
        lines.append(f'  "{left}" -- "{right}" [{look}];')
    return "\n".join([*lines, "}"])


def _id(name: str) -> str:
    """Mermaid takes some words ("end") for its own."""
    return f"node_{name.replace('-', '_')}"


DRAWINGS: dict[str, Callable[[Plan], str]] = {"text": text, "mermaid": mermaid, "dot": dot}
