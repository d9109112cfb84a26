"""Whether a plan can be built, as far as that can be told without building it."""

from __future__ import annotations

from xfrmi.formats.grammar import has_no_comment, parse, split_line
from xfrmi.formats.requests_link import AddLink
from xfrmi.formats.tokens import USAGE, GrammarError, suggestion
from xfrmi.lab.plan import LabError, NodePlan, Place, Plan, Text


def check(plan: Plan) -> None:
    """Raises LabError for the first thing that cannot be."""
    if not plan.nodes:
        raise LabError(f"{plan.name}: a lab has at least one node: a section [node.NAME] was expected")
    _check_links(plan)
    linked = plan.devices_of_all()
    devices = {name: _devices(node, linked[name]) for name, node in plan.nodes.items()}
    for node in plan.nodes.values():
        made = {netdev.name for netdev, _ in node.interfaces}
        for device, target in node.moved.items():
            if device not in made:
                raise target.place.error(f'moved: {node.name} has no interface "{device}" among its netdevs')
            if target.word not in plan.nodes or target.word == node.name:
                raise target.place.error(f'moved: another node was expected; {suggestion(target.word, plan.nodes)}')
            devices[target.word].add(device)
            devices[node.name].discard(device)
    for node in plan.nodes.values():
        _check_node(node, devices[node.name])
        for text in node.run:
            for number, line in text.commands():
                if line.endswith("\\") and has_no_comment(line):
                    raise text.error(number, "run: a backslash at the end, and no next line that would belong to it")


def _check_links(plan: Plan) -> None:
    taken: set[tuple[str, str]] = set()
    for link in plan.links:
        for node, device in (link.left, link.right):
            if node not in plan.nodes:
                raise link.place.error(f'there is no node "{node}"; {suggestion(node, plan.nodes)}')
            if (node, device) in taken:
                raise link.place.error(f'"{node}:{device}" is the end of a link already')
            taken.add((node, device))


def _devices(node: NodePlan, linked: list[str]) -> set[str]:
    """What the node has after its links are made, which give it `linked`, and its xfrm lines are said."""
    devices = {"lo", *linked}
    for netdev, place in node.interfaces:
        if netdev.name in devices:
            raise place.error(f'{node.name} has a device "{netdev.name}" already')
        devices.add(netdev.name)
        if not netdev.independent and len(linked) != 1:
            raise place.error(
                f"{netdev.name} is bound to the one link of its node, and {node.name} has "
                f"{len(linked)}: Independent=yes in [Xfrm] was expected, or instead of the netdev a "
                f'line "link add {netdev.name} type xfrm dev DEVICE if_id {netdev.if_id}" in xfrm'
            )
    for text in node.xfrm:
        devices |= _added(text)
    return devices


def _added(text: Text) -> set[str]:
    """Check xfrm lines; the names of interfaces that they add."""
    added: set[str] = set()
    for number, line in text.commands():
        try:
            if words := split_line(line):
                request = parse(words, ifindex_of=lambda name: 1)
                if isinstance(request, AddLink):
                    added.add(request.info.name)
        except GrammarError as error:
            usage = error.text.startswith("Usage:") and error.exit_code == USAGE
            said = "that is no command" if usage else error.text.removeprefix("Error: ").rstrip(".")
            raise text.error(number, f"{said}. {error.hint}") from None
    return added


def _check_node(node: NodePlan, devices: set[str]) -> None:
    def must_have(device: str, what: str, place: Place) -> None:
        if device not in devices:
            raise place.error(f'{what}: {node.name} has no device "{device}"; {suggestion(device, sorted(devices))}')

    for device, addresses in node.addresses.items():
        for address in addresses:
            must_have(device, "address", address.place)
    for route, place in node.routes:
        if route.device is not None:
            must_have(route.device, "route", place)
    if node.kind == "nat":
        if not node.outside:
            raise node.place.error('a NAT takes outside = "DEVICE": what leaves by it gets its address')
        must_have(node.outside, "outside", node.place)
    elif node.outside:
        raise node.place.error('"outside" belongs to nodes of kind = "nat"')
