"""xfrmi: one daemon at each end, ESP raw and in UDP, outside IPv4 and IPv6."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

from bench.cable import OUTER, Way
from xfrmi.lab.topology import Node

ANY = {4: "0.0.0.0/0", 6: "::/0"}


def xfrmi(moon: Node, sun: Node) -> Iterator[Way]:
    daemons = [node.launch_daemon() for node in (moon, sun)]
    for node, daemon in zip((moon, sun), daemons, strict=True):
        node.await_daemon(daemon)
    programs = daemons[0].pid, daemons[1].pid
    if_id = 10
    for outer in (4, 6):
        for encap in ("raw", "UDP"):
            if_id += 1
            port = 4600 + if_id
            words = f"encap espinudp {port} {port} {OUTER[outer][0]}" if encap == "UDP" else ""
            lines = tunnel_lines(if_id, outer, words)
            for number, node in enumerate((moon, sun), 1):
                batch(node, lines[number - 1])
                node.address(f"ipsec{if_id}", f"10.0.{if_id}.{number}/30", f"fd00:{if_id}::{number}/64")
            yield Way(f"xfrmi {encap}", 4, (f"10.0.{if_id}.1", f"10.0.{if_id}.2"), programs, outer)
            yield Way(f"xfrmi {encap}", 6, (f"fd00:{if_id}::1", f"fd00:{if_id}::2"), programs, outer)


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
