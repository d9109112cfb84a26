"""The same lab for containerlab: a topology file, what each node is told, and the image that tells it.

    lab.clab.yml            kind linux, NET_ADMIN and NET_RAW and /dev/net/tun, never privileged
    Containerfile           the image: xfrmi, iproute2
    NODE/setup.sh           addresses, routes, links' faults (tc netem), programs
    NODE/node.xfrm          interfaces, states, policies: lines for `xfrmi -batch` (mode 0600: there are keys in it)

containerlab runs the file on one machine, or (with its Kubernetes runtime) on many. What it cannot express is refused
rather than left out.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xfrmi.lab.build import commands_of
from xfrmi.lab.faults import Faults
from xfrmi.lab.plan import LabError, NodePlan, Plan

IMAGE = "xfrmi-lab"
NAT = """\
add table inet lab
add chain inet lab out {{ type nat hook postrouting priority 100; }}
add rule inet lab out oifname "{device}" masquerade
"""
"""What `nat.masquerade` does, for the nft command, which a container has: setup.sh is there to be read."""
CONTAINERFILE = """\
# docker build -t {image} -f Containerfile PATH-TO-A-CLONE-OF-XFRMI
FROM docker.io/library/python:3.13-slim
RUN apt-get update && apt-get install -y --no-install-recommends \\
        iproute2 iputils-ping nftables procps{packages} && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN pip install --no-cache-dir --require-hashes -r /src/requirements/lab.txt \\
        && pip install --no-cache-dir --no-deps --no-build-isolation /src
