"""xfrmi on moon, strongSwan's libipsec on sun, with keys that two charons have negotiated.

libipsec is told about SAs by IKE only. So both ends begin as charon with libipsec; then moon's charon is killed, which
sun does not notice, and xfrmi goes on with the keys, SPIs and addresses of before. No ESP packet has been sent by then.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from tests.iproute import ip
from tests.oracle.libipsec.charon import Charon, Child, need_charon
from tests.oracle.libipsec.proposals import Proposal
from tests.system.hosts import ANY, FULL, OUTER, PEER, Hosts, at, eventually, tell, two_hosts
from xfrmi.lab.wiretap import ETH_HEADER_LEN, kind
from xfrmi.wire.address import pack_address
from xfrmi.wire.ip import renew_checksum
from xfrmi.wire.xfrm_const import IPPROTO_UDP

INNER = (4, 6)
CREATE_CHILD_SA, INFORMATIONAL = 36, 37
MTU = 1350
"""Of moon's devices: fits with every algorithm. libipsec's own has 1400, which does not, and is fragmented outside."""
SECONDS = 60.0
"""For all negotiations together: they take a fraction of a second."""


@dataclass
class Connection:
    """One CHILD_SA: all of both inner families between one pair of addresses."""

    number: int
    """Its if_id, its reqid, and part of its addresses."""
    proposal: Proposal
    outer: int

    @property
    def name(self) -> str:
        return f"{self.proposal.name}-over{self.outer}"

    @property
    def device(self) -> str:
        """Of xfrmi. libipsec has one device for all."""
        return f"ipsec{self.number}"

    def address(self, host: str, family: int) -> str:
        last = 1 if host == "moon" else 2
        return f"10.{self.outer}.{self.number}.{last}" if family == 4 else f"fd00:{self.outer}:{self.number}::{last}"

    def host_prefix(self, host: str, family: int) -> str:
        return f"{self.address(host, family)}/{FULL[family]}"

    def child_config(self, host: str) -> str:
        local, remote = (", ".join(self.host_prefix(name, family) for family in INNER) for name in (host, PEER[host]))
        start = "start_action = start" if host == "moon" else ""
        return (
            f"{self.name} {{\n esp_proposals = {self.proposal.name}\n mode = tunnel\n rekey_time = 0\n"
            f" local_ts = {local}\n remote_ts = {remote}\n {start}\n}}\n"
        )

    def ends(self, sender: str) -> str:
        return f"src {OUTER[sender, self.outer]} dst {OUTER[PEER[sender], self.outer]}"

    def state_id(self, child: Child, sender: str) -> str:
        spi = child.spis["out" if sender == "moon" else "in"]
        return f"{self.ends(sender)} proto esp spi {spi:#x}"

    def state_line(self, child: Child, sender: str) -> str:
        """As moon's xfrmi is told."""
        return (
            f"state add {self.state_id(child, sender)} reqid {self.number} mode tunnel "
            f"replay-window 128 flag af-unspec {self.proposal.with_keys(child.keys[sender])} "
            f"encap espinudp 4500 4500 0.0.0.0 if_id {self.number}\n"
        )

    def device_lines(self) -> str:
        """The device and its policies."""
        text = f"link add {self.device} type xfrm if_id {self.number}\nlink set {self.device} mtu {MTU} up\n"
        for (sender, direction), family in product((("moon", "out"), ("sun", "in")), INNER):
            text += (
                f"policy add src {ANY[family]} dst {ANY[family]} dir {direction} if_id {self.number} "
                f"tmpl {self.ends(sender)} proto esp reqid {self.number} mode tunnel\n"
            )
        return text


def config(host: str, connections: Sequence[Connection]) -> str:
    """A swanctl.conf with one IKE_SA for each outer family and all their CHILD_SAs."""
    text = "secrets {\n ike {\n secret = 0x00112233445566778899aabbccddeeff\n }\n}\nconnections {\n"
    for outer in (4, 6):
        children = "".join(connection.child_config(host) for connection in connections if connection.outer == outer)
        text += (
            f"over{outer} {{\n version = 2\n mobike = no\n rekey_time = 0\n proposals = aes128-sha256-x25519\n"
            f"local_addrs = {OUTER[host, outer]}\n remote_addrs = {OUTER[PEER[host], outer]}\n"
            f"local {{\n auth = psk\n id = {host}\n }}\n remote {{\n auth = psk\n id = {PEER[host]}\n }}\n"
            f"children {{\n{children}}}\n}}\n"
        )
    return text + "}\n"


@dataclass
class Successor:
    """Keys to follow those in use."""

    child: Child
    turn: bytes
    """The frame that sun waits for: when it has come, libipsec sends with the new keys. If sun has asked for them this
    is moon's answer, else moon's word that the old ones may go; by then it receives with the new ones already."""


