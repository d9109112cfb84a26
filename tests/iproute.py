"""The handful of iproute2 command lines that tests use, carried out with pyroute2: no `ip` needed to run the tests.

Only what the tests say is understood; anything else is a KeyError or ValueError, loudly.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

IFA_F_NODAD = 2
RTAX_MTU = 2
RTN_TYPES = {"local": 2, "multicast": 5, "blackhole": 6, "unreachable": 7, "prohibit": 8}
TABLES = {"local": 255, "main": 254}


def ip(command: str) -> None:
    """`link add|set|del`, `address add|del`, `route add|append|replace|del`, `rule add`, in our namespace. OSError."""
    words = command.split()
    family = {"-4": socket.AF_INET, "-6": socket.AF_INET6}.get(words[0])
    if family is not None:
        words.pop(0)
    what, verb, *rest = words
    with IPRoute() as netlink:
        try:
            {"link": _link, "addr": _address, "address": _address, "route": _route, "rule": _rule}[what](
                netlink, verb, rest, family
            )
        except NetlinkError as error:
            raise OSError(error.code, f"ip {command}: {error}") from None


def _index(netlink: IPRoute, name: str) -> int:
    found = netlink.link_lookup(ifname=name)
    if not found:
        raise OSError(19, f'Cannot find device "{name}"')
    return int(found[0])


def _link(netlink: IPRoute, verb: str, words: list[str], family: int | None) -> None:
    if verb == "add":  # NAME type veth peer name NAME
        name, _, kind, _, _, peer = words
        netlink.link("add", ifname=name, kind=kind, peer={"ifname": peer})
        return
    words = words[1:] if words[0] == "dev" else words
    index = _index(netlink, words.pop(0))
    if verb in ("del", "delete"):
        netlink.link("del", index=index)
        return
    changes: dict[str, Any] = {}
    fd = -1
    while words:
        word = words.pop(0)
        if word in ("up", "down"):
            changes["state"] = word
        elif word == "netns":
            place = words.pop(0)
            if place.isdigit():
                changes["net_ns_pid"] = int(place)
            else:
                fd = changes["net_ns_fd"] = os.open(place if "/" in place else f"/run/netns/{place}", os.O_RDONLY)
        else:
            key = {"mtu": "mtu", "txqueuelen": "txqlen", "name": "ifname", "alias": "ifalias"}[word]
            value = words.pop(0)
            changes[key] = value if key.startswith("if") else int(value)
    try:
        netlink.link("set", index=index, **changes)
    finally:
        if fd >= 0:
            os.close(fd)


def _address(netlink: IPRoute, verb: str, words: list[str], family: int | None) -> None:
    interface = ipaddress.ip_interface(words.pop(0))
    options: dict[str, Any] = {"flags": IFA_F_NODAD} if "nodad" in words else {}
    device = words[words.index("dev") + 1]
    netlink.addr(
        "add" if verb == "add" else "del",
        index=_index(netlink, device),
        address=str(interface.ip),
        prefixlen=interface.network.prefixlen,
        **options,
    )


def _route(netlink: IPRoute, verb: str, words: list[str], family: int | None) -> None:
    options: dict[str, Any] = {}
    metrics: dict[str, int] = {}
    if words[0] in RTN_TYPES:
        options["type"] = RTN_TYPES[words.pop(0)]
        if options["type"] == RTN_TYPES["local"]:
            options |= {"table": TABLES["local"], "scope": 254}
    destination = words.pop(0)
    if destination == "default":
        destination = "::/0" if family == socket.AF_INET6 else "0.0.0.0/0"
    options["dst"] = destination
    options["family"] = socket.AF_INET6 if ":" in destination else socket.AF_INET
    while words:
        word, value = words.pop(0), words.pop(0)
        if word == "dev":
            options["oif"] = _index(netlink, value)
        elif word == "via":
            options["gateway"] = value
        elif word == "table":
            options["table"] = TABLES.get(value) or int(value)
        elif word == "mtu":
            locked = {"lock": 1 << RTAX_MTU} if value == "lock" else {}
            metrics |= {"mtu": int(words.pop(0) if locked else value), **locked}
        elif word == "hoplimit":
            metrics["hoplimit"] = int(value)
        else:
            options[{"metric": "priority", "src": "prefsrc"}[word]] = int(value) if word == "metric" else value
    if metrics:
        options["metrics"] = metrics
    netlink.route(verb if verb != "delete" else "del", **options)


def _rule(netlink: IPRoute, verb: str, words: list[str], family: int | None) -> None:
    options = dict(zip(words[::2], words[1::2], strict=True))
    netlink.rule(
        verb, family=family or socket.AF_INET, fwmark=int(options["fwmark"], 0), table=int(options["table"])
    )