CMD ["sleep", "infinity"]
"""


FORWARDING = {"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"}
"""Given when the container is made: inside, /proc/sys can only be read."""


def export(plan: Plan, folder: str | Path) -> list[Path]:
    """Write it all into a new or empty folder. Returns the files. LabError, and then nothing is written."""
    target = Path(folder)
    _refuse_what_cannot_be(plan)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise LabError(f"{target}: a new or empty folder was expected")
    files = {target / f"{plan.name}.clab.yml": topology(plan), target / "Containerfile": _containerfile(plan)}
    for node in plan.nodes.values():
        files[target / node.name / "setup.sh"] = _setup(plan, node)
        if node.has_xfrm:
            files[target / node.name / "node.xfrm"] = "".join(f"{line}\n" for _, line in commands_of(plan, node))
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o600 if path.suffix == ".xfrm" else 0o644)
        path.write_text(text)
    if _has_programs(plan):
        shutil.copytree(plan.folder, target / "lab", ignore=shutil.ignore_patterns("*.xfrm", "lab.toml", "README.md"))
    return list(files)


def _refuse_what_cannot_be(plan: Plan) -> None:
    for node in plan.nodes.values():
        for device in node.moved:
            raise node.moved[device].place.error(f"{device} is moved to another node: containers cannot share a device")
        for text in node.run:
            if "/proc/sys" in text.content or "sysctl" in text.content:
                raise text.place.error("run: in a container that is not privileged, /proc/sys can only be read")
    for link in plan.links:
        if link.faults.blackhole:
            raise link.place.error("blackhole: netem has no such thing, so containerlab cannot have it")


def _has_programs(plan: Plan) -> bool:
    return any(node.run or node.start for node in plan.nodes.values())


def _containerfile(plan: Plan) -> str:
    frr = any("frr" in program.word for node in plan.nodes.values() for program in node.start)
    return CONTAINERFILE.format(image=IMAGE, packages=" frr" if frr else "")


def topology(plan: Plan) -> str:
    """The topology file."""
    nodes = {}
    for node in plan.nodes.values():
        binds = [f"{node.name}/setup.sh:/lab-setup.sh:ro"]
        binds += [f"{node.name}/node.xfrm:/etc/xfrmi/node.xfrm:ro"] if node.has_xfrm else []
        binds += ["lab:/lab:ro"] if node.run or node.start else []
        nodes[node.name] = {
            "kind": "linux", "image": IMAGE, "network-mode": "none", "privileged": False,
            "cap-add": ["NET_ADMIN", "NET_RAW"], "devices": ["/dev/net/tun"],
            **({"sysctls": FORWARDING} if node.kind != "host" else {}),
            "binds": binds, "exec": ["sh /lab-setup.sh"],
        }  # fmt: skip
    wired: dict[str, Any] = {"nodes": nodes}
    if plan.links:  # the schema has no empty list of links
        wired["links"] = [{"endpoints": [":".join(link.left), ":".join(link.right)]} for link in plan.links]
    head = f"# {plan.about}\n" if plan.about else ""
    return head + "\n".join(_yaml({"name": plan.name, "topology": wired}, "")) + "\n"


def _setup(plan: Plan, node: NodePlan) -> str:
    return "\n".join(["#!/bin/sh", "set -e", *_setup_lines(plan, node)]) + "\n"


def _setup_lines(plan: Plan, node: NodePlan) -> Iterator[str]:
    for link in plan.links:
        for name, device in (link.left, link.right):
            if name == node.name:
                yield f"ip link set {device} up" + (f" mtu {link.mtu}" if link.mtu else "")
                if link.faults:
                    yield f"tc qdisc add dev {device} root netem {netem(link.faults)}"
    if node.kind == "nat":
        yield f"nft -f - <<'END'\n{NAT.format(device=node.outside)}END"
    if node.has_xfrm:
        yield "xfrmi daemon >/var/log/xfrmi.log 2>&1 &"
        yield "until xfrmi stat >/dev/null 2>&1; do sleep 0.1; done"
        yield "xfrmi -batch /etc/xfrmi/node.xfrm"
    for device, addresses in node.addresses.items():
        for address in addresses:
            yield f"ip address add {address.word} dev {device}" + (" nodad" if ":" in address.word else "")
    for route, _ in node.routes:
        words = [route.kind] if route.kind != "unicast" else []
        words.append(route.destination)
        for word, value in (("via", route.via), ("dev", route.device), ("src", route.source),
                            ("metric", route.metric), ("mtu", route.mtu)):  # fmt: skip
            words += [word, str(value)] if value is not None else []
        yield f"ip {'-6 ' if route.version == 6 else ''}route add {' '.join(words)}"
    if node.run or node.start:
        yield f"cd /lab; export XFRMI_LAB_NODE={node.name} XFRMI_RUNTIME_DIR=/run/xfrmi; mkdir -p /run/xfrmi"
    for text in node.run:
        yield text.content.strip("\n")
    for program in node.start:
        yield f"{program.word} >/var/log/programs.log 2>&1 &"


def netem(faults: Faults) -> str:
    """tc-netem(8)'s words for them. Its reordering lets packets overtake the delay, ours holds one back."""
    words = []
    if faults.delay or faults.jitter or faults.reorder:
        words.append(f"delay {max(faults.delay, 0.001 if faults.reorder else 0.0) * 1000:g}ms")
        words += [f"{faults.jitter * 1000:g}ms"] if faults.jitter else []
    for name in ("loss", "duplicate", "reorder", "corrupt"):
        if chance := getattr(faults, name):
            words.append(f"{name} {chance * 100:g}%")
    words += [f"rate {faults.rate:.0f}bit"] if faults.rate else []
    return " ".join(words)


def _yaml(value: Any, indent: str) -> Iterator[str]:
    """Mappings, lists of strings or mappings, scalars: all that a topology needs. Strings are quoted as JSON does,
    which YAML understands."""
    for key, entry in value.items():
        if isinstance(entry, dict):
            yield f"{indent}{key}:"
            yield from _yaml(entry, indent + "  ")
        elif isinstance(entry, list) and entry and isinstance(entry[0], dict):
            yield f"{indent}{key}:"
            for member in entry:
                first, *rest = _yaml(member, indent + "    ")
                yield f"{indent}  - {first.strip()}"
                yield from rest
        else:
            yield f"{indent}{key}: {json.dumps(entry)}"
