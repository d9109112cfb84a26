"""The lab as it is to be drawn: nodes with their devices, links, and tunnels, all as they are at this moment.

A tunnel is two interfaces whose daemons have a state with the same SPI. For the worker of a HeldLab.
"""

from __future__ import annotations

from typing import Any

from xfrmi.web.held import HeldLab


def topology(lab: HeldLab, counters: dict[str, Any]) -> dict[str, Any]:
    """`counters` are those of the same moment."""
    devices = {name: node.devices() for name, node in lab.nodes.items()}
    xfrm = _places(lab, counters, devices)
    return {
        "name": lab.name,
        "nodes": [
            {
                "name": name,
                "kind": node.kind,
                "daemon": node.client is not None,
                "devices": [
                    {"name": device, "addresses": node.addresses.get(device, []), "xfrm": xfrm.get((name, device))}
                    for device in _in_order(lab, name, devices[name])
                ],
            }
            for name, node in lab.nodes.items()
        ],
        "links": [{"left": list(link.left), "right": list(link.right), "faults": link.doing()} for link in lab.links],
        "tunnels": _tunnels(counters),
    }


def _places(
    lab: HeldLab, counters: dict[str, Any], devices: dict[str, list[str]]
) -> dict[tuple[str, str], dict[str, Any]]:
    """(node in which it is used, name) -> {"node" that seals and opens for it, "if_id"}."""
    found = {}
    on_links = {end for link in lab.links for end in (link.left, link.right)}
    for owner, counted in counters.items():
        for interface in counted.get("interfaces", ()):
            name = interface["name"]
            elsewhere = [node for node in devices if name in devices[node] and (node, name) not in on_links]
            where = owner if owner in elsewhere else elsewhere[0] if elsewhere else owner
            found[where, name] = {"node": owner, "if_id": interface["if_id"]}
    return found


def _in_order(lab: HeldLab, node: str, devices: list[str]) -> list[str]:
    """Links' devices first, then those with addresses."""
    linked = [end[1] for link in lab.links for end in (link.left, link.right) if end[0] == node]
    planned = [*linked, *lab.nodes[node].addresses]
    return sorted(devices, key=lambda name: planned.index(name) if name in planned else len(planned))


def _tunnels(counters: dict[str, Any]) -> list[dict[str, Any]]:
    names = {
        (node, interface["if_id"]): interface["name"]
        for node, counted in counters.items()
        for interface in counted.get("interfaces", ())
    }
    sharing: dict[int, list[tuple[str, int]]] = {}
    for node, counted in counters.items():
        for state in counted.get("states", ()):
            end = node, state["if_id"]
            if end in names and end not in sharing.setdefault(state["spi"], []):
                sharing[state["spi"]].append(end)
    order = list(names)
    pairs = {tuple(sorted(ends, key=order.index)) for ends in sharing.values() if len(ends) == 2}
    return [
        {"ends": [{"node": node, "if_id": if_id, "interface": names[node, if_id]} for node, if_id in pair]}
        for pair in sorted(pairs, key=lambda pair: [order.index(end) for end in pair])
    ]
