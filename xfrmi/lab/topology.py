"""Hosts and the cables between them: named nodes in anonymous namespaces, veth pairs, addresses, routes.

    with Lab() as lab:
        moon, sun = lab.node("moon"), lab.node("sun")
        lab.link(moon, "eth0", ["192.0.2.1/30"], sun, "eth0", ["192.0.2.2/30"], faults=Faults(delay=0.02))
        with moon: socket.create_connection(("192.0.2.2", 80))

Leaving the block stops the programs started in the nodes and lets the namespaces go.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from xfrmi.lab.faults import Faults
from xfrmi.lab.namespace import Namespace, sysctl, xfrmi_command
from xfrmi.lab.registry import COUNTS
from xfrmi.lab.routes import Route
from xfrmi.lab.wire import open_tap

RTN_LOCAL = 2
STOP_SECONDS = 5.0
"""A program has this long to end by itself after SIGTERM."""
LONGEST_TMPDIR = 56
"""Control sockets lie below it, and the path of a socket has at most 107 bytes."""


class Node(Namespace):
    """A host: a network namespace with a name, its programs, and a place for their sockets and logs."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__()
        self.name = name
        self.folder = folder / name
        self.folder.mkdir(mode=0o700)
        self.programs: list[subprocess.Popen[str]] = []
        with self:
            self._netlink = _netlink()
            # No host here has a router that advertises; asking for one would be traffic that nobody made.
            sysctl("net.ipv6.conf.default.router_solicitations", 0)
        self._netlink.link("set", index=1, state="up")

    @property
    def env(self) -> dict[str, str]:
        """For programs of this node: their control sockets lie in the lab's own folder."""
        return {**os.environ, "XFRMI_RUNTIME_DIR": str(self.folder), "XFRMI_LAB_NODE": self.name}

    def address(self, device: str, *addresses: str) -> None:
        """Addresses with prefix length; IPv6 ones are usable at once (no duplicate address detection)."""
        index = self._index(device)
        for text in addresses:
            interface = ipaddress.ip_interface(text)
            self._netlink.addr(
                "add",
                index=index,
                address=str(interface.ip),
                prefixlen=interface.network.prefixlen,
                **({"flags": 0x02} if interface.version == 6 else {}),  # IFA_F_NODAD
            )
            if interface.version == 6:
                self._await_own(str(interface.ip))

    def _await_own(self, address: str, timeout: float = 2.0) -> None:
        """An IPv6 address works only when the kernel has got around to its local route, a moment after it was added."""
        from pyroute2.netlink.exceptions import NetlinkError

        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            with contextlib.suppress(NetlinkError):  # no route at all yet
                (answer,) = self._netlink.route("get", dst=address, family=socket.AF_INET6)
                if answer["type"] == RTN_LOCAL:
                    return
            time.sleep(0.002)

    def route(self, destination: str, *, via: str | None = None, device: str | None = None) -> None:
        self.add_route(Route(destination, via, device))

    def add_route(self, route: Route) -> None:
        """As a lab file has it. NetlinkError if the kernel refuses."""
        self._netlink.route(
            "add",
            dst=route.destination,
            family=socket.AF_INET6 if route.version == 6 else socket.AF_INET,
            type=route.kind,
            **({"gateway": route.via} if route.via else {}),
            **({"oif": self._index(route.device)} if route.device else {}),
            **({"prefsrc": route.source} if route.source else {}),
            **({"priority": route.metric} if route.metric is not None else {}),
            **({"metrics": {"mtu": route.mtu}} if route.mtu is not None else {}),
        )

    def forward(self) -> None:
        """Be a router, for both families."""
        with self:
            sysctl("net.ipv4.ip_forward", 1)
            sysctl("net.ipv6.conf.all.forwarding", 1)

    def up(self, device: str, mtu: int | None = None) -> None:
        self._netlink.link("set", index=self._index(device), state="up", **({"mtu": mtu} if mtu else {}))

    def start(self, command: Sequence[str], log: str = "log", cwd: str | None = None) -> subprocess.Popen[str]:
        """Start a program here; what it prints is in `folder`/`log`."""
        with open(self.folder / log, "ab") as output:
            program = self.popen(command, stdout=output, stderr=output, env=self.env, cwd=cwd)
        self.programs.append(program)
        return program

    def start_daemon(self, *options: str, timeout: float = 10.0) -> subprocess.Popen[str]:
        """`xfrmi daemon` in this node, ready to be asked. RuntimeError with its last words if it does not come up."""
        return self.await_daemon(self.launch_daemon(*options), timeout)

    def launch_daemon(self, *options: str) -> subprocess.Popen[str]:
        """The first half of `start_daemon`: several daemons come up in the time of one."""
        return self.start(xfrmi_command("daemon", *options), "daemon.log")

    def await_daemon(self, program: subprocess.Popen[str], timeout: float = 10.0) -> subprocess.Popen[str]:
        """The second half."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and program.poll() is None:
            if self._daemon_listens():
                return program
            time.sleep(0.01)
        raise RuntimeError(f"xfrmi daemon did not start on {self.name}: {self.last_words() or 'it said nothing'}")

    def _daemon_listens(self) -> bool:
        """A connection to its last socket is taken; what a killed daemon left there takes none."""
        for path in self.folder.glob("*/json"):
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(path))
                return True
        return False

    def xfrmi(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the xfrmi command here, to its end."""
        return self.run(xfrmi_command(*arguments), env=self.env)

    def last_words(self, log: str = "daemon.log", lines: int = 5) -> str:
        try:
            return "\n".join((self.folder / log).read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def stop(self, program: subprocess.Popen[str]) -> int:
        """SIGTERM, then SIGKILL after a while. Returns its exit status."""
        if program.poll() is None:
            program.terminate()
            try:
                program.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()
        if program in self.programs:
            self.programs.remove(program)
        return program.returncode

    def close(self) -> None:
        for program in self.programs:  # all at once, then wait for each
            with contextlib.suppress(ProcessLookupError):
                program.terminate()
        for program in list(self.programs):
            self.stop(program)
        with contextlib.suppress(OSError):
            self._netlink.close()
        super().close()

    def _index(self, device: str) -> int:
        found = self._netlink.link_lookup(ifname=device)
        if not found:
            raise ValueError(f'{self.name} has no device "{device}"')
        return int(found[0])


class Lab:
    """A set of nodes that come and go together."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` is an empty directory of this user alone, and goes with the lab; by default a new one."""
        deep = len(tempfile.gettempdir()) > LONGEST_TMPDIR
        self.folder = folder or Path(tempfile.mkdtemp(prefix="xfrmi-lab-", dir="/tmp" if deep else None))
        self.nodes: list[Node] = []
        self._taps: list[int] = []

    def node(self, name: str) -> Node:
        node = Node(name, self.folder)
        self.nodes.append(node)
        return node

    def link(
        self,
        left: Node,
        left_device: str,
        left_addresses: Iterable[str],
        right: Node,
        right_device: str,
        right_addresses: Iterable[str],
        *,
        mtu: int | None = None,
        faults: Faults | None = None,
        changeable: bool = False,
        name: str = "",
    ) -> subprocess.Popen[str] | None:
        """A cable: a veth pair, both ends up, with their addresses. With faults, or if it is to be
        changeable, two TAP devices and a process between them, which is returned; its files are in the lab's folder
        under `name`."""
        process = None
        if faults or changeable:
            process = self._wire(left, left_device, right, right_device, faults or Faults(), name)
        else:
            left._netlink.link(
                "add", ifname=left_device, kind="veth", peer={"ifname": right_device, "net_ns_fd": right.fd}
            )
        for node, device, addresses in ((left, left_device, left_addresses), (right, right_device, right_addresses)):
            with node:
                sysctl(f"net.ipv6.conf.{device}.accept_dad", 0)
            node.up(device, mtu)
            node.address(device, *addresses)
        return process

    def _wire(
        self, left: Node, left_device: str, right: Node, right_device: str, faults: Faults, name: str
    ) -> subprocess.Popen[str]:
        ends = []
        for node, device in ((left, left_device), (right, right_device)):
            with node:
                ends.append(open_tap(device))
        self._taps += ends  # should the process end, the devices stay, with their addresses
        stem = str(self.folder / (name or f"{left.name}.{left_device}-{right.name}.{right_device}"))
        command = [sys.executable, "-m", "xfrmi.lab.wire", *map(str, ends), stem, json.dumps(asdict(faults))]
        with open(f"{stem}{COUNTS}", "wb") as counts, open(left.folder / "wire.log", "ab") as log:
            process = left.popen(command, stdout=counts, stderr=log, pass_fds=ends)
        left.programs.append(process)
        return process

    def close(self, and_folder: bool = True) -> None:
        for node in self.nodes:
            node.close()
        self.nodes.clear()
        for tap in self._taps:
            os.close(tap)
        self._taps.clear()
        if and_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _netlink() -> Any:
    from pyroute2 import IPRoute  # here: its import takes a quarter of a second

    return IPRoute()
