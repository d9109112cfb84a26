"""Lab files: TOML that is read into a Plan, every word of it with the line in which it stands.

Where lines of another format are wanted (systemd.netdev, `ip xfrm`, shell), a string of one line names a file beside
the lab file, and a string of several lines is the text itself. Several of either stand in a list.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xfrmi.formats.tokens import suggestion
from xfrmi.lab.plan import (
    KINDS,
    LabError,
    LinkPlan,
    NodePlan,
    Place,
    Placed,
    Plan,
    Text,
    checked_address,
    checked_faults,
    checked_kind,
    checked_name,
    checked_route,
    endpoint,
    netdevs,
)
from xfrmi.lab.plan_check import check
from xfrmi.lab.toml_places import Places, syntax_error

FILE = "lab.toml"
"""What a folder is expected to hold."""
TOP_KEYS = ("name", "about", "xfrm", "node", "link")
NODE_KEYS = ("kind", "outside", "address", "route", "netdev", "xfrm", "moved", "run", "start")
LINK_KEYS = ("endpoints", "mtu", "changeable")
MAX_LINE = 1 << 14
"""Characters. tomllib takes a time that grows with the square of the dots in a key: those of so long a line 50 ms."""


def read_lab(path: str | Path) -> Plan:
    """The plan in a lab file, or in FILE of a folder; checked. Raises LabError."""
    file = Path(path)
    if file.is_dir():
        file = file / FILE
    try:
        data = file.read_bytes()
    except OSError as error:
        raise LabError(f"{file}: {error.strerror}; a lab file was expected, or a folder with {FILE} in it") from None
    return parse_lab(data, file)


def parse_lab(data: bytes, file: Path) -> Plan:
    """The plan in what stands in `file`, checked; files that it names are read. Raises LabError."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise LabError(f"{file}: text in UTF-8 was expected") from None
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > MAX_LINE:
            place = Place(str(file), number)
            raise place.error(f"a line has at most {MAX_LINE:,} characters, and this has {len(line):,}")
    plan = _Reader(file, text).plan()
    check(plan)
    return plan


