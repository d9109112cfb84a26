"""The two hosts of the demo, keyed by the lines one would type with `ip`."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any

from xfrmi.lab.topology import Lab, Node
from xfrmi.lab.wiretap import Wiretap

OUTER = {"moon": "192.0.2.1", "sun": "198.51.100.1"}

LINK = "link add {name} type xfrm dev eth0 if_id {if_id}\nlink set {name} up\n"

STATE = (
    "state add src {src} dst {dst} proto esp spi {spi:#x} reqid {if_id} mode tunnel flag af-unspec "
    "replay-window 128 if_id {if_id} aead rfc4106(gcm(aes)) 0x{key} 128\n"
)

POLICY = (
    "policy add src {any} dst {any} dir {dir} if_id {if_id} "
    "tmpl src {src} dst {dst} proto esp reqid {if_id} mode tunnel\n"
)


@dataclass
class Tunnel:
    """One pair of xfrm interfaces with the same if_id on both hosts."""

    name: str
    if_id: int
    inner: dict[str, tuple[str, str]]
    """Host name -> its (IPv4, IPv6) address inside."""


IPSEC0 = Tunnel("ipsec0", 42, {"moon": ("10.0.42.1", "fd00:42::1"), "sun": ("10.0.42.2", "fd00:42::2")})
IPSEC1 = Tunnel("ipsec1", 43, {"moon": ("10.0.43.1", "fd00:43::1"), "sun": ("10.0.43.2", "fd00:43::2")})


def spi_of(tunnel: Tunnel, sender: str, generation: int = 0) -> int:
    """0x4201 is moon's first towards sun with if_id 42, 0x4202 sun's; a rekey adds 0x10."""
    return int(f"{tunnel.if_id}", 16) * 0x100 + (1 if sender == "moon" else 2) + 0x10 * generation


@dataclass
class Hosts:
    """Everything the checks need."""

    moon: Node
    sun: Node
    internet: Node
    tap: Wiretap
    """On the router's cable to sun."""
    objects: int = 0

    def batch(self, host: Node, lines: str) -> None:
        """Give `host` these lines, as `ip -batch` would. RuntimeError if one is refused."""
        path = host.folder / "batch"
        path.write_text(lines)
        path.chmod(0o600)
        result = host.xfrmi("-batch", str(path))
        path.unlink()
        if result.returncode:
            raise RuntimeError(f"{host.name}: {result.stderr.strip()}")
        self.objects += lines.count(" add ")

    def counters(self, host: Node) -> dict[str, int]:
        """/proc/net/xfrm_stat, as `xfrmi stat` prints it."""
        text = host.xfrmi("stat").stdout
        return {name: int(value) for name, value in (line.split() for line in text.splitlines())}

    def link(self, host: Node, tunnel: Tunnel) -> dict[str, Any]:
        """The device's counters: {'rx': {...}, 'tx': {...}}."""
        shown = json.loads(host.xfrmi("-s", "--json", "link", "show", tunnel.name).stdout)
        stats: dict[str, Any] = shown[0]["stats64"]
        return stats


def state_lines(tunnel: Tunnel, sender: str, receiver: str, generation: int, key: str) -> str:
    return STATE.format(
        src=OUTER[sender],
        dst=OUTER[receiver],
        spi=spi_of(tunnel, sender, generation),
        if_id=tunnel.if_id,
        key=key,
    )


def new_key() -> str:
    """128 bits of key and 32 of salt, in hex."""
    return secrets.token_hex(20)


def build(lab: Lab) -> Hosts:
    """Namespaces, cables, routes, daemons, keys. Raises OSError or RuntimeError."""
    moon, internet, sun = lab.node("moon"), lab.node("internet"), lab.node("sun")
    lab.link(moon, "eth0", ["192.0.2.1/30"], internet, "eth0", ["192.0.2.2/30"])
    lab.link(internet, "eth1", ["198.51.100.2/30"], sun, "eth0", ["198.51.100.1/30"])
    internet.forward()
    moon.route("0.0.0.0/0", via="192.0.2.2")
    sun.route("0.0.0.0/0", via="198.51.100.2")
    hosts = Hosts(moon, sun, internet, Wiretap(internet, "eth1"))
    try:
        daemons = [(host, host.launch_daemon()) for host in (moon, sun)]
        for host, daemon in daemons:
            host.await_daemon(daemon)
        for tunnel in (IPSEC0, IPSEC1):
            key_both(hosts, tunnel)
    except BaseException:
        hosts.tap.close()
        raise
    return hosts


def key_both(hosts: Hosts, tunnel: Tunnel) -> None:
    """The interface, two states and six policies on each host, then addresses inside."""
    pairs = (("moon", "sun"), ("sun", "moon"))
    states = "".join(state_lines(tunnel, a, b, 0, new_key()) for a, b in pairs)
    for host, (here, there) in zip((hosts.moon, hosts.sun), pairs, strict=True):
        lines = LINK.format(name=tunnel.name, if_id=tunnel.if_id) + states
        for prefix in ("0.0.0.0/0", "::/0"):
            for direction, src, dst in (("out", here, there), ("in", there, here), ("fwd", there, here)):
                lines += POLICY.format(
                    any=prefix, dir=direction, if_id=tunnel.if_id, src=OUTER[src], dst=OUTER[dst]
                )
        hosts.batch(host, lines)
        v4, v6 = tunnel.inner[here]
        host.address(tunnel.name, f"{v4}/30", f"{v6}/64")