@dataclass
class Pair:
    hosts: Hosts
    sun: Charon
    children: dict[str, Child]
    successors: dict[str, Successor]

    def connect(self, connection: Connection) -> None:
        """From now on moon's xfrmi is the other end of this one."""
        child = self.children[connection.name]
        states = "".join(connection.state_line(child, sender) for sender in PEER)
        tell(self.hosts.moon, connection.device_lines() + states)
        with self.hosts.moon:
            for family in INNER:
                here, there = (connection.address(name, family) for name in ("moon", "sun"))
                ip(f"route add {there}/{FULL[family]} dev {connection.device} src {here}")

    @contextmanager
    def counted(self, connection: Connection) -> Iterator[None]:
        """After the block both count the same packets and bytes for both states, but for what charon's socket has lost
        in the block: charon takes one datagram at a time, and on a busy machine its buffer overflows."""
        spis = self.children[connection.name].spis
        lost_before = self._lost_by_charon()
        yield

        def ours() -> dict[int, tuple[int, int]]:
            with at(self.hosts.moon) as client:
                return {s.spi: (s.current.packets, s.current.bytes) for s in client.states() if s.spi in spis.values()}

        def theirs() -> dict[int, tuple[int, int]]:
            return {spi: count for spi, count in self.sun.counts().items() if spi in spis.values()}

        def agree() -> bool:
            (sent, sent_bytes), (taken, taken_bytes) = ours()[spis["out"]], theirs()[spis["out"]]
            lost = self._lost_by_charon() - lost_before
            same = ours()[spis["in"]] == theirs()[spis["in"]]
            return same and sent == taken + lost and (lost > 0 or sent_bytes == taken_bytes)

        eventually(agree, lambda: f"xfrmi {ours()}, libipsec {theirs()}, lost before {self._lost_by_charon()}")
        assert len(ours()) == 2
        assert all(packets for packets, _ in ours().values())

    def _lost_by_charon(self) -> int:
        """UDP datagrams for which no socket of sun's had room; nobody else uses UDP there."""
        with self.hosts.sun:
            v4 = Path("/proc/thread-self/net/snmp").read_text().splitlines()
            v6 = Path("/proc/thread-self/net/snmp6").read_text()
        names, values = (line.split() for line in v4 if line.startswith("Udp:"))
        found = re.search(r"Udp6RcvbufErrors\s+(\d+)", v6)
        assert found is not None
        return int(values[names.index("RcvbufErrors")]) + int(found[1])

    def last_words(self) -> str:
        return f"xfrmi said:\n{self.hosts.moon.last_words(lines=40)}\nlibipsec said:\n{self.sun.last_words()}"


@contextmanager
def pair(connections: Sequence[Connection], initiator: str = "") -> Iterator[Pair]:
    """With an initiator of rekeying each gets a successor, to which sun has not turned yet."""
    need_charon()
    with two_hosts(daemons=False) as hosts:
        for host in hosts.ends:  # libipsec's routes want a local address in the traffic selector
            host.address("lo", *(c.host_prefix(host.name, family) for c in connections for family in INNER))
        daemon = hosts.moon.launch_daemon()
        sun, moon = (Charon(host, config(host.name, connections)) for host in (hosts.sun, hosts.moon))
        sun.load()
        moon.load()
        eventually(lambda: len(moon.children("sun")) == len(connections), moon.last_words, SECONDS)
        children = dict(moon.children("sun"))
        successors = {c.name: negotiate(hosts, sun, moon, c, initiator) for c in connections if initiator}
        moon.kill()
        hosts.moon.await_daemon(daemon)
        yield Pair(hosts, sun, children, successors)


def negotiate(hosts: Hosts, sun: Charon, moon: Charon, connection: Connection, initiator: str) -> Successor:
    """New keys for one in use. What moon says never gets to sun by itself: its request, if it has to ask, is handed on;
    what it says last is kept."""
    to_sun = next(frame for frame in hosts.wire("sun") if _exchange(frame, connection.outer))[:ETH_HEADER_LEN]

    def said(exchange: int) -> bytes:
        """By moon, and whole: what travels a virtual cable has no checksum yet."""
        frames = [frame for frame in hosts.wire("moon") if _exchange(frame, connection.outer) == exchange]
        if not frames:
            return b""
        packet = bytearray(frames[-1][ETH_HEADER_LEN:])
        renew_checksum(packet)
        return to_sun + packet

    before = len(moon.children("sun"))
    blackhole = f"blackhole {OUTER['sun', connection.outer]}/{FULL[connection.outer]}"
    with hosts.router:
        ip(f"route add {blackhole}")
    hosts.clear()
    last = CREATE_CHILD_SA
    if initiator == "moon":
        moon.rekey(connection.name)
        eventually(lambda: said(CREATE_CHILD_SA), "moon does not ask")
        hosts.taps["sun"].inject(said(CREATE_CHILD_SA))
        last = INFORMATIONAL
    else:
        sun.rekey(connection.name)
    eventually(lambda: len(moon.children("sun")) > before, moon.last_words, SECONDS)
    eventually(lambda: said(last), "moon does not say its last word")
    with hosts.router:
        ip(f"route del {blackhole}")
    return Successor(moon.children(PEER[initiator])[-1][1], said(last))


def spi_in_udp(frame: bytes) -> int | None:
    """The SPI of ESP in UDP, 0 for IKE on the same port, None for what is no UDP."""
    family = {f"IPv{family} protocol {IPPROTO_UDP}": family for family in INNER}.get(kind(frame))
    if family is None:
        return None
    at = ETH_HEADER_LEN + {4: 28, 6: 48}[family]
    return int.from_bytes(frame[at : at + 4], "big")


def _exchange(frame: bytes, outer: int) -> int:
    """The type of exchange, if it is IKE behind the marker, from moon; else 0."""
    at, address = ETH_HEADER_LEN + {4: 12, 6: 8}[outer], pack_address(OUTER["moon", outer])
    if spi_in_udp(frame) != 0 or frame[at : at + len(address)] != address:
        return 0
    return frame[ETH_HEADER_LEN + {4: 28, 6: 48}[outer] + 4 + 18]
