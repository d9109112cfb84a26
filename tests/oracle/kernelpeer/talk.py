"""Traffic between two ends, made with their sockets, wherever these are: echoes, datagrams, TCP compared by hash."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import threading
from contextlib import closing

from tests.oracle.kernelpeer.pair import End
from xfrmi.lab.traffic import family_of, filler
from xfrmi.wire.ip import checksum

ECHO = {4: (8, 0), 6: (128, 129)}
"""Types of request and reply."""
SECONDS = 5.0
BLOCK = 1 << 16


def echoes(source: End, address: str, count: int = 2, size: int = 64, timeout: float = SECONDS) -> int:
    """Send echo requests, one after the other; how many came back whole."""
    version = 6 if ":" in address else 4
    request, reply = ECHO[version]
    protocol = socket.IPPROTO_ICMPV6 if version == 6 else socket.IPPROTO_ICMP
    ident = os.urandom(2)
    answered = 0
    with closing(source.socket(family_of(address), socket.SOCK_RAW, protocol)) as sock:
        sock.settimeout(timeout)
        for number in range(count):
            rest = ident + number.to_bytes(2, "big") + filler(size)
            message = struct.pack("!BBH", request, 0, 0) + rest
            if version == 4:
                message = message[:2] + checksum(message).to_bytes(2, "big") + message[4:]
            sock.sendto(message, (address, 0))
            try:
                while not _is_reply(sock.recv(BLOCK), version, reply, rest):
                    pass
            except TimeoutError:
                continue
            answered += 1
    return answered


def _is_reply(packet: bytes, version: int, kind: int, rest: bytes) -> bool:
    icmp = packet if version == 6 else packet[(packet[0] & 15) * 4 :]
    return icmp[0] == kind and icmp[4:] == rest


def carries_tcp(source: End, sink: End, address: str, size: int) -> bool:
    """Move `size` bytes over one TCP connection to `address` of `sink`; do their hashes agree? OSError if it breaks."""
    sent, received = hashlib.sha256(), hashlib.sha256()
    problems: list[Exception] = []
    with closing(sink.socket(family_of(address), socket.SOCK_STREAM)) as listener:
        listener.settimeout(SECONDS)
        listener.bind((address, 0))
        listener.listen()
        port = listener.getsockname()[1]

        def receive() -> None:
            try:
                connection, _ = listener.accept()
                with closing(connection):
                    connection.settimeout(SECONDS)
                    while data := connection.recv(BLOCK):
                        received.update(data)
                    connection.sendall(b"!")
            except Exception as error:
                problems.append(error)

        thread = threading.Thread(target=receive, daemon=True)
        thread.start()
        with closing(source.socket(family_of(address), socket.SOCK_STREAM)) as connection:
            connection.settimeout(SECONDS)
            connection.connect((address, port))
            while size > 0:
                data = os.urandom(min(size, BLOCK))
                connection.sendall(data)
                sent.update(data)
                size -= len(data)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)
        thread.join()
    if problems:
        raise problems[0]
    return sent.digest() == received.digest()
