"""xfrmi: one daemon at each end, ESP raw and in UDP, outside IPv4 and IPv6."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bench.cable import OUTER, Way
from xfrmi.lab.topology import Node

ANY = {4: "0.0.0.0/0", 6: "::/0"}


class Keyed(NamedTuple):
    """One algorithm of a state, as `xfrmi state add` wants it."""

    word: str
    """aead, enc, auth, auth-trunc."""
    name: str
    key_len: int
    """Bytes."""
    bits: int = 0
    """Of the ICV; 0: not to be said."""


GCM = (Keyed("aead", "rfc4106(gcm(aes))", 20, 128),)


def xfrmi(moon: Node, sun: Node) -> Iterator[Way]:
    programs = daemons(moon, sun)
    if_id = 10
    for outer in (4, 6):
        for encap in ("raw", "UDP"):
            if_id += 1
            inner = tunnel((moon, sun), if_id, outer, GCM, 4600 + if_id if encap == "UDP" else 0)
            for family, addresses in inner.items():
                yield Way(f"xfrmi {encap}", family, addresses, programs, outer)


def daemons(moon: Node, sun: Node) -> tuple[int, int]:
    """Up; their process ids."""
    started = [node.launch_daemon() for node in (moon, sun)]
    for node, daemon in zip((moon, sun), started, strict=True):
        node.await_daemon(daemon)
    return started[0].pid, started[1].pid


def tunnel(
    nodes: tuple[Node, Node], if_id: int, outer: int, algorithms: Sequence[Keyed], port: int = 0
) -> dict[int, tuple[str, str]]:
    """One more between the two, in UDP if there is a port. The addresses inside, by family."""
    words = f"encap espinudp {port} {port} {OUTER[outer][0]}" if port else ""
    for number, (node, lines) in enumerate(zip(nodes, tunnel_lines(if_id, outer, algorithms, words), strict=True), 1):
        batch(node, lines)
        node.address(f"ipsec{if_id}", f"10.0.{if_id}.{number}/30", f"fd00:{if_id}::{number}/64")
    return {4: (f"10.0.{if_id}.1", f"10.0.{if_id}.2"), 6: (f"fd00:{if_id}::1", f"fd00:{if_id}::2")}


def tunnel_lines(if_id: int, outer: int, algorithms: Sequence[Keyed], words: str) -> tuple[str, str]:
    """What moon and sun are told. Each direction has keys of its own."""
    ends = OUTER[outer]
    pairs = (ends, ends[::-1])
    states = "".join(
        f"state add src {src} dst {dst} proto esp spi {if_id * 0x100 + number:#x} reqid {if_id} mode tunnel "
        f"flag af-unspec replay-window 128 if_id {if_id} {' '.join(map(keyed, algorithms))} {words}\n"
        for number, (src, dst) in enumerate(pairs, 1)
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


def keyed(algorithm: Keyed) -> str:
    """With a new key."""
    key = f"0x{secrets.token_hex(algorithm.key_len)}" if algorithm.key_len else '""'
    return f"{algorithm.word} {algorithm.name} {key} {algorithm.bits or ''}"


def batch(node: Node, lines: str) -> None:
    path = node.folder / "batch"
    path.write_text(lines)
    result = node.xfrmi("-batch", str(path))
    path.unlink()
    if result.returncode:
        raise RuntimeError(f"{node.name}: {result.stderr.strip()}")
