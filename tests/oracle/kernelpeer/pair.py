"""xfrmi at one end, a kernel at the other, a router between them; both are told the same lines.

      moon eth0 ──[tap]── router ──[tap]── eth0 sun          moon runs `xfrmi daemon`, sun is the machine in qemu

Addresses are those of tests.system.hosts. Both ends have ipsec0 with if_id 42 from the start, with an address of each
family inside; states and policies are for a test to add, and `clean` takes them away.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.iproute import ip
from tests.netns import need_tun
from tests.oracle.kernelpeer import kernel
from tests.oracle.kernelpeer.machine import Machine
from tests.system.hosts import OUTER, PORT, ROUTER, at, tell
from xfrmi.formats.listing import parse_stat, parse_states
from xfrmi.lab.namespace import sysctl
from xfrmi.lab.topology import Lab, Node
from xfrmi.lab.wiretap import Wiretap
from xfrmi.wire.xfrm_const import XfrmStat
from xfrmi.wire.xfrm_types import StateInfo

IF_ID = 42
DEVICE = "ipsec0"
NUMBER = {"moon": 1, "sun": 2}
ENCAP_PORT = 4500
UDP_ENCAP, UDP_ENCAP_ESPINUDP = 100, 2
QUIET = ("net.ipv6.conf.default.router_solicitations=0", "net.ipv6.conf.default.accept_dad=0",
         "net.ipv6.conf.default.addr_gen_mode=1", "net.ipv4.conf.default.rp_filter=0",
         "net.ipv4.conf.all.rp_filter=0")  # fmt: skip
"""Neither end says anything inside the tunnel by itself, so that counters can be compared."""


def inner(name: str, family: int, if_id: int = IF_ID) -> str:
    """The address of an end inside."""
    return f"10.0.{if_id}.{NUMBER[name]}" if family == 4 else f"fd00:{if_id}::{NUMBER[name]}"


def device_lines(name: str, device: str, if_id: int) -> str:
    return (
        f"link add {device} type xfrm dev eth0 if_id {if_id}\nlink set {device} up\n"
        f"addr add {inner(name, 4, if_id)}/24 dev {device}\naddr add {inner(name, 6, if_id)}/64 dev {device}\n"
    )


class Moon:
    """Our end: xfrm and its devices are xfrmi's, addresses and routes the host kernel's."""

    name = "moon"

    def __init__(self, node: Node) -> None:
        self.node = node

    def socket(self, family: int, kind: int, protocol: int = 0) -> Any:
        with self.node:
            return socket.socket(family, kind, protocol)

    def tell(self, lines: str) -> None:
        """Lines as one types them behind `ip`. XfrmError, GrammarError or OSError for the first that is refused."""
        ours = ""
        for line in lines.splitlines():
            if line.split()[:1] in (["addr"], ["route"]):
                tell(self.node, ours)
                ours = ""
                with self.node:
                    ip(line)
            else:
                ours += line.removeprefix("xfrm ") + "\n"
        tell(self.node, ours)

    def states(self) -> list[StateInfo]:
        with at(self.node) as client:
            return list(client.states())

    def stat(self) -> dict[str, int]:
        with at(self.node) as client:
            return client.stat()


class Sun:
    """The kernel's end."""

    name = "sun"

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def socket(self, family: int, kind: int, protocol: int = 0) -> Any:
        return self.machine.tell("socket", int(family), int(kind), protocol)

    def tell(self, lines: str) -> None:
        """As Moon's; AssertionError with what `ip` said."""
        status, _, complaint = self.machine.tell("run", "ip", "-batch", "-", text=lines)
        assert status == 0, f"{complaint}\nin:\n{lines}"

    def states(self) -> list[StateInfo]:
        _, shown, _ = self.machine.tell("run", "ip", "-s", "xfrm", "state", "list")
        return parse_states(shown)

    def stat(self) -> dict[str, int]:
        counts = parse_stat(self.machine.tell("read", "/proc/net/xfrm_stat"))
        return {XfrmStat(number).label: count for number, count in enumerate(counts)}


