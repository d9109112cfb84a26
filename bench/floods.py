"""What a flood leaves of legitimate traffic, beside what an equal load of valid packets leaves of it.

    python -m bench.floods [--rounds 5] [--seconds 0.5] [name ...]

Every fourth packet that reaches the daemon is of a tunnel that is to live; the others are the flood, or valid packets
of another tunnel: `share` is the first rate over the second. Packets come as fast as they can be sent, so that the
daemon is never idle. Meanwhile somebody asks the daemon for something every 20 ms: `control` is the slowest answer.
Of all rounds the median is told, and in brackets the lowest and the highest.

Clients that shout, stall or never read, and storms of new flows, are measured likewise, against the same load without
them, or with flows that have a state.
"""

from __future__ import annotations

import argparse
import secrets
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

from bench.cable import OUTER, cable
from bench.datagrams import Sink
from bench.memory import resident
from bench.shouters import PORT
from tests.core.packets import udp
from tests.system.hosts import at
from xfrmi.client import Client
from xfrmi.lab.namespace import xfrmi_command
from xfrmi.lab.preflight import prepare
from xfrmi.lab.topology import Node
from xfrmi.wire.ip import checksum
from xfrmi.wire.link_types import IFF_UP, LinkInfo
from xfrmi.wire.xfrm_const import STATE_AF_UNSPEC, Dir, Mode
from xfrmi.wire.xfrm_types import Algorithm, PolicyInfo, Selector, StateInfo, Template

MOON, SUN = OUTER[4]
PACKETS = 4096
SIZE = 100
"""Bytes of payload."""
WARM = 0.4
"""Seconds before a flood is looked at."""
ASK_EVERY = 0.02
LIVE, OTHER, REPLAYED = 1, 2, 3
"""if_id: of what is to live; of the load it is compared with; of a tunnel with a replay window."""
STORMED = 4
"""if_id of a device with a policy in transport mode, and no state."""


class Look(NamedTuple):
    rate: float
    """Packets of the tunnel that is to live, a second."""
    control: float
    """Seconds: the slowest answer."""
    memory: float
    """MB by which the daemon has grown."""
    counted: dict[str, int]
    """Counters that rose."""


Flood = Callable[[list[bytes], list[bytes]], list[bytes]]
"""(valid packets of the other tunnel, one packet of the one with a window) -> what floods."""


def unknown_spi(valid: list[bytes], _: list[bytes]) -> list[bytes]:
    return [packet[:20] + (0xABC000 + n).to_bytes(4) + packet[24:] for n, packet in enumerate(valid)]


def bad_icv(valid: list[bytes], _: list[bytes]) -> list[bytes]:
    return [packet[:-1] + bytes((packet[-1] ^ 1,)) for packet in valid]


def replay(valid: list[bytes], windowed: list[bytes]) -> list[bytes]:
    return list(islice(cycle(windowed), len(valid)))


def icmp_error(valid: list[bytes], _: list[bytes]) -> list[bytes]:
    """Fragmentation needed, as if by the peer, of packets of SPIs that exist and of others."""
    errors = []
    for number, packet in enumerate(valid):
        quoted = packet[:20] + (0x200 if number % 2 else 0xABC000 + number).to_bytes(4) + packet[24:28]
        message = bytes((3, 4, 0, 0, 0, 0)) + (1400 - number % 800).to_bytes(2) + quoted
        message = message[:2] + checksum(message).to_bytes(2) + message[4:]
        header = bytearray(packet[:20])
        header[9], header[2:4] = 1, (20 + len(message)).to_bytes(2)
        header[10:12] = bytes(2)
        header[10:12] = checksum(header).to_bytes(2)
        errors.append(bytes(header) + message)
    return errors


FLOODS: dict[str, Flood] = {
    "unknown SPIs": unknown_spi, "bad ICVs": bad_icv, "replays": replay, "ICMP errors": icmp_error,
}  # fmt: skip
CLIENTS = {
    "32 clients that shout": [("shout", "32")],
    "200 clients that stall": [("stall", "200")],
    "clients that come and go": [("knock", "32")],
    "64 monitors that never read": [("monitor", "64"), ("churn", "1")],
}
STORM, LATER = "storm of new flows", "the same, some seconds later"
"""From its first moment, and when as many flows wait as may without being asked twice."""
PATIENCE = 20.0
"""Seconds until there are."""


