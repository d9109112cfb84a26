"""What most system tests start from: two hosts with a router between them, a daemon on each, the cables tapped.

      moon eth0 ──[tap]── router ──[tap]── eth0 sun          (both cables carry IPv4 and IPv6)

Everything is built with xfrmi.lab and configured with the lines one would type; `tell` runs such lines in this
process, through the same grammar, sockets and daemon. Use it inside tests.netns.in_netns, which also makes it work
for an ordinary user.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace

from tests.forked import ForkedLab
from tests.netns import need_tun
from tests.oracle.spread import EVERYTHING
from xfrmi.cli.main import run_line
from xfrmi.cli.options import Options
from xfrmi.client import Client
from xfrmi.dev.rtnl import Link, Rtnl
from xfrmi.formats.grammar import split_line
from xfrmi.lab.namespace import sysctl
from xfrmi.lab.topology import Lab, Node
from xfrmi.lab.traffic import PATTERN
from xfrmi.lab.wiretap import ETH_HEADER_LEN, IPPROTO_ESP, Wiretap, kind
from xfrmi.wire.address import format_address, pack_address
from xfrmi.wire.link_types import LinkStats
from xfrmi.wire.xfrm_types import StateId, StateInfo

OUTER = {
    ("moon", 4): "192.0.2.1",
    ("sun", 4): "198.51.100.1",
    ("moon", 6): "2001:db8:1::1",
    ("sun", 6): "2001:db8:2::1",
}
ROUTER = {
    ("moon", 4): "192.0.2.2",
    ("sun", 4): "198.51.100.2",
    ("moon", 6): "2001:db8:1::2",
    ("sun", 6): "2001:db8:2::2",
}
ANY = {4: "0.0.0.0/0", 6: "::/0"}
FULL = {4: 32, 6: 128}
PORT = {"moon": "eth0", "sun": "eth1"}
"""The router's."""
MARKER = b"\x88\xb5"
"""The ethertype for local experiments."""
PEER = {"moon": "sun", "sun": "moon"}


def new_keys() -> dict[str, str]:
    """By sender, in hexadecimal, with the salt of GCM."""
    return {name: secrets.token_hex(20) for name in PEER}


@dataclass(frozen=True)
class Tunnel:
    """One xfrm interface on each host with the same if_id, called `name` on both."""

    name: str
    if_id: int
    outer: int = 4
    mode: str = "tunnel"
    inner: tuple[int, ...] = (4, 6)
    """Families that policies let in."""
    state: str = ""
    """More words for both states: an encapsulation, a mark, a limit."""
    dev: str = ""
    keys: dict[str, str] = field(default_factory=new_keys)

    def rekeyed(self) -> Tunnel:
        """The same with other keys."""
        return replace(self, keys=new_keys())

    def address(self, host: str, family: int) -> str:
        """Inside: 10.0.IF_ID.{1,2}, fd00:IF_ID::{1,2}; in transport mode there is no other address than the outer."""
        if self.mode == "transport":
            return OUTER[host, family]
        number = 1 if host == "moon" else 2
        return f"10.0.{self.if_id}.{number}" if family == 4 else f"fd00:{self.if_id}::{number}"

    def spi(self, sender: str) -> int:
        return self.if_id * 0x100 + (1 if sender == "moon" else 2)

    def link_lines(self) -> str:
        dev = f"dev {self.dev} " if self.dev else ""
        return f"link add {self.name} type xfrm {dev}if_id {self.if_id}\nlink set {self.name} up\n"

    def state_line(self, sender: str, more: str = "") -> str:
        """The state for what `sender` sends; the same line on both hosts."""
        receiver = PEER[sender]
        selector = {"tunnel": "flag af-unspec", "transport": "", "beet": ""}[self.mode]
        if self.mode == "beet":  # the inner addresses are the state's, not the packet's (5.7)
            (family,) = self.inner
            ends = ((word, self.address(host, family)) for word, host in (("src", sender), ("dst", receiver)))
            selector = "sel " + " ".join(f"{word} {address}/{FULL[family]}" for word, address in ends)
        return (
            f"state add src {OUTER[sender, self.outer]} dst {OUTER[receiver, self.outer]} proto esp "
            f"spi {self.spi(sender):#x} reqid {self.if_id} mode {self.mode} replay-window 128 if_id {self.if_id} "
            f"aead rfc4106(gcm(aes)) 0x{self.keys[sender]} 128 {selector} {self.state} {more}\n"
        )

    def policy_line(self, host: str, direction: str, family: int, verb: str = "add") -> str:
        sender = host if direction == "out" else PEER[host]
        template = (
            f"tmpl src {OUTER[sender, self.outer]} dst {OUTER[PEER[sender], self.outer]} proto esp "
            f"reqid {self.if_id} mode {self.mode}"
        )
        return (
            f"policy {verb} src {ANY[family]} dst {ANY[family]} dir {direction} if_id {self.if_id} "
            f"{template if verb == 'add' else ''}\n"
        )

    def lines(self, host: str) -> str:
        """Everything one host is told, in order."""
        policies = "".join(
            self.policy_line(host, direction, family) for family in self.inner for direction in ("out", "in", "fwd")
        )
        return self.link_lines() + self.key_lines() + policies

    def key_lines(self) -> str:
        return self.state_line("moon") + self.state_line("sun")


