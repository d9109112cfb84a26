"""End to end: one TCP stream from one namespace to another, through xfrmi and beside it, in one run.

    python -m bench.throughput [--seconds 2] [--rounds 5] [--congestion cubic] [--json FILE] [name ...]

      moon ──── veth ──── sun         one xfrmi daemon on each; raw and UDP, over IPv4 and IPv6

Every round measures each way once, so that all see the same weather; what is printed are medians over the rounds, with
the smallest and the largest. On a machine with other work read the CPU time of the two daemons for a megabit, which
hardly depends on who else is at work, rather than the throughput, which does.
"""

from __future__ import annotations

import argparse
import json
import secrets
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from xfrmi.lab.preflight import prepare
from xfrmi.lab.topology import Lab, Node

OUTER = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}
ANY = {4: "0.0.0.0/0", 6: "::/0"}
PORT = 5201
PACKET = 1400 * 8
"""Bits of payload that about fill a packet: what CPU time is told for."""


class Way(NamedTuple):
    """A way for the stream: between plain addresses, or through a tunnel."""

    name: str
    address: str
    """The receiver's."""
    programs: tuple[int, ...]
    """Process ids of the tunnel, the sender's side first."""


class Result(NamedTuple):
    mbits: float
    """Per second."""
    cpu: tuple[float, ...]
    """Microseconds that each of the programs took for a full-size packet."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each stream")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--congestion", default="cubic", help="TCP congestion control; pacing ones send small bursts")
    parser.add_argument("--json", type=Path, help="write every single result here")
    parser.add_argument("names", nargs="*", metavar="name", help="only ways whose name has one of these in it")
    options = parser.parse_args()
    prepare()
    results: dict[str, list[Result]] = defaultdict(list)
    with Lab() as lab:
        moon, sun = lab.node("moon"), lab.node("sun")
        lab.link(moon, "eth0", [f"{OUTER[4][0]}/30", f"{OUTER[6][0]}/64"],
                 sun, "eth0", [f"{OUTER[4][1]}/30", f"{OUTER[6][1]}/64"])  # fmt: skip
        ways = [way for way in (*plain(), *xfrmi(moon, sun)) if wanted(way.name, options.names)]
        for number in range(options.rounds):
            for way in ways:
                print(f"\r  round {number + 1} of {options.rounds}: {way.name:32}", end="", file=sys.stderr, flush=True)
                results[way.name].append(measure(moon, sun, way, options.seconds, options.congestion))
    print(f"\r{'':60}\r", end="", file=sys.stderr)
    report(results)
    if options.json:
        options.json.write_text(json.dumps({name: [r._asdict() for r in each] for name, each in results.items()}))
    return 0


def wanted(name: str, names: list[str]) -> bool:
    return not names or any(part in name for part in names)


# The ways ----------------------------------------------------------------------------------------------------------


def plain() -> Iterator[Way]:
    """No tunnel at all: what the two programs and the cable are good for."""
    for family in (4, 6):
        yield Way(f"plain veth, IPv{family}", OUTER[family][1], ())


def xfrmi(moon: Node, sun: Node) -> Iterator[Way]:
    daemons = [node.launch_daemon() for node in (moon, sun)]
    for node, daemon in zip((moon, sun), daemons, strict=True):
        node.await_daemon(daemon)
    programs = daemons[0].pid, daemons[1].pid
    if_id = 10
    for outer in (4, 6):
        for encap in ("raw", "UDP"):
            if_id += 1
            port = 4500 + if_id
            words = f"encap espinudp {port} {port} {OUTER[outer][0]}" if encap == "UDP" else ""
            lines = tunnel_lines(if_id, outer, words)
            for number, node in enumerate((moon, sun), 1):
                batch(node, lines[number - 1])
                node.address(f"ipsec{if_id}", f"10.0.{if_id}.{number}/30", f"fd00:{if_id}::{number}/64")
            for inner in (4, 6):
                address = f"10.0.{if_id}.2" if inner == 4 else f"fd00:{if_id}::2"
                yield Way(f"xfrmi {encap}, IPv{inner} in IPv{outer}", address, programs)


def tunnel_lines(if_id: int, outer: int, words: str) -> tuple[str, str]:
    """What moon and sun are told."""
    keys = [secrets.token_hex(20) for _ in range(2)]
    ends = OUTER[outer]
    pairs = (ends, ends[::-1])
    states = "".join(
        f"state add src {src} dst {dst} proto esp spi {if_id * 0x100 + number:#x} reqid {if_id} mode tunnel "
        f"flag af-unspec replay-window 128 if_id {if_id} aead rfc4106(gcm(aes)) 0x{key} 128 {words}\n"
        for number, ((src, dst), key) in enumerate(zip(pairs, keys, strict=True), 1)
    )
    link = f"link add ipsec{if_id} type xfrm dev eth0 if_id {if_id}\nlink set ipsec{if_id} up\n"
    told = []
    for out, back in (pairs, pairs[::-1]):
        policies = "".join(
            f"policy add src {ANY[family]} dst {ANY[family]} dir {direction} if_id {if_id} "
            f"tmpl src {src} dst {dst} proto esp reqid {if_id} mode tunnel\n"
            for family in (4, 6)
            for direction, (src, dst) in (("out", out), ("in", back))
        )
        told.append(link + states + policies)
    return told[0], told[1]


def batch(node: Node, lines: str) -> None:
    path = node.folder / "batch"
    path.write_text(lines)
    result = node.xfrmi("-batch", str(path))
    path.unlink()
    if result.returncode:
        raise RuntimeError(f"{node.name}: {result.stderr.strip()}")


# Measuring ---------------------------------------------------------------------------------------------------------


def measure(moon: Node, sun: Node, way: Way, seconds: float, congestion: str) -> Result:
    with program(sun, "receive", way.address, str(PORT)) as receiver:
        assert receiver.stdout is not None
        receiver.stdout.readline()
        before = [cpu_seconds(pid) for pid in way.programs]
        with program(moon, "send", way.address, str(PORT), str(seconds), congestion):
            total, took = receiver.stdout.readline().split()
        spent = [cpu_seconds(pid) - start for pid, start in zip(way.programs, before, strict=True)]
    bits = int(total) * 8
    return Result(bits / float(took) / 1e6, tuple(each / (bits / PACKET) * 1e6 for each in spent))


@contextmanager
def program(node: Node, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = node.popen([sys.executable, "-m", "bench.stream", *arguments], stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        if process.wait():
            raise RuntimeError(f"{node.name}: {arguments} failed")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process (its main thread, and it has no other)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def report(results: dict[str, list[Result]]) -> None:
    print(f"{'':28}{'Mbit/s':>8}{'min':>8}{'max':>8}    us of CPU a packet: sender, receiver")
    for name, each in results.items():
        rates = [result.mbits for result in each]
        cpu = "".join(f"{statistics.median(side):8.2f}" for side in zip(*(r.cpu for r in each), strict=True))
        print(f"{name:28}{statistics.median(rates):8.0f}{min(rates):8.0f}{max(rates):8.0f}    {cpu}".rstrip())


if __name__ == "__main__":
    sys.exit(main())
