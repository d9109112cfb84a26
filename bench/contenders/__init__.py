"""Who is measured: xfrmi, what it is compared with, and two floors: the bare cable, a tunnel that encrypts nothing.

A contender is a function that makes its tunnels between two nodes and yields a Way for each, or raises Lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from bench.cable import OUTER, Lacks, Way
from bench.contenders.forwarder import forwarder
from bench.contenders.strongswan import strongswan
from bench.contenders.wireguard import wireguard
from bench.contenders.xfrmi import xfrmi
from xfrmi.lab.topology import Node

Contender = Callable[[Node, Node], Iterator[Way]]


def plain(moon: Node, sun: Node) -> Iterator[Way]:
    """No tunnel at all: what the traffic programs and the cable are good for."""
    for family in (4, 6):
        yield Way("plain veth", family, OUTER[family])


CONTENDERS: dict[str, Contender] = {each.__name__: each for each in (plain, forwarder, xfrmi, strongswan, wireguard)}


def ways(moon: Node, sun: Node, contenders: Mapping[str, Contender]) -> tuple[list[Way], list[str], list[str]]:
    """Of those contenders that can run here; a line for each that is not installed, which says what would help; a line
    for each that is, and did not come up."""
    found: list[Way] = []
    absent: list[str] = []
    failed: list[str] = []
    for name, start in contenders.items():
        try:
            found += start(moon, sun)
        except Lacks as lack:
            absent.append(f"NOT COMPARED WITH {name.upper()}: {lack}")
        except (RuntimeError, OSError, AssertionError) as error:
            failed.append(f"{name.upper()} DID NOT COME UP: {error}")
    return found, absent, failed