End = Moon | Sun


@dataclass
class Pair:
    lab: Lab
    moon: Moon
    sun: Sun
    router: Node

    @property
    def ends(self) -> tuple[End, End]:
        return self.moon, self.sun

    def tap(self, name: str) -> Wiretap:
        """On the cable to this end."""
        return Wiretap(self.router, PORT[name])

    def router_mac(self, name: str) -> bytes:
        """The router's address on that cable."""
        with self.router, socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind((PORT[name], 0))
            return sock.getsockname()[4]

    def tell(self, lines: Callable[[str], str] | str) -> None:
        """Both ends the same; or each what `lines` says for its name."""
        for end in self.ends:
            end.tell(lines(end.name) if callable(lines) else lines)


@contextmanager
def pair(programs: Iterable[str] = (), encap: bool = True) -> Iterator[Pair]:
    """Build it; skips loudly where no kernel can be booted. Sun has these programs, too; without `encap` nobody has
    opened port 4500 there."""
    need_tun()
    if lack := kernel.lacking():
        pytest.skip(f"THE KERNEL IN QEMU IS NOT TESTED: {lack}")
    with Lab() as lab:
        moon, router = lab.node("moon"), lab.node("router")
        here, there = ([f"{table['moon', 4]}/30", f"{table['moon', 6]}/64"] for table in (OUTER, ROUTER))
        with moon:
            for knob in QUIET:
                sysctl(*knob.split("="))
        lab.link(moon, "eth0", here, router, PORT["moon"], there)
        daemon = moon.launch_daemon()
        machine = Machine(router, PORT["sun"], kernel.folder(), programs)
        try:
            router.address(PORT["sun"], f"{ROUTER['sun', 4]}/30", f"{ROUTER['sun', 6]}/64")
            router.forward()
            moon.await_daemon(daemon)
            for version, everywhere in ((4, "0.0.0.0/0"), (6, "::/0")):
                moon.route(everywhere, via=ROUTER["moon", version])
            built = Pair(lab, Moon(moon), Sun(machine), router)
            _set_up(built)
            if encap:
                _take_esp_in_udp(built.sun)
            yield built
        finally:
            machine.close()


def _set_up(built: Pair) -> None:
    sun = built.sun
    for knob in QUIET:
        name, value = knob.split("=")
        sun.machine.tell("write", "/proc/sys/" + name.replace(".", "/"), value)
    sun.tell(
        f"link set lo up\nlink set eth0 up\naddr add {OUTER['sun', 4]}/30 dev eth0\n"
        f"addr add {OUTER['sun', 6]}/64 dev eth0 nodad\nroute add default via {ROUTER['sun', 4]}\n"
        f"route add ::/0 via {ROUTER['sun', 6]}\n"
    )
    built.tell(lambda name: device_lines(name, DEVICE, IF_ID))


def _take_esp_in_udp(sun: Sun) -> None:
    """What IKE daemons do, so that ESP in UDP is taken for ESP."""
    for family in (socket.AF_INET, socket.AF_INET6):
        encap = sun.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            encap.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        encap.bind(("", ENCAP_PORT))
        encap.setsockopt(socket.IPPROTO_UDP, UDP_ENCAP, UDP_ENCAP_ESPINUDP)


def clean(built: Pair) -> None:
    """Both ends as new: no states, policies or learned path MTUs."""
    built.tell("xfrm state flush\nxfrm policy flush\n")
    for version in ("ipv4", "ipv6"):
        built.sun.machine.tell("write", f"/proc/sys/net/{version}/route/flush", "1")
        for node in (built.moon.node, built.router):
            with node:
                sysctl(f"net.{version}.route.flush", 1)


def last_words(built: Pair) -> str:
    return f"xfrmi said:\n{built.moon.node.last_words(lines=40)}\nthe kernel said:\n{built.sun.machine.last_words()}\n"
