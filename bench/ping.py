"""ICMP echoes at a steady rate, and how long each took: the traffic of latency.py.

An open loop: a request leaves when its time has come, whether or not the ones before have been answered. A program
that waits for each answer asks less often just when answers are slow, and so hides what it was to find. The intervals
vary, or requests would always meet the same moment of something else that is periodic. The other end's kernel
answers: no second program has to be woken up.
"""

from __future__ import annotations

import math
import os
import random
import select
import socket
import struct
import sys
from time import perf_counter

from xfrmi.wire.ip import checksum

LINGER = 1.0
"""Seconds that the last requests have to come back."""
SOL_RAW, ICMP_FILTER, ICMP6_FILTER = 255, 1, 1
PAYLOAD = 56
"""Bytes, as ping has them: 84 with the headers of IPv4."""
HEAD = struct.Struct("!BBHHH")
NUMBER = struct.Struct("!I")


def main(address: str, seconds: float, interval: float) -> None:
    """Print microseconds for each request in order, `inf` for what was lost."""
    print(*(round(took * 1e6, 1) for took in ask(address, seconds, interval)))


def ask(address: str, seconds: float, interval: float) -> list[float]:
    sock, request, reply = opened(address)
    token = os.urandom(8)
    ident = os.getpid() & 0xFFFF
    sent: list[float] = []
    took: dict[int, float] = {}
    due = perf_counter()
    end = due + seconds
    while True:
        now = perf_counter()
        if due <= now and due < end:
            packet = echo(request, ident, len(sent), token)
            sent.append(perf_counter())
            sock.send(packet)
            due += interval * random.uniform(0.5, 1.5)
            continue
        if due >= end and (len(took) == len(sent) or now > end + LINGER):
            break
        wait = due - now if due < end else end + LINGER - now
        if not select.select([sock], [], [], max(wait, 0))[0]:
            continue
        data = sock.recv(2048)
        arrived = perf_counter()
        number = numbered(data, reply, token)
        if number is not None and number < len(sent):
            took.setdefault(number, arrived - sent[number])  # one that comes twice was answered once
    return [took.get(number, math.inf) for number in range(len(sent))]


def opened(address: str) -> tuple[socket.socket, int, int]:
    """A raw socket that hears nothing but replies from there, and the types of requests and replies."""
    if ":" in address:
        family, protocol, request, reply = socket.AF_INET6, socket.IPPROTO_ICMPV6, 128, 129
        blocked = [0xFFFFFFFF] * 8
        blocked[reply >> 5] &= ~(1 << (reply & 31))
        level, option, value = socket.IPPROTO_ICMPV6, ICMP6_FILTER, struct.pack("@8I", *blocked)
    else:
        family, protocol, request, reply = socket.AF_INET, socket.IPPROTO_ICMP, 8, 0
        level, option, value = SOL_RAW, ICMP_FILTER, struct.pack("@I", ~(1 << reply) & 0xFFFFFFFF)
    sock = socket.socket(family, socket.SOCK_RAW, protocol)
    sock.setsockopt(level, option, value)
    sock.connect((address, 0))
    return sock, request, reply


def echo(kind: int, ident: int, number: int, token: bytes) -> bytes:
    """An echo request. The kernel puts the checksum into ICMPv6, not into ICMP."""
    body = (token + NUMBER.pack(number)).ljust(PAYLOAD, b"\0")
    summed = checksum(HEAD.pack(kind, 0, 0, ident, number & 0xFFFF) + body)
    return HEAD.pack(kind, 0, summed, ident, number & 0xFFFF) + body


def numbered(data: bytes, reply: int, token: bytes) -> int | None:
    """The number of the request that this answers. A raw socket hears what answers other programs, too."""
    if reply == 0:  # IPv4 comes with its header
        data = data[(data[0] & 15) * 4 :]
    if len(data) < HEAD.size + len(token) + NUMBER.size or data[0] != reply:
        return None
    if data[HEAD.size : HEAD.size + len(token)] != token:
        return None
    return int(NUMBER.unpack_from(data, HEAD.size + len(token))[0])


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))
