"""A lab as it is to be: nodes, links, and what each node is told. What a lab file is read into, and what Python writes.

    plan = Plan("two-hosts")
    plan.node("moon", address={"eth0": ["192.0.2.1/30"]}, netdev=NETDEV, xfrm=LINES)
    plan.node("sun", address={"eth0": ["192.0.2.2/30"]})
    plan.link("moon:eth0", "sun:eth0", delay="20ms", loss="1%")

Nothing is made by it. `xfrmi.lab.build` makes it in this process, `xfrmi.lab.running.up` in one that stays.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from xfrmi.formats.grammar import logical_lines
from xfrmi.formats.netdev import NetDev, NetdevError, parse_netdevs
from xfrmi.formats.tokens import suggestion
from xfrmi.lab.faults import Faults, parse_fault
from xfrmi.lab.routes import Route, parse_route

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,23}", re.ASCII)
"""Of labs and nodes: they name directories, and containers in an export."""
DEVICE = re.compile(r"[^\s/:]{1,15}")
KINDS = ("host", "router", "nat")


class LabError(Exception):
    """A lab that cannot be: where it says so (file and line, where there is a file), and what was expected."""


@dataclass(frozen=True)
class Place:
    """Where something stands in a file; nowhere if Python said it."""

    file: str = ""
    line: int = 0

    def error(self, text: str) -> LabError:
        return LabError(f"{self.file}:{self.line}: {text}" if self.file else text)

    def below(self, lines: int) -> Place:
        return Place(self.file, self.line + lines)


NOWHERE = Place()


@dataclass(frozen=True)
class Text:
    """Lines, with the place of the first one."""

    content: str
    place: Place = NOWHERE

    def error(self, line: int, text: str) -> LabError:
        """About line `line`, from 1."""
        return self.place.below(line - 1).error(text)

    def commands(self) -> Iterator[tuple[int, str]]:
        """(number, line): a line that ends in a backslash goes on in the next, and counts where it begins."""
        return ((number, line) for number, _, line in logical_lines(self.content))


@dataclass(frozen=True)
class Placed:
    """A word and where it stands."""

    word: str
    place: Place = NOWHERE


@dataclass
class NodePlan:
    """One node. Built in this order: links, interfaces, xfrm lines, moves, addresses, routes, `run`, `start`."""

    name: str
    kind: str = "host"
    outside: str = ""
    """Of a NAT: what leaves by this device gets its address."""
    addresses: dict[str, list[Placed]] = field(default_factory=dict)
    routes: list[tuple[Route, Place]] = field(default_factory=list)
    interfaces: list[tuple[NetDev, Place]] = field(default_factory=list)
    xfrm: list[Text] = field(default_factory=list)
    """Lines as `xfrmi -batch` takes them."""
    moved: dict[str, Placed] = field(default_factory=dict)
    """Own interface -> the node in which it is used. It stays this node's: its packets are sealed and opened here."""
    run: list[Text] = field(default_factory=list)
    """Lines for a shell, each of which must succeed."""
    start: list[Placed] = field(default_factory=list)
    """Programs that go on running."""
    place: Place = NOWHERE

    @property
    def has_xfrm(self) -> bool:
        """Whether it has a daemon."""
        return bool(self.interfaces or self.xfrm)


@dataclass(frozen=True)
class LinkPlan:
    left: tuple[str, str]
    """Node and device."""
    right: tuple[str, str]
    faults: Faults = field(default_factory=Faults)
    mtu: int | None = None
    place: Place = NOWHERE
    changeable: bool = False
    """It can be given other faults while the lab is up, as can any that has faults from the beginning."""
    pulled: bool = False
    """It is, at the moment: for drawings of labs that are up."""

    @property
    def name(self) -> str:
        """'moon:eth0 internet:eth0', as a lab file has it."""
        return " ".join(":".join(end) for end in (self.left, self.right))

    @property
    def file_name(self) -> str:
        return self.name.replace(" ", "-").replace(":", ".")


