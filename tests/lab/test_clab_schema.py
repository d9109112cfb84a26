"""The topology files of `lab export --clab` by containerlab's published schema (schemas/clab.schema.json of
srl-labs/containerlab).

The schema is not ours to carry, and no package has it. So its rules for what we write, nodes of kind linux and links
in the brief form, are told here in our own words, as they stand in commit 5fa03f7820fc; and who has the file itself
names it in XFRMI_CLAB_SCHEMA and validates with it:

    XFRMI_CLAB_SCHEMA=clab.schema.json .venv/bin/python -m pytest tests/lab/test_clab_schema.py
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.each import each
from tests.lab.test_clab import REFUSED
from tests.lessons import LESSONS
from xfrmi.lab.clab import topology
from xfrmi.lab.labfile import read_lab
from xfrmi.lab.plan import Plan

SCHEMA = os.environ.get("XFRMI_CLAB_SCHEMA", "")
NODE_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._|-]*", re.ASCII)
ENDPOINT = re.compile(r"\S+:\S+")
NETWORK_MODE = re.compile(r"host|none|container:\S+")


def _strings(value: Any, least: int = 0) -> bool:
    return isinstance(value, list) and len(value) >= least and all(isinstance(entry, str) for entry in value)


def _different(value: Any, least: int = 0) -> bool:
    return _strings(value, least) and len(set(value)) == len(value)


NODE: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "kind": ("linux is one of its kinds", lambda value: value == "linux"),
    "image": ("a string", lambda value: isinstance(value, str)),
    "network-mode": (
        "host, none or container:NAME",
        lambda value: isinstance(value, str) and NETWORK_MODE.fullmatch(value) is not None,
    ),
    "privileged": ("true or false", lambda value: isinstance(value, bool)),
    "cap-add": ("strings, none twice", _different),
    "devices": ("strings, none twice", _different),
    "sysctls": (
        "strings or numbers by name",
        lambda value: (
            isinstance(value, dict)
            and all(isinstance(entry, str | int | float) and not isinstance(entry, bool) for entry in value.values())
        ),
    ),
    "binds": ("one string at least, none twice", lambda value: _different(value, 1)),
    "exec": ("one string at least", lambda value: _strings(value, 1)),
}
"""What a node may have of what we write. There is more; but whatever the schema does not name it forbids."""


def violations(document: Any) -> Iterator[str]:
    """What the schema would say of a topology file."""
    yield from _fields(document, "the file", {"name", "topology"}, {"name", "topology"})
    if not isinstance(document.get("name", ""), str):
        yield "name: a string"
    wired = document.get("topology", {})
    yield from _fields(wired, "topology", {"nodes", "links"}, {"nodes"})
    for name, node in wired.get("nodes", {}).items():
        if not isinstance(name, str) or not NODE_NAME.fullmatch(name):
            yield f"{name}: no name of a node"
        yield from _fields(node, name, set(NODE), set())
        for field, (expected, holds) in NODE.items():
            if field in node and not holds(node[field]):
                yield f"{name}: {field}: {expected}"
    if "links" in wired and not (isinstance(wired["links"], list) and wired["links"]):
        yield "links: one at least"
    for link in wired.get("links", []):
        yield from _fields(link, "link", {"endpoints"}, set())
        ends = link.get("endpoints", ["a:b", "c:d"])
        if not _different(ends, 2) or not all(map(ENDPOINT.fullmatch, ends)):
            yield f"endpoints {ends}: two of NODE:DEVICE at least, none twice"


def _fields(value: Any, what: str, known: set[str], required: set[str]) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{what}: a mapping"
        return
    yield from (f"{what}: no such field: {field}" for field in value if field not in known)
    yield from (f"{what}: {field} is missing" for field in required - value.keys())


def _alone() -> Plan:
    plan = Plan("alone")
    plan.node("hermit-1")
    return plan


PLANS: list[Plan] = [*(read_lab(folder) for folder in LESSONS if folder.name not in REFUSED), _alone()]


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_what_is_exported_keeps_the_rules(plan: Plan) -> None:
    assert list(violations(yaml.safe_load(topology(plan)))) == []


def _moon(document: Any) -> dict[str, Any]:
    node: dict[str, Any] = document["topology"]["nodes"]["moon"]
    return node


BROKEN: dict[str, Callable[[Any], Any]] = {
    "an unknown field on top": lambda document: document.update(version=1),
    "no name": lambda document: document.pop("name"),
    "a number for a name": lambda document: document.update(name=5),
    "no nodes": lambda document: document["topology"].pop("nodes"),
    "an unknown field of the topology": lambda document: document["topology"].update(wires=[]),
    "a node with a bad name": lambda document: document["topology"]["nodes"].update({"-moon": {}}),
    "an unknown field of a node": lambda document: _moon(document).update(xfrm="yes"),
    "underscores for dashes": lambda document: _moon(document).update(cap_add=["NET_ADMIN"]),
    "an unknown kind": lambda document: _moon(document).update(kind="host-with-xfrm"),
    "words for a boolean": lambda document: _moon(document).update(privileged="false"),
    "an unknown network mode": lambda document: _moon(document).update({"network-mode": "nothing"}),
    "a capability twice": lambda document: _moon(document).update({"cap-add": ["NET_RAW", "NET_RAW"]}),
    "a device that is no list": lambda document: _moon(document).update(devices="/dev/net/tun"),
    "a sysctl that is a boolean": lambda document: _moon(document).update(sysctls={"net.ipv4.ip_forward": True}),
    "no binds": lambda document: _moon(document).update(binds=[]),
    "nothing to execute": lambda document: _moon(document).update(exec=[]),
    "no links": lambda document: document["topology"].update(links=[]),
    "a link with one end": lambda document: document["topology"]["links"][0]["endpoints"].pop(),
    "an endpoint without a device": lambda document: document["topology"]["links"][0].update(endpoints=["moon", "a:b"]),
    "an unknown field of a link": lambda document: document["topology"]["links"][0].update(delay="20ms"),
}


def _broken() -> Iterator[tuple[str, Any]]:
    good = yaml.safe_load(topology(PLANS[0]))
    for what, spoil in BROKEN.items():
        document = copy.deepcopy(good)
        spoil(document)
        yield what, document


@each(("what", "document"), list(_broken()), ids=list(BROKEN))
def test_the_rules_forbid(what: str, document: Any) -> None:
    assert len(list(violations(document))) == 1, what


def test_the_schema_itself() -> None:
    if not SCHEMA:
        pytest.skip("XFRMI_CLAB_SCHEMA NAMES NO SCHEMA OF containerlab: ITS RULES ARE TESTED AS TOLD HERE, NOT BY IT")
    validator = jsonschema.Draft7Validator(json.loads(Path(SCHEMA).read_text()))
    for plan in PLANS:
        found = [error.message for error in validator.iter_errors(yaml.safe_load(topology(plan)))]
        assert found == [], plan.name
    for what, document in _broken():
        assert not validator.is_valid(document), f"the schema allows what our rules forbid: {what}"
