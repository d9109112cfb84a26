"""Settings and devices of this network namespace that get in the way of route-based tunnels."""

from __future__ import annotations

from xfrmi.dev.rtnl import Link
from xfrmi.doctor.finding import Finding, ok, some, warning
from xfrmi.doctor.machine import Machine
from xfrmi.wire.link_types import IFF_UP

STRICT = 1
IPV6_MIN_MTU = 1280
ROOM = 85
"""Bytes a tunnel takes at most: IPv6 40, UDP 8, SPI and number 8, IV 8, padding 3, trailer 2, ICV 16."""

_IFF_LOOPBACK = 0x8
_SHOWN = "sudo sysctl -w net.ipv4"


def rp_filter(machine: Machine) -> Finding:
    """Strict: a packet is dropped unless its way back is where it came from. The stronger of `all` and the device
    counts, and 2 (loose) is stronger than 1."""
    everywhere = machine.sysctl("net/ipv4/conf/all/rp_filter") or 0
    names = [link.name for link in machine.links if not link.flags & _IFF_LOOPBACK]
    strict = [
        name
        for name in [*names, "default"]
        if max(everywhere, machine.sysctl(f"net/ipv4/conf/{name}/rp_filter") or 0) == STRICT
    ]
    if not strict:
        return ok("rp_filter", "not strict")
    where = ["new devices" if name == "default" else name for name in strict]
    text = f"strict on {some(where)}: drops what comes through a tunnel from where no route leads back into it"
    return warning("rp_filter", text, f"{_SHOWN}.conf.all.rp_filter=2")


def linkdown(machine: Machine) -> Finding:
    """While no daemon runs, interfaces have no carrier, and their routes must count all the same."""
    if machine.sysctl("net/ipv4/conf/all/ignore_routes_with_linkdown"):
        text = "ignore_routes_with_linkdown is on for all: without a daemon, packets for a tunnel leave in the clear"
        return warning("linkdown", text, f"{_SHOWN}.conf.all.ignore_routes_with_linkdown=0")
    return ok("linkdown", "routes into an interface count also without a daemon")


def forwarding(machine: Machine) -> Finding:
    """A host needs none; a gateway does."""
    knobs = {"IPv4": "net/ipv4/ip_forward", "IPv6": "net/ipv6/conf/all/forwarding"}
    on = [family for family, knob in knobs.items() if machine.sysctl(knob)]
    if len(on) == len(knobs):
        return ok("forwarding", "on, as a gateway needs it")
    off = [knob.replace("/", ".") + "=1" for family, knob in knobs.items() if family not in on]
    return ok("forwarding", f"{on[0] if on else 'off: a host; a gateway'} needs sudo sysctl -w {' '.join(off)}")


def underlay(machine: Machine) -> Finding:
    """The devices towards the peers, as far as default routes tell; else all that are up."""
    links = _underlay(machine)
    if not links:
        return warning("underlay", "no device is up but lo: no peer can be reached")
    for link in links:
        if link.mtu < IPV6_MIN_MTU:
            text = f"{link.name} has MTU {link.mtu}, and IPv6 needs {IPV6_MIN_MTU}"
            return warning("underlay", text, f"sudo ip link set {link.name} mtu 1500")
    for link in links:
        if link.mtu < IPV6_MIN_MTU + ROOM:
            text = f"{link.name} has MTU {link.mtu}: IPv6 packets of {IPV6_MIN_MTU} in a tunnel go out in fragments"
            return warning("underlay", text, f"sudo ip link set {link.name} mtu 1500")
    return ok("underlay", some([f"{link.name} (MTU {link.mtu})" for link in links]))


def _underlay(machine: Machine) -> list[Link]:
    up = [link for link in machine.links if link.flags & IFF_UP and not link.flags & _IFF_LOOPBACK]
    names = set()
    for line in (machine.read("/proc/net/route") or "").splitlines()[1:]:
        name, destination, *_ = line.split()
        if destination == "00000000":
            names.add(name)
    for line in (machine.read("/proc/net/ipv6_route") or "").splitlines():
        destination, bits, *_, name = line.split()
        if bits == "00" and not destination.strip("0"):
            names.add(name)
    return [link for link in up if link.name in names] or [link for link in up if link.kind != "tun"]
