"""A lab drawn: for a terminal, as Mermaid (which GitHub and many editors render), as DOT for graphviz.

Links are solid; what two xfrm interfaces of the same if_id on two nodes are to each other is dotted.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable

from xfrmi.formats.grammar import parse, split_line
from xfrmi.formats.requests_link import AddLink
from xfrmi.lab.plan import LinkPlan, NodePlan, Plan

GAP = 3
"""Columns of line on either side of what a link does."""


def interfaces(node: NodePlan) -> dict[str, int]:
    """Its xfrm interfaces and their if_ids."""
    found = {netdev.name: netdev.if_id for netdev, _ in node.interfaces}
    for text in node.xfrm:
        for _, line in text.commands():
            if (words := split_line(line)) and isinstance(request := parse(words, ifindex_of=lambda name: 1), AddLink):
                found[request.info.name] = request.info.if_id or 0
    return found


def tunnels(plan: Plan) -> list[tuple[str, str, str, str, int]]:
    """(node, interface, node, interface, if_id) where exactly two nodes have an interface of that if_id."""
    ends: dict[int, list[tuple[str, str]]] = {}
    for node in plan.nodes.values():
        for name, if_id in interfaces(node).items():
            ends.setdefault(if_id, []).append((node.moved[name].word if name in node.moved else node.name, name))
    return [(*pair[0], *pair[1], if_id) for if_id, pair in ends.items() if len(pair) == 2]


def text(plan: Plan, width: int | None = None) -> str:
    """Boxes in a row, if the lab is a chain that fits into `width` columns (default: the terminal's); else a list."""
    width = width or shutil.get_terminal_size((100, 24)).columns
    chain = _chain(plan)
    drawing = _row(plan, chain) if chain else ""
    if not drawing or max(map(len, drawing.splitlines())) > width:
        drawing = _list(plan)
    lines = [f"{plan.name}: {plan.about}" if plan.about else plan.name, drawing]
    for one, device, other, far, if_id in tunnels(plan):
        lines.append(f"{one} {device} ┄┄┄ if_id {if_id} ┄┄┄ {far} {other}")
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
            link = LinkPlan(link.right, link.left, link.faults, link.mtu, link.place)
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
            wire = (f" {doing} " if doing else "").center(gap, "─") if number == 1 and not last else " " * gap
            if number == 1:
                part = ("├" if at else "│")[:1].replace("├", "┤") + part[1:-1] + ("│" if last else "├")
            lines[number] += part + wire
    return "\n".join(line.rstrip() for line in lines)


def _doing(link: LinkPlan) -> str:
    parts = [link.faults.describe()] if link.faults else []
    parts += [f"mtu {link.mtu}"] if link.mtu else []
    return ", ".join(parts)


def _list(plan: Plan) -> str:
    lines = []
    for name, node in plan.nodes.items():
        lines.append(name if node.kind == "host" else f"{name} ({node.kind})")
        far = {link.left: link.right for link in plan.links} | {link.right: link.left for link in plan.links}
        doing = {end: _doing(link) for link in plan.links for end in (link.left, link.right)}
        labels = _labels(plan, name)
        for at, (device, label) in enumerate(labels.items()):
            branch = "└─" if at == len(labels) - 1 else "├─"
            peer = far.get((name, device))
            wire = f" ──{f' {doing[name, device]} ' if doing[name, device] else ''}── {' '.join(peer)}" if peer else ""
            lines.append(f"{branch} {label}{wire}")
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
    for one, device, other, far, if_id in tunnels(plan):
        same = device if device == far else f"{device} {far}"
        lines.append(f"  {_id(one)} -. {same}, if_id {if_id} .- {_id(other)}")
    return "\n".join(lines)


def dot(plan: Plan) -> str:
    lines = [f'graph "{plan.name}" {{', "  node [shape=box];"]
    for name in plan.nodes:
        labels = "\\n".join([name, *_labels(plan, name).values()])
        lines.append(f'  "{name}" [label="{labels}"];')
    for link in plan.links:
        lines.append(f'  "{link.left[0]}" -- "{link.right[0]}" [label="{_doing(link)}"];')
    for one, device, other, far, if_id in tunnels(plan):
        lines.append(
            f'  "{one}" -- "{other}" [style=dotted, taillabel="{device}", headlabel="{far}", label="if_id {if_id}"];'
        )
    return "\n".join([*lines, "}"])


def _id(name: str) -> str:
    """Mermaid takes some words ("end") for its own."""
    return f"node_{name.replace('-', '_')}"


DRAWINGS: dict[str, Callable[[Plan], str]] = {"text": text, "mermaid": mermaid, "dot": dot}
