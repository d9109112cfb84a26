"""One TCP stream, and what it took: the traffic of throughput.py.

Sender and receiver are two programs, each in its own namespace, which do nothing but sendall and recv_into: little
CPU time of a machine with two cores is left to a tunnel as it is.
"""

from __future__ import annotations

import socket
import sys
import time

BLOCK = 1 << 18


def receive(address: str, port: int) -> None:
    """Print `ready`, take one connection, print `bytes seconds` once the sender has gone.

    The clock starts with the first byte, so neither the handshake nor a slow start of the programs is in it.
    """
    with socket.create_server((address, port), family=_family(address)) as listener:
        print("ready", flush=True)
        connection, _ = listener.accept()
    block = bytearray(BLOCK)
    with connection:
        total = 0
        start = time.monotonic()
        while count := connection.recv_into(block):
            total += count
        print(total, time.monotonic() - start, flush=True)


def send(address: str, port: int, seconds: float, congestion: str) -> None:
    block = bytes(BLOCK)
    with socket.socket(_family(address)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
        connection.connect((address, port))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            connection.sendall(block)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


if __name__ == "__main__":
    if sys.argv[1] == "send":
        send(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), sys.argv[5])
    else:
        receive(sys.argv[2], int(sys.argv[3]))
