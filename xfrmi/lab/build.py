"""A plan becomes a lab: nodes and links, daemons, what each is told, addresses, routes, programs.

Everything is made in the calling process's network namespaces and lives as long as the Lab. What the machine or the
emulator refuses is a LabError that names the place in the lab file; the caller closes the Lab, and nothing is left.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from xfrmi.lab.namespace import xfrmi_command
from xfrmi.lab.nat import masquerade
from xfrmi.lab.plan import LabError, NodePlan, Place, Plan
from xfrmi.lab.topology import Lab, Node

FAILED_LINE = re.compile(r"^Command failed .*:(\d+)$")
DAEMON_SECONDS = 30.0
"""A daemon has this long to come up, on a machine with other things to do."""


@dataclass
class Built:
    """What there is now."""

    lab: Lab
    nodes: dict[str, Node] = field(default_factory=dict)
    programs: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    """What is to go on running, by a name for people: "moon: xfrmi daemon"."""
    supervised: bool = True
    """Whether programs in nodes may run under `xfrmi exec`, as far as it has been tried."""


def build(plan: Plan, lab: Lab) -> Built:
    """Raises LabError, and OSError where the machine is at fault."""
    built = Built(lab)
    for planned in plan.nodes.values():
        built.nodes[planned.name] = lab.node(planned.name)
    _links(plan, built)
    with_xfrm = [planned for planned in plan.nodes.values() if planned.has_xfrm]
    for planned in with_xfrm:
        built.programs[f"{planned.name}: xfrmi daemon"] = built.nodes[planned.name].launch_daemon(*_keep(planned))
    for planned in plan.nodes.values():
        _forward(planned, built.nodes[planned.name])
    for planned in with_xfrm:
        try:
            built.nodes[planned.name].await_daemon(built.programs[f"{planned.name}: xfrmi daemon"], DAEMON_SECONDS)
        except RuntimeError as error:
            raise planned.place.error(str(error)) from None
    _tell(plan, with_xfrm, built)
    for planned in plan.nodes.values():
        _move(planned, built)
    for planned in plan.nodes.values():
        _addresses(planned, built.nodes[planned.name])
    for planned in plan.nodes.values():
        _routes(planned, built.nodes[planned.name])
    for planned in plan.nodes.values():
        _programs(plan, planned, built)
    return built


def _links(plan: Plan, built: Built) -> None:
    for link in plan.links:
        (left, left_device), (right, right_device) = link.left, link.right
        with _blamed(link.place, f"link {link.name}"):
            process = built.lab.link(
                built.nodes[left], left_device, (), built.nodes[right], right_device, (),
                mtu=link.mtu, faults=link.faults, changeable=link.changeable, name=link.file_name,
            )  # fmt: skip
        if process is not None:
            built.programs[f"link {link.name}"] = process


def _forward(planned: NodePlan, node: Node) -> None:
    if planned.kind != "host":
        node.forward()
    if planned.kind == "nat":
        try:
            with node:
                masquerade(planned.outside)
        except OSError as error:
            raise planned.place.error(f"this machine makes no NAT: {error.strerror}") from None


def _tell(plan: Plan, with_xfrm: list[NodePlan], built: Built) -> None:
    """Interfaces, states and policies, all nodes at once."""
    begun = []
    for planned in with_xfrm:
        commands = list(commands_of(plan, planned))
        node = built.nodes[planned.name]
        path = node.folder / "xfrm"
        path.touch(0o600)  # there are keys in it
        path.write_text("".join(f"{line}\n" for _, line in commands))
        process = node.popen(xfrmi_command("-batch", str(path)), stderr=subprocess.PIPE, env=node.env)
        begun.append((process, path, commands))
    results = [(process.communicate()[1], process, path, commands) for process, path, commands in begun]
    for said, process, path, commands in results:
        path.unlink()
        if process.returncode:
            raise _refused(said, commands)


def commands_of(plan: Plan, planned: NodePlan) -> Iterator[tuple[Place, str]]:
    """Lines for the daemon, each with the place of the one it is made of."""
    for netdev, place in planned.interfaces:
        dev = "" if netdev.independent else f"dev {plan.devices(planned.name)[0]} "
        yield place, f"link add {netdev.name} type xfrm {dev}if_id {netdev.if_id}"
        yield place, f"link set {netdev.name} up" + (f" mtu {netdev.mtu}" if netdev.mtu else "")
    for text in planned.xfrm:
        for number, line in text.commands():
            yield text.place.below(number - 1), line


def _refused(said: str, commands: list[tuple[Place, str]]) -> LabError:
    lines = said.splitlines()
    failed = FAILED_LINE.match(lines[-1]) if lines else None
    if not failed:
        return LabError(f"xfrmi -batch: {_last(said)}")
    place, _ = commands[int(failed[1]) - 1]
    return place.error(" ".join(line.removeprefix("xfrmi: ").removeprefix("Error: ") for line in lines[:-1]))


def _keep(planned: NodePlan) -> list[str]:
    """Options of a daemon that is to write into what it has moved away."""
    return ["--keep", "sys_admin"] if planned.moved else []


def _move(planned: NodePlan, built: Built) -> None:
    for device, target in planned.moved.items():
        there = built.nodes[target.word]
        done = built.nodes[planned.name].xfrmi("link", "set", device, "netns", f"/proc/{os.getpid()}/fd/{there.fd}")
        if done.returncode:
            raise target.place.error(_last(done.stderr))
        there.up(device)


def _addresses(planned: NodePlan, node: Node) -> None:
    for device, addresses in planned.addresses.items():
        for address in addresses:
            with _blamed(address.place, f"address {address.word} on {device}"):
                node.address(device, address.word)


def _routes(planned: NodePlan, node: Node) -> None:
    for route, place in planned.routes:
        with _blamed(place, f"route {route.destination}"):
            node.add_route(route)


def _programs(plan: Plan, planned: NodePlan, built: Built) -> None:
    node = built.nodes[planned.name]
    if planned.has_xfrm and (planned.run or planned.start) and built.supervised:
        built.supervised = node.run(under_exec(["true"]), env=node.env).returncode == 0

    def shell(line: str) -> list[str]:
        command = ["sh", "-c", line]
        return under_exec(command) if planned.has_xfrm and built.supervised else command

    for text in planned.run:
        for number, line in text.commands():
            if line.strip() and not line.lstrip().startswith("#"):
                done = node.run(shell(line), env=node.env, cwd=str(plan.folder))
                if done.returncode:
                    said = _last(done.stderr or done.stdout)
                    raise text.error(number, f"{line.strip()}: exit status {done.returncode}: {said}")
    for program in planned.start:
        log = f"{program.word.split()[0].rpartition('/')[2]}.log"
        name = f"{planned.name}: {program.word}"
        built.programs[name] = node.start(shell(f"exec {program.word}"), log, cwd=str(plan.folder))


def under_exec(command: Sequence[str]) -> list[str]:
    return xfrmi_command("exec", "--", *command)


@contextmanager
def _blamed(place: Place, what: str) -> Iterator[None]:
    """Whatever is refused in the block is about this place."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except NetlinkError as error:
        raise place.error(f"{what}: {error.args[1] if len(error.args) > 1 else error}") from None
    except (OSError, ValueError) as error:
        raise place.error(f"{what}: {error}") from None


def _last(said: str) -> str:
    lines = said.strip().splitlines()
    return lines[-1].removeprefix("xfrmi: ") if lines else "it said nothing"