class _Reader:
    def __init__(self, file: Path, text: str) -> None:
        self.file = file
        try:
            self.data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            line, what = syntax_error(error, text)
            raise Place(str(file), line).error(f"this is no TOML: {what}") from None
        self.places = Places(text)

    def place(self, *path: str) -> Place:
        return Place(str(self.file), self.places.line(*path))

    def plan(self) -> Plan:
        self.known(self.data, TOP_KEYS, "a lab file")
        name = self.string(self.data.get("name", self.default_name()), "name")
        checked_name(name, "lab", self.place("name"))
        about = self.string(self.data.get("about", ""), "about")
        plan = Plan(name, about, self.file.absolute().parent)
        for node, values in self.table(self.data.get("node", {}), "node").items():
            self.node(plan, node, self.table(values, "node", node))
        for text in self.texts(self.data.get("xfrm", []), "xfrm"):
            for planned in plan.nodes.values():
                if planned.has_xfrm:
                    planned.xfrm.append(text)
        links = self.data.get("link", [])
        if not isinstance(links, list):
            raise self.place("link").error("links stand in sections [[link]], with two brackets")
        plan.links += [self.link(self.table(values, "link", str(at)), str(at)) for at, values in enumerate(links)]
        return plan

    def default_name(self) -> str:
        """That of the file, or of its folder; as much of it as can name a lab."""
        stem = self.file.stem if self.file.name != FILE else self.file.absolute().parent.name
        return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:24] or "lab"

    def node(self, plan: Plan, name: str, values: Mapping[str, Any]) -> None:
        path = "node", name
        node = plan.add_node(name, self.place(*path))
        self.known(values, NODE_KEYS, f"node {name}", *path)
        if "kind" in values:
            node.kind = checked_kind(self.string(values["kind"], *path, "kind", expected=_one_of(KINDS)),
                                     self.place(*path, "kind"))  # fmt: skip
        if "outside" in values:
            node.outside = self.string(values["outside"], *path, "outside")
        for device, addresses in self.table(values.get("address", {}), *path, "address").items():
            words = self.words(addresses, *path, "address", device)
            node.addresses[device] = [checked_address(word) for word in words]
        node.routes += [checked_route(word) for word in self.words(values.get("route", []), *path, "route")]
        for text in self.texts(values.get("netdev", []), *path, "netdev"):
            node.interfaces += netdevs(text)
        node.xfrm += self.texts(values.get("xfrm", []), *path, "xfrm")
        for device, target in self.table(values.get("moved", {}), *path, "moved").items():
            word = self.string(target, *path, "moved", device)
            node.moved[device] = Placed(word, self.place(*path, "moved", device))
        self.programs(node, values, *path)

    def programs(self, node: NodePlan, values: Mapping[str, Any], *path: str) -> None:
        for entry in self.words(values.get("run", []), *path, "run"):
            node.run.append(self.inline(entry, *path, "run"))
        node.start += self.words(values.get("start", []), *path, "start")

    def link(self, values: Mapping[str, Any], at: str) -> LinkPlan:
        path = "link", at
        words = self.words(values.get("endpoints", []), *path, "endpoints")
        if len(words) != 2:
            raise self.place(*path, "endpoints").error(
                'a link takes endpoints = ["NODE:DEVICE", "NODE:DEVICE"], two of them'
            )
        mtu = values.get("mtu")
        if mtu is not None and (isinstance(mtu, bool) or not isinstance(mtu, int) or not 68 <= mtu <= 65521):
            raise self.place(*path, "mtu").error("mtu: a number of bytes from 68 to 65521 was expected, without quotes")
        changeable = values.get("changeable", False)
        if not isinstance(changeable, bool):
            raise self.place(*path, "changeable").error("changeable: true or false was expected, without quotes")
        faults = {
            name: (value, self.place(*path, name)) for name, value in values.items() if name not in LINK_KEYS
        }
        left, right = (endpoint(word) for word in words)
        return LinkPlan(left, right, checked_faults(faults), mtu, self.place(*path, "endpoints"), changeable)

    # Values.

    def known(self, values: Mapping[str, Any], keys: tuple[str, ...], what: str, *path: str) -> None:
        for key in values:
            if key not in keys:
                raise self.place(*path, key).error(f'{what} has no "{key}"; {suggestion(key, keys)}')

    def table(self, value: Any, *path: str) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise self.place(*path).error(f"{path[-1]}: a table was expected, such as [{'.'.join(path)}]")
        return value

    def string(self, value: Any, *path: str, expected: str = "a string in quotes") -> str:
        if not isinstance(value, str):
            raise self.place(*path).error(f"{path[-1]}: {expected} was expected")
        return value

    def words(self, value: Any, *path: str) -> list[Placed]:
        """A string, or a list of them."""
        entries = [value] if isinstance(value, str) else value
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            raise self.place(*path).error(f"{path[-1]}: a string in quotes was expected, or a list of them")
        lines = self.places.lines([entry.partition("\n")[0] for entry in entries], *path)
        return [Placed(entry, Place(str(self.file), line)) for entry, line in zip(entries, lines, strict=True)]

    def texts(self, value: Any, *path: str) -> list[Text]:
        return [self.text(entry, *path) for entry in self.words(value, *path)]

    def text(self, entry: Placed, *path: str) -> Text:
        if "\n" in entry.word:
            return self.inline(entry, *path)
        file = self.file.parent / entry.word
        try:
            return Text(file.read_text(encoding="utf-8"), Place(str(file), 1))
        except UnicodeDecodeError:
            raise entry.place.error(f"{file}: text in UTF-8 was expected") from None
        except OSError as error:
            raise entry.place.error(
                f'{path[-1]}: "{entry.word}": {error.strerror}; a file beside this one was expected, or several lines '
                "in three quotes"
            ) from None

    def inline(self, entry: Placed, *path: str) -> Text:
        return Text(entry.word, Place(str(self.file), self.places.first_line_of_text(*path)))


def _one_of(words: tuple[str, ...]) -> str:
    return " or ".join(f'"{word}"' for word in words)