@dataclass
class Plan:
    name: str
    about: str = ""
    """One line: what it shows."""
    folder: Path = field(default_factory=Path.cwd)
    """Where relative names of files are looked for, and where programs of nodes work."""
    nodes: dict[str, NodePlan] = field(default_factory=dict)
    links: list[LinkPlan] = field(default_factory=list)

    def __post_init__(self) -> None:
        checked_name(self.name, "lab", NOWHERE)

    def node(
        self,
        name: str,
        *,
        kind: str = "host",
        outside: str = "",
        address: Mapping[str, Iterable[str]] | None = None,
        route: Iterable[str] = (),
        netdev: str = "",
        xfrm: str = "",
        moved: Mapping[str, str] | None = None,
        run: str = "",
        start: Iterable[str] = (),
    ) -> NodePlan:
        """Add a node, with the keys of a lab file. Raises LabError."""
        node = self.add_node(name, NOWHERE)
        node.kind = checked_kind(kind, NOWHERE)
        node.outside = outside
        for device, addresses in (address or {}).items():
            node.addresses[device] = [checked_address(Placed(text)) for text in addresses]
        node.routes += [checked_route(Placed(text)) for text in route]
        node.interfaces += netdevs(Text(netdev))
        node.xfrm += [Text(xfrm)] if xfrm else []
        node.moved |= {device: Placed(target) for device, target in (moved or {}).items()}
        node.run += [Text(run)] if run else []
        node.start += map(Placed, start)
        return node

    def add_node(self, name: str, place: Place) -> NodePlan:
        """An empty one."""
        checked_name(name, "node", place)
        if name in self.nodes:
            raise place.error(f'there is a node "{name}" already')
        node = self.nodes[name] = NodePlan(name, place=place)
        return node

    def link(
        self, left: str, right: str, *, mtu: int | None = None, changeable: bool = False, **faults: object
    ) -> LinkPlan:
        """Join 'node:device' and 'node:device'. Faults as in a lab file: delay="20ms", loss="1%". Raises LabError."""
        ends = endpoint(Placed(left)), endpoint(Placed(right))
        checked = checked_faults({name: (value, NOWHERE) for name, value in faults.items()})
        link = LinkPlan(*ends, checked, mtu, changeable=changeable)
        self.links.append(link)
        return link

    def devices(self, node: str) -> list[str]:
        """What links give a node, in their order."""
        return [device for link in self.links for name, device in (link.left, link.right) if name == node]

    def devices_of_all(self) -> dict[str, list[str]]:
        """The same of every node, in one go; links end at nodes that there are."""
        found: dict[str, list[str]] = {name: [] for name in self.nodes}
        for link in self.links:
            for name, device in (link.left, link.right):
                found[name].append(device)
        return found


def checked_name(name: str, what: str, place: Place) -> None:
    if not NAME.fullmatch(name):
        raise place.error(f'"{name}" cannot name a {what}: up to 24 of a-z, 0-9 and "-" were expected')


def checked_kind(kind: str, place: Place) -> str:
    if kind not in KINDS:
        raise place.error(f'kind = "{kind}": {suggestion(kind, KINDS)}')
    return kind


def checked_address(address: Placed) -> Placed:
    try:
        if "/" not in address.word:
            raise ValueError
        ipaddress.ip_interface(address.word)
    except ValueError:
        raise address.place.error(
            f'"{address.word}": an address with the length of its prefix was expected, such as 192.0.2.1/30'
        ) from None
    return address


def checked_route(route: Placed) -> tuple[Route, Place]:
    try:
        return parse_route(route.word), route.place
    except ValueError as error:
        raise route.place.error(f'route "{route.word}": {error}') from None


def netdevs(text: Text) -> list[tuple[NetDev, Place]]:
    try:
        return [(netdev, text.place.below(netdev.line - 1)) for netdev in parse_netdevs(text.content)]
    except NetdevError as error:
        raise text.error(error.line, str(error)) from None


def endpoint(end: Placed) -> tuple[str, str]:
    node, colon, device = end.word.partition(":")
    if not colon or not DEVICE.fullmatch(device):
        raise end.place.error(f'endpoint "{end.word}": a node and its device were expected, such as "moon:eth0"')
    return node, device


def checked_faults(values: Mapping[str, tuple[object, Place]]) -> Faults:
    known = list(Faults.__dataclass_fields__)
    read: dict[str, float | int] = {}
    for name, (value, place) in values.items():
        if name not in known:
            raise place.error(f'a link has no "{name}"; {suggestion(name, [*known, "mtu", "changeable"])}')
        try:
            read[name] = parse_fault(name, value)
        except ValueError as error:
            raise place.error(f"{name} = {value!r}: {error} was expected") from None
    return Faults(**read)  # type: ignore[arg-type]
