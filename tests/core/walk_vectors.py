"""Captures of a Linux kernel's xfrm interface (tests/vectors/kernel/walks_*.json) as cases, and their machine.

The machine has 192.0.2.2 and 2001:db8::2 on eth0, xfrm0 (`dev eth0 if_id 42`) with 198.51.100.1 and 2001:db8:1::1, and
xfrm1 with if_id 43. Nobody listens for acquires.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xfrmi.core import Engine, Interface
from xfrmi.core.router import StaticRouter
from xfrmi.formats.grammar import parse, split_line
from xfrmi.formats.requests import AddPolicy, AddState
from xfrmi.wire.address import pack_address
from xfrmi.wire.ip import checksum, ipv4_header_checksum, pseudo_header_sum
from xfrmi.wire.xfrm_const import IPPROTO_UDP, XfrmStat

VECTORS = Path(__file__).parents[1] / "vectors" / "kernel"

ETH0, XFRM0, XFRM1 = 2, 4, 5
OWN = ("192.0.2.2", "2001:db8::2", "198.51.100.1", "2001:db8:1::1")
NOW = 1_700_000_000.0
LINK_COUNTERS = {
    "rx_packets": "rx_packets", "rx_bytes": "rx_bytes", "rx_errors": "rx_errors", "rx_dropped": "rx_dropped",
    "tx_packets": "tx_packets", "tx_bytes": "tx_bytes", "tx_errors": "tx_errors", "tx_dropped": "tx_dropped",
    "tx_carrier_errors": "tx_carrier", "tx_aborted_errors": "tx_aborted", "tx_collisions": "collisions",
}  # fmt: skip


@dataclass
class Sent:
    """Packets put into xfrm0, and what the kernel did with them."""

    id: str
    continues: bool
    """Without a flush: on the machine as the vector before left it."""
    setup: list[str]
    refused: str
    """The kernel's answer to the last command of `setup`, empty for success."""
    path_mtu: int
    inner: list[bytes]
    stat: dict[str, int]
    link: dict[str, int]
    lengths: list[int]
    heads: list[bytes]
    """First bytes of what left; fewer than `lengths` where only the first was kept."""
    answers: list[bytes]
    """ICMP errors to the sender, as far as captured, cut to 128 bytes."""


@dataclass
class Arrival:
    label: str
    outer: bytes
    delivered: list[bytes]
    """As seen on xfrm0, before any policy was asked."""
    heard: int | None
    """How many payloads a local socket got; None where nobody looked."""
    stat: dict[str, int] = field(default_factory=dict)
    link: dict[str, int] | None = None
    """None: the capture has only the sum over all packets."""
    sa: dict[str, int] = field(default_factory=dict)


@dataclass
class Received:
    id: str
    setup: list[str]
    packets: list[Arrival]
    stat: dict[str, int]
    """Sums over all packets, where the capture has nothing finer."""
    link: dict[str, int]
    after: list[int] | None
    """Of the state: bytes, packets, replay-window, replay, failed. None: it is gone."""


def sent() -> list[Sent]:
    cases = []
    for vector in json.loads((VECTORS / "walks_out.json").read_text())["vectors"]:
        inner = [_packet(packet) for packet in vector["inner"]]
        if "resized" in vector:
            first, last = vector["resized"]
            inner = [resized(inner[0], length) for length in range(first, last + 1)]
        outer = vector.get("outer", [])
        lengths = [length for length, _ in outer]
        lengths += [length for length, count in vector.get("outer_lengths", []) for _ in range(count)]
        heads = [head for _, head in outer] or ([vector["outer_head"]] if "outer_head" in vector else [])
        cases.append(
            Sent(
                vector["id"], "continues" in vector, vector.get("setup", []), vector.get("refused", ""),
                vector.get("path_mtu", 1500), inner, vector["stat"], vector["link"], lengths,
                [bytes.fromhex(head) for head in heads], [bytes.fromhex(a) for a in vector.get("answers", [])],
            )
        )  # fmt: skip
    return cases


def received() -> list[Received]:
    document = json.loads((VECTORS / "walks_in.json").read_text())
    return [
        Received(
            vector["id"],
            vector["state"] + document["policies"][vector["policies"]],
            [
                Arrival(
                    packet["label"], bytes.fromhex(packet["outer"]), [bytes.fromhex(p) for p in packet["delivered"]],
                    packet.get("heard"), packet.get("stat", {}), packet.get("link"), packet.get("sa", {}),
                )
                for packet in vector["packets"]
            ],
            vector.get("stat", {}),
            vector.get("link", {}),
            vector.get("after"),
        )
        for vector in document["vectors"]
    ]  # fmt: skip


class Machine:
    """The machine of the captures, made of an Engine."""

    def __init__(self) -> None:
        self.router = StaticRouter(1500, {pack_address(address) for address in OWN}, ETH0)
        self.engine = Engine(self.router, kernel_quirks=True)
        self.xfrm0 = self.engine.add_interface("xfrm0", 42, link=ETH0)
        self.xfrm0.ifindex = XFRM0
        self.engine.add_interface("xfrm1", 43, link=ETH0).ifindex = XFRM1

    def run(self, command: str) -> None:
        """One `ip xfrm` command. Raises XfrmError."""
        request = parse(split_line(f"ip xfrm {command}"))
        if isinstance(request, AddState):
            self.engine.add_state(request.info, NOW)
        else:
            assert isinstance(request, AddPolicy)
            self.engine.add_policy(request.info, NOW)

    def counters(self) -> dict[str, int]:
        """Every counter that is not 0: of /proc/net/xfrm_stat, and of xfrm0 as `ip -s -s link` names them."""
        found = {stat.label: self.engine.stats[stat] for stat in XfrmStat}
        found |= device_counters(self.xfrm0)
        return {name: value for name, value in found.items() if value}


def device_counters(interface: Interface) -> dict[str, int]:
    return {name: getattr(interface, ours) for name, ours in LINK_COUNTERS.items()}


def moved(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """The counters that rose, and by how much."""
    return {name: after.get(name, 0) - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}


def resized(packet: bytes, length: int) -> bytes:
    """The same UDP datagram with so many zeros that the packet becomes `length` long."""
    version = packet[0] >> 4
    start = 20 if version == 4 else 40
    addresses = packet[12:20] if version == 4 else packet[8:40]
    udp = packet[start : start + 4] + (length - start).to_bytes(2, "big") + bytes(2)
    udp = udp.ljust(length - start, b"\0")
    check = checksum(udp, pseudo_header_sum(addresses, IPPROTO_UDP, len(udp)))
    udp = udp[:6] + check.to_bytes(2, "big") + udp[8:]
    if version == 6:
        return packet[:4] + len(udp).to_bytes(2, "big") + packet[6:start] + udp
    header = packet[:2] + length.to_bytes(2, "big") + packet[4:start]
    return header[:10] + ipv4_header_checksum(header).to_bytes(2, "big") + header[12:] + udp


def _packet(form: Any) -> bytes:
    if isinstance(form, str):
        return bytes.fromhex(form)
    head, length = form
    return bytes.fromhex(head).ljust(length, b"\0")
