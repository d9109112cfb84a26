"""Traffic between two ends, made with their sockets, wherever these are: echoes, datagrams, TCP compared by hash."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import threading
from contextlib import closing, suppress

from tests.oracle.kernelpeer.pair import End
from xfrmi.lab.traffic import family_of, filler
from xfrmi.wire.ip import checksum

ECHO = {4: (8, 0), 6: (128, 129)}
"""Types of request and reply."""
SO_RCVBUFFORCE = 33
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


class Datagrams:
    """A one-way stream of numbered datagrams."""

    def __init__(self, source: End, sink: End, address: str, size: int = 200) -> None:
        family = family_of(address)
        self._in = sink.socket(family, socket.SOCK_DGRAM)
        self._in.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 22)
        self._in.bind((address, 0))
        self._in.settimeout(1)
        self._out = source.socket(family, socket.SOCK_DGRAM)
        self._out.connect((address, self._in.getsockname()[1]))
        self._rest = filler(size)
        self.sent = 0

    def send(self) -> None:
        self._out.send(struct.pack("!I", self.sent) + self._rest)
        self.sent += 1

    def arrived(self, expected: int) -> list[int]:
        """The numbers that have come since the last time, in their order; waits only while they are fewer."""
        numbers: list[int] = []
        with suppress(TimeoutError):
            while len(numbers) < expected:
                data = self._in.recv(BLOCK)
                assert data[4:] == self._rest
                numbers.append(int.from_bytes(data[:4], "big"))
        return numbers

    def close(self) -> None:
        self._in.close()
        self._out.close()
