"""Packets on a device of a node, a line each: what a stranger on that cable gets to know.

    192.0.2.1 > 198.51.100.1: ESP spi 0x4201 seq 4, 120 bytes

Sizes are those of what is behind the IP header. Neighbour discovery and the like is left out.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Sequence

from xfrmi.lab.running import Running
from xfrmi.lab.wiretap import ETH_HEADER_LEN, ETH_P_ALL, kind
from xfrmi.wire.address import format_address
from xfrmi.wire.udpencap import Payload, classify

ESP, UDP, TCP, FRAGMENT = 50, 17, 6, 44
ENCAP_PORT = 4500
NAMES = {1: "ICMP", 58: "ICMPv6", TCP: "TCP", UDP: "UDP", ESP: "ESP"}
SETTLE_SECONDS = 0.3
"""What a command has sent is under way so long after it has ended."""


def watch(
    running: Running, node: str, device: str, count: int, command: Sequence[str], show: Callable[[str], None]
) -> int:
    """Show packets until `count` of them have been shown, `command` has ended, or for ever (0, none). Returns the
    command's exit status; what it prints is thrown away, but for its errors."""
    ears = _open(running, node, device)
    process = subprocess.Popen(list(command), stdout=subprocess.DEVNULL) if command else None
    until = None
    with ears:
        ears.settimeout(0.1)
        shown = 0
        while until is None or time.monotonic() < until:
            if process is not None and until is None and process.poll() is not None:
                until = time.monotonic() + SETTLE_SECONDS
            try:
                text = describe(ears.recv(65535))
            except TimeoutError:
                continue
            if text and (not count or shown < count):
                show(text)
                shown += 1
                if shown == count and process is None:
                    break
    return process.wait() if process is not None else 0


def _open(running: Running, node: str, device: str) -> socket.socket:
    """A packet socket in the node, opened by a child that goes there. LabError, OSError."""
    running.node(node)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    child = os.fork()
    if child == 0:
        try:
            running.enter(node)
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as ears:
                ears.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
                ears.bind((device, ETH_P_ALL))
                socket.send_fds(theirs, [b"0"], [ears.fileno()])
        except OSError as error:
            theirs.send(str(error.errno or 1).encode())
        finally:
            os._exit(0)
    theirs.close()
    with ours:
        text, fds, _, _ = socket.recv_fds(ours, 64, 1)
    os.waitpid(child, 0)
    if not fds:
        number = int(text or b"1")
        raise OSError(number, os.strerror(number), f"{node}:{device}")
    return socket.socket(fileno=fds[0])


def describe(frame: bytes) -> str:
    """'' for what is not shown."""
    packet = frame[ETH_HEADER_LEN:]
    sort = kind(frame)
    if sort in ("neighbour", "cut off"):
        return "" if sort == "neighbour" else sort
    if frame[12:14] == b"\x08\x00":
        header = max((packet[0] & 15) * 4, 20)
        source, destination, protocol = packet[12:16], packet[16:20], packet[9]
        total, fragment = int.from_bytes(packet[2:4], "big"), int.from_bytes(packet[6:8], "big") & 0x3FFF
    elif frame[12:14] == b"\x86\xdd":
        header, source, destination, protocol = 40, packet[8:24], packet[24:40], packet[6]
        total, fragment = 40 + int.from_bytes(packet[4:6], "big"), packet[6] == FRAGMENT
    else:
        return f"ethertype 0x{frame[12:14].hex()}"
    body = packet[header:total]
    what = f"fragment, {len(body)} bytes" if fragment else _transport(protocol, body)
    return f"{format_address(source)} > {format_address(destination)}: {what}"


def _transport(protocol: int, body: bytes) -> str:
    name, size = NAMES.get(protocol, f"protocol {protocol}"), f"{len(body)} bytes"
    if protocol == ESP and len(body) >= 8:
        return f"{_esp(body)}, {size}"
    if protocol == UDP and len(body) >= 8:
        source, destination = struct.unpack_from("!HH", body)
        inside = body[8:]
        said = f"UDP {source} > {destination}"
        if ENCAP_PORT in (source, destination):
            sort = classify(inside)
            if sort is Payload.KEEPALIVE:
                return f"{said}: keepalive"
            if sort is Payload.ESP:
                return f"{said}: {_esp(inside)}, {len(inside)} bytes"
        return f"{said}, {size}"
    if protocol == TCP and len(body) >= 8:
        source, destination = struct.unpack_from("!HH", body)
        return f"TCP {source} > {destination}, {size}"
    return f"{name}, {size}"


def _esp(body: bytes) -> str:
    spi, sequence = struct.unpack_from("!II", body)
    return f"ESP spi {spi:#x} seq {sequence}"