def state(if_id: int, spi: int, src: str = MOON, dst: str = SUN) -> StateInfo:
    """With a new key."""
    window = 32 if if_id == REPLAYED else 0
    return StateInfo(
        src=src, dst=dst, spi=spi, mode=Mode.TUNNEL, reqid=if_id, if_id=if_id, replay_window=window,
        flags=STATE_AF_UNSPEC, aead=Algorithm("rfc4106(gcm(aes))", secrets.token_bytes(20), 128),
    )  # fmt: skip


def policy(if_id: int, direction: int, src: str = MOON, dst: str = SUN, mode: int = Mode.TUNNEL) -> PolicyInfo:
    return PolicyInfo(Selector.parse("0.0.0.0/0"), direction, if_id, (Template(src, dst, mode=mode, reqid=if_id),))


def sealed(info: StateInfo) -> list[bytes]:
    """PACKETS packets that sun's daemon takes."""
    from xfrmi.core.engine import Engine  # not before `prepare`: numpy starts threads

    engine = Engine()
    interface = engine.add_interface("xfrm0", info.if_id)
    engine.add_state(info, time.time())
    engine.add_policy(policy(info.if_id, Dir.OUT), time.time())
    inner = udp(f"10.0.{info.if_id}.1", f"10.0.{info.if_id}.2", bytes(SIZE), dport=PORT)
    count = PACKETS // 4 if info.if_id == LIVE else PACKETS
    outgoing, _ = engine.output(interface, [inner] * count, time.time())
    return [bytes(packet) for group in outgoing for packet in group.packets]


def set_up(sun: Node, states: list[StateInfo]) -> list[StateInfo]:
    """The tunnels' receiving end; and for storms of flows a sending one, towards nobody. All states there are."""
    tables = [*states, state(OTHER, 0x900, SUN, MOON), state(LIVE, 0x901, SUN, MOON)]
    with at(sun) as client:
        for if_id in (LIVE, OTHER, REPLAYED, STORMED):
            client.add_link(LinkInfo(f"ipsec{if_id}", if_id=if_id, flags=IFF_UP, change=IFF_UP))
        for info in tables:
            client.add_state(info)
        for if_id in (LIVE, OTHER, REPLAYED):
            client.add_policy(policy(if_id, Dir.IN))
            client.add_policy(policy(if_id, Dir.OUT, SUN, MOON))
        client.add_policy(policy(STORMED, Dir.OUT, "0.0.0.0", "0.0.0.0", Mode.TRANSPORT))
    for if_id in (LIVE, OTHER, REPLAYED, STORMED):
        sun.address(f"ipsec{if_id}", f"10.0.{if_id}.2/24")
        sun.route(f"10.{100 + if_id}.0.0/16", device=f"ipsec{if_id}")
    return tables