@dataclass
class Hosts:
    lab: Lab
    moon: Node
    sun: Node
    router: Node
    taps: dict[str, Wiretap]
    """By the host at the end of the cable."""
    daemons: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    @property
    def ends(self) -> tuple[Node, Node]:
        return self.moon, self.sun

    def wire(self, end: str = "sun") -> list[bytes]:
        """Every frame that was on a cable up to now. A marker of ours, sent last, says that nothing is missing."""
        marker = secrets.token_bytes(12) + MARKER
        tap = self.taps[end]
        with self.router, socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
            out.bind((PORT[end], 0))
            out.send(marker.ljust(60, b"\0"))
        eventually(lambda: any(frame.startswith(marker) for frame in tap.frames), "the tap hears nothing")
        return [frame for frame in tap.frames if frame[12:14] != MARKER]

    def esp(self) -> list[bytes]:
        """Those on sun's cable that carry ESP."""
        return [frame for frame in self.wire() if kind(frame) == "ESP"]

    def shown(self) -> list[str]:
        """What an eavesdropper at either cable has learned: test data, or who speaks to whom inside."""
        return [found for end in PORT for found in plaintext(self.wire(end))]

    def clear(self) -> None:
        self.wire()
        for tap in self.taps.values():
            tap.clear()

    def set_up(self, *tunnels: Tunnel) -> None:
        """Key both hosts and give them addresses inside."""
        for host in self.ends:
            tell(host, "".join(tunnel.lines(host.name) for tunnel in tunnels))
            for tunnel in tunnels:
                give_addresses(host, tunnel)


def give_addresses(host: Node, tunnel: Tunnel) -> None:
    if tunnel.mode != "transport":
        prefixes = {4: 30, 6: 64}
        addresses = (f"{tunnel.address(host.name, family)}/{prefixes[family]}" for family in tunnel.inner)
        host.address(tunnel.name, *addresses)


MADE: Callable[[], Lab] = Lab if EVERYTHING else ForkedLab
"""In `make interop` daemons are programs, as everywhere else."""


@contextmanager
def two_hosts(*options: str, daemons: bool = True, make: Callable[[], Lab] = MADE) -> Iterator[Hosts]:
    """Build them; everything is gone at the end of the block. `options` are the daemons'; without any, those in
    XFRMI_TEST_DAEMON (`--workers 2`), so that all of these tests can be tried so. `make` the lab that is to be."""
    need_tun()
    options = options or tuple(os.environ.get("XFRMI_TEST_DAEMON", "").split())
    with make() as lab:
        moon, router, sun = (lab.node(name) for name in ("moon", "router", "sun"))
        for host in (moon, sun):
            here, there = ([f"{table[host.name, 4]}/30", f"{table[host.name, 6]}/64"] for table in (OUTER, ROUTER))
            lab.link(host, "eth0", here, router, PORT[host.name], there)
        router.forward()
        for host in (moon, sun):
            host.route("0.0.0.0/0", via=ROUTER[host.name, 4])
            host.route("::/0", via=ROUTER[host.name, 6])
            with host:  # what arrives by a route that is not the way back is welcome: some tests do that on purpose
                sysctl("net.ipv4.conf.all.rp_filter", 0)
                sysctl("net.ipv4.conf.default.rp_filter", 0)
                sysctl("net.ipv4.conf.eth0.rp_filter", 0)
        with Wiretap(router, PORT["moon"]) as left, Wiretap(router, PORT["sun"]) as right:
            hosts = Hosts(lab, moon, sun, router, {"moon": left, "sun": right})
            if daemons:
                for host in hosts.ends:
                    hosts.daemons[host.name] = host.launch_daemon(*options)
                for host in hosts.ends:
                    host.await_daemon(hosts.daemons[host.name])
            try:
                yield hosts
            except BaseException:
                for host in hosts.ends:
                    print(f"{host.name}'s daemon said:\n{host.last_words(lines=40)}")
                raise


