"""UDP datagrams at a given rate: the traffic of datagrams.py. One `send` a datagram, as most programs do it.

UDP_SEGMENT would be faster, and would hand a tunnel that knows how to take them dozens of datagrams under one header:
that is another kind of traffic. At the other end nobody reads (datagrams.py): two cores are few, and what a reader
takes of them the tunnel lacks.
"""

from __future__ import annotations

import socket
import sys
from time import perf_counter, sleep

TICK = 0.0002
"""Seconds between two looks at the clock. A sleep takes a little longer."""
CATCH_UP = 0.001
"""Seconds' worth of datagrams that may leave at once after a pause. More would fill a queue that the rate does not."""
BATCH = 32
"""Datagrams between two looks at the clock where the rate is without bounds."""


def main(address: str) -> None:
    """For each line of input, `port size rate seconds`: send, then print how many, and the seconds it took."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    print("ready", flush=True)
    for line in sys.stdin:
        port, size, rate, seconds = line.split()
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect((address, int(port)))
            print(*flood(sock, bytes(int(size)), float(rate), float(seconds)), flush=True)


def flood(sock: socket.socket, payload: bytes, rate: float, seconds: float) -> tuple[int, float]:
    """`rate` is datagrams a second, infinite for as fast as can be. What our own pauses cost is not made up for."""
    send = sock.send
    most = rate * CATCH_UP + 1 if rate < float("inf") else BATCH
    start = last = perf_counter()
    credit = 1.0
    sent = 0
    while last - start < seconds:
        count = int(credit)
        for _ in range(count):
            send(payload)
        sent += count
        now = perf_counter()
        if now - last < TICK and rate < float("inf"):
            sleep(TICK)
            now = perf_counter()
        credit = min(credit - count + (now - last) * rate, most)
        last = now
    return sent, last - start


if __name__ == "__main__":
    main(sys.argv[1])
