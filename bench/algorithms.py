"""End to end: one TCP stream through xfrmi for each algorithm, ESP in UDP, IPv4.

    python -m bench.algorithms [--all] [--rounds 3] [--seconds 1] [--json FILE] [name ...]

By default one of each kind; `--all` has every algorithm that authenticates, with each length of key and ICV. The names
are those of tests/core/algorithms.py: a cipher is with hmac(sha256), what authenticates is with cbc(aes).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

from bench.cable import Way
from bench.contenders import Contender
from bench.contenders.xfrmi import Keyed, daemons, tunnel
from bench.figures import Figure
from bench.program import program
from bench.rounds import Measurement, options
from bench.throughput import alone
from tests.core.algorithms import AUTHENTICATED
from xfrmi.lab.topology import Node

KINDS = (
    "gcm128-icv128", "gcm256-icv128", "gcm128-icv64", "ccm128-icv128", "chacha20poly1305", "gmac128", "ctr128",
    "cbc128", "cbc256", "camellia128", "cast5-16", "blowfish-16", "des3", "sm4", "null", "sha1", "sha512", "cmac",
    "xcbc",
)  # fmt: skip
WORDS = {"aead": "aead", "crypt": "enc", "auth": "auth", "auth_trunc": "auth-trunc"}
"""Of the fields of a state."""
PORT = 4700


class Stream(NamedTuple):
    rate: float
    """Mbit/s."""
    sender: float
    """Microseconds of CPU of the sending daemon for a full-size packet."""
    receiver: float


FIGURES = [
    Figure[Stream]("there", lambda told: told.rate, unit="Mbit/s"),
    Figure[Stream]("CPU, sender", lambda told: told.sender, larger=False, digits=1, unit="us/packet"),
    Figure[Stream]("CPU, receiver", lambda told: told.receiver, larger=False, digits=1, unit="us/packet"),
]


def algorithms(seconds: float) -> Measurement[Stream]:
    return Measurement("algorithms", partial(measure, seconds), FIGURES)


def measure(seconds: float, moon: Node, sun: Node, way: Way) -> Stream:
    return Stream(*alone(moon, sun, way, seconds))


def tunnels(names: Iterable[str]) -> dict[str, Contender]:
    """One pair of daemons with a tunnel for each."""

    def start(moon: Node, sun: Node) -> Iterator[Way]:
        programs = daemons(moon, sun)
        for if_id, name in enumerate(names, 1):
            inner = tunnel((moon, sun), if_id, 4, described(name), PORT + if_id)
            yield Way(f"xfrmi UDP {name}", 4, inner[4], programs)

    return {"xfrmi": start}


def described(name: str) -> list[Keyed]:
    fields = AUTHENTICATED[name].items()
    return [Keyed(WORDS[word], each.name, len(each.key), each.bits if word in ("aead", "auth_trunc") else 0)
            for word, each in fields]  # fmt: skip


def main() -> int:
    parser = options(__doc__, rounds=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each stream")
    parser.add_argument("--all", action="store_true", help="every algorithm, key length and ICV length")
    told = parser.parse_args()
    return program(told, [algorithms(told.seconds)], tunnels(AUTHENTICATED if told.all else KINDS))


if __name__ == "__main__":
    sys.exit(main())
