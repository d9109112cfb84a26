"""wireguard-go at both ends, told by its UAPI socket (so `wg` is not needed), outside IPv4."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from bench.cable import OUTER, Lacks, Way
from xfrmi.lab.topology import Node

INNER = {4: ("10.2.0.1", "10.2.0.2"), 6: ("fd02::1", "fd02::2")}
PORT = 51820
SOCKETS = Path("/var/run/wireguard")
SECONDS = 5.0
"""For it to come up."""


def wireguard(moon: Node, sun: Node) -> Iterator[Way]:
    program = shutil.which("wireguard-go")
    if not program:
        raise Lacks("no wireguard-go: apt-get install --no-install-recommends wireguard-go")
    if not os.access(SOCKETS.parent, os.W_OK):
        raise Lacks(f"wireguard-go puts its sockets into {SOCKETS}: run this as root")
    nodes = (moon, sun)
    keys = [X25519PrivateKey.generate() for _ in nodes]
    # Sockets of all namespaces lie in one folder.
    devices = [f"wg{node.name}{os.getpid()}"[:15] for node in nodes]
    daemons = [node.start([program, "-f", dev], "wireguard.log") for node, dev in zip(nodes, devices, strict=True)]
    for end, (node, device) in enumerate(zip(nodes, devices, strict=True)):
        other = 1 - end
        configure(
            SOCKETS / f"{device}.sock",
            f"private_key={keys[end].private_bytes_raw().hex()}\nlisten_port={PORT}\n"
            f"public_key={keys[other].public_key().public_bytes_raw().hex()}\n"
            f"endpoint={OUTER[4][other]}:{PORT}\nallowed_ip=0.0.0.0/0\nallowed_ip=::/0\n",
        )
        node.up(device)
        node.address(device, f"{INNER[4][end]}/30", f"{INNER[6][end]}/64")
    for family, addresses in INNER.items():
        yield Way("wireguard-go", family, addresses, (daemons[0].pid, daemons[1].pid))


def configure(path: Path, settings: str) -> None:
    """As soon as it listens."""
    deadline = time.monotonic() + SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            raise RuntimeError(f"wireguard-go made no {path}")
        time.sleep(0.01)
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(str(path))
        control.sendall(f"set=1\n{settings}\n".encode())
        answer = control.recv(4096).decode().strip()
    if answer != "errno=0":
        raise RuntimeError(f"wireguard-go refuses its configuration: {answer}")