# Asking and telling ------------------------------------------------------------------------------------------------


@contextmanager
def at(host: Node) -> Iterator[Client]:
    """Be on this host, with a connection to its daemon. For one thread only: the environment is everybody's."""
    before = os.environ.get("XFRMI_RUNTIME_DIR")
    os.environ["XFRMI_RUNTIME_DIR"] = str(host.folder)
    try:
        with host, Client() as client:
            yield client
    finally:
        if before is None:
            del os.environ["XFRMI_RUNTIME_DIR"]
        else:
            os.environ["XFRMI_RUNTIME_DIR"] = before


def tell(host: Node, lines: str) -> None:
    """Run these lines on `host` as `xfrmi -batch` would. Raises GrammarError or XfrmError."""
    with at(host) as client:
        for line in lines.splitlines():
            if words := split_line(line):
                run_line(client, Options(), words)


def stat(host: Node) -> dict[str, int]:
    with at(host) as client:
        return client.stat()


@contextmanager
def rises(host: Node, **expected: int) -> Iterator[None]:
    """In the block exactly these counters of xfrm_stat rise, by as much, and no others."""
    before = stat(host)
    yield
    eventually(lambda: _moved(before, stat(host)) == expected, lambda: f"{host.name}: {_moved(before, stat(host))}")


def _moved(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


def counters(host: Node, name: str) -> LinkStats:
    with at(host) as client:
        stats = client.link(name).stats
    assert stats is not None
    return stats


@contextmanager
def device_counts(host: Node, name: str, **expected: int) -> Iterator[None]:
    """In the block exactly these counters of the device rise, by as much, and no others."""
    before = asdict(counters(host, name))
    yield
    eventually(
        lambda: _moved(before, asdict(counters(host, name))) == expected,
        lambda: f"{name} of {host.name}: {_moved(before, asdict(counters(host, name)))}",
    )


def state(host: Node, tunnel: Tunnel, sender: str) -> StateInfo:
    dst = pack_address(OUTER[PEER[sender], tunnel.outer])
    with at(host) as client:
        return client.state(StateId(dst, tunnel.spi(sender)))


def device(host: Node, name: str) -> Link | None:
    """What the kernel says of the TUN, None if there is no such device."""
    with host:
        rtnl = Rtnl()
    with contextlib.closing(rtnl):
        return rtnl.link(name)


def eventually(condition: Callable[[], object], what: str | Callable[[], str], seconds: float = 5.0) -> None:
    """Wait for something that is under way. AssertionError with `what` if it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(what() if callable(what) else what)
        time.sleep(0.02)


# The wire ----------------------------------------------------------------------------------------------------------


def plaintext(frames: list[bytes]) -> list[str]:
    """What an eavesdropper learns: frames that hold test data or that travel between inner addresses."""
    found = []
    for frame in frames:
        if PATTERN[:24] in frame:
            found.append(f"payload in a frame of kind {kind(frame)}")
        elif any(address.startswith(("10.", "fd0")) for address in _addresses(frame)):
            found.append(" -> ".join(_addresses(frame)))
    return found


def _addresses(frame: bytes) -> list[str]:
    packet = frame[ETH_HEADER_LEN:]
    first, size = {b"\x08\x00": (12, 4), b"\x86\xdd": (8, 16)}.get(frame[12:14], (0, 0))
    return [format_address(packet[at : at + size]) for at in (first, first + size)] if size else []


def strangers(frames: list[bytes]) -> dict[str, int]:
    """Kinds of frames on the wire that are neither ESP nor neighbour discovery."""
    counts: dict[str, int] = {}
    for frame in frames:
        name = kind(frame)
        if name == "IPv6 protocol 44" and frame[ETH_HEADER_LEN + 40] == IPPROTO_ESP:
            name = "ESP"  # a fragment of it
        if name not in ("ESP", "neighbour"):
            counts[name] = counts.get(name, 0) + 1
    return counts