@contextmanager
def program(node: Node, module: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """One that runs until its standard input ends."""
    command = [sys.executable, "-m", module, *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = node.popen(command, env=node.env, **pipes)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        process.communicate(timeout=20)


def look(client: Client, pid: int, seconds: float, counter: str) -> Look:
    """At the daemon, for so long."""
    slowest, before = 0.0, client.stat()
    memory, first = resident(pid), count(client, counter)
    begun = time.monotonic()
    while (now := time.monotonic()) < begun + seconds:
        client.count_states()
        slowest = max(slowest, time.monotonic() - now)
        time.sleep(ASK_EVERY)
    rate = (count(client, counter) - first) / (time.monotonic() - begun)
    after = client.stat()
    rose = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    return Look(rate, slowest, resident(pid) - memory, rose)


def count(client: Client, counter: str) -> int:
    stats = client.link(f"ipsec{LIVE}").stats
    assert stats is not None
    return int(getattr(stats, counter))


class Bench:
    def __init__(self, moon: Node, sun: Node, seconds: float) -> None:
        self.moon, self.sun, self.seconds = moon, sun, seconds
        self.pid = sun.start_daemon().pid
        states = [state(if_id, if_id * 0x100) for if_id in (LIVE, OTHER, REPLAYED)]
        self.tables = set_up(sun, states)
        self.live, self.valid, windowed = map(sealed, states)
        self.files = {"valid": self.file("valid", self.valid)}
        for name, flood in FLOODS.items():
            self.files[name] = self.file(name, flood(self.valid, windowed[:1]))

    def file(self, name: str, flood: list[bytes]) -> Path:
        """One packet of the tunnel that is to live, three of the flood, and so on."""
        mixed = [
            packet for at, live in enumerate(self.live) for packet in (live, *flood[3 * at : 3 * at + 3])
        ]  # fmt: skip
        path = self.moon.folder / f"{name}.hex"
        path.write_text("\n".join(packet.hex() for packet in mixed))
        return path

    def packets(self, name: str) -> Look:
        with program(self.moon, "bench.packet_flood", str(self.files[name])):
            return self.look("rx_packets")

    def clients(self, name: str) -> Look:
        with ExitStack() as programs:
            for kind in CLIENTS[name]:
                programs.enter_context(program(self.sun, "bench.shouters", *kind))
            return self.packets("valid")

    def storm(self, to: int, later: bool) -> Look:
        """Out of sun's TUNs: to flows with a state, or to those without."""
        from xfrmi.core.acquire_limit import FREE  # likewise

        with at(self.sun) as client:
            client.flush_states()
            for info in self.tables:
                client.add_state(info)
        monitor = self.sun.start(xfrmi_command("monitor", "acquire"), "monitor.log")
        try:
            with program(self.sun, "bench.shouters", "storm", f"10.{100 + LIVE}.0.1,10.{100 + to}"):
                deadline = time.monotonic() + PATIENCE
                while later and to == STORMED and self.states() < FREE and time.monotonic() < deadline:
                    time.sleep(0.2)
                return self.look("tx_packets")
        finally:
            self.sun.stop(monitor)

    def states(self) -> int:
        with at(self.sun) as client:
            return client.count_states().count

    def look(self, counter: str) -> Look:
        time.sleep(WARM)
        with at(self.sun) as client:
            return look(client, self.pid, self.seconds, counter)


def measured(rounds: int, seconds: float, names: list[str]) -> dict[str, list[tuple[Look, Look]]]:
    """For each flood (what it left, what an equal load leaves), round by round."""
    prepare()
    found: dict[str, list[tuple[Look, Look]]] = defaultdict(list)
    with cable() as (moon, sun):
        bench = Bench(moon, sun, seconds)
        with Sink(sun, f"10.0.{LIVE}.2"), Sink(sun, f"10.0.{OTHER}.2"):
            for _ in range(rounds):
                for name in names:
                    if name in (STORM, LATER):
                        later = name == LATER
                        found[name].append((bench.storm(STORMED, later), bench.storm(OTHER, later)))
                    else:
                        flooded = bench.packets(name) if name in FLOODS else bench.clients(name)
                        found[name].append((flooded, bench.packets("valid")))
    return found


def main() -> int:
    assert __doc__ is not None
    every = [*FLOODS, *CLIENTS, STORM, LATER]
    parser = argparse.ArgumentParser(prog="python -m bench.floods", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(every)}")
    told = parser.parse_args()
    found = measured(told.rounds, told.seconds, told.names or every)
    print(f"{'':<28}{'left':>9}{'of':>9}{'share':>20}{'control, ms':>20}{'MB':>6}")
    for name, looks in found.items():
        left, of = (statistics.median(look.rate for look in each) for each in zip(*looks, strict=True))
        share = spread([flooded.rate / max(equal.rate, 1) for flooded, equal in looks], 2)
        control = spread([flooded.control * 1e3 for flooded, _ in looks], 0)
        memory = max(flooded.memory for flooded, _ in looks)
        print(f"{name:<28}{left:>9,.0f}{of:>9,.0f}{share:>20}{control:>20}{memory:>6.1f}", end="  ")
        print(", ".join(f"{counter} {value:,}" for counter, value in looks[-1][0].counted.items()))
    return 0


def spread(values: list[float], digits: int) -> str:
    """The median, the lowest and the highest."""
    return "{:.{d}f} ({:.{d}f} to {:.{d}f})".format(statistics.median(values), min(values), max(values), d=digits)


if __name__ == "__main__":
    sys.exit(main())
