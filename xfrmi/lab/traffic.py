"""Traffic for labs, made with plain sockets: echoes, a hashed TCP transfer, a numbered UDP stream.

Each function opens its sockets in the namespaces it is given and runs in the calling process; a socket stays in the
namespace it was opened in.
"""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from xfrmi.dev.sockets import receive_drops
from xfrmi.lab.namespace import Namespace
from xfrmi.wire.ip import checksum

PATTERN = b"this is plaintext and must never be seen outside "
"""In every payload: what a capture is searched for."""

ICMP_ECHO, ICMP6_ECHO = 8, 128
ICMP_ECHO_REPLY, ICMP6_ECHO_REPLY = 0, 129

SILENCE = 0.3
"""Seconds."""

LINGER = struct.pack("ii", 1, 5)
"""close() waits, up to 5 seconds, until the other end has acknowledged this end's FIN: what a test leaves behind would
be sent again while the next one looks at the cable, by then without the policies that protected it."""


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def filler(size: int) -> bytes:
    return (PATTERN * (size // len(PATTERN) + 1))[:size]


def ping(source: Namespace, address: str, count: int = 5, timeout: float = 1.0, size: int = 64) -> list[float]:
    """Send `count` echo requests, one after the other; the round-trip times (seconds) of those answered."""
    v6 = ":" in address
    ident = os.getpid() & 0xFFFF
    times: list[float] = []
    with source:
        sock = echo_socket(address)
    with sock:
        for number in range(count):
            message = echo_request(v6, ident, number, size)
            start = time.monotonic()
            try:
                sock.sendto(message, (address, 0))
            except OSError:
                continue
            while (left := start + timeout - time.monotonic()) > 0:
                sock.settimeout(left)
                try:
                    data = sock.recv(65535)
                except OSError:
                    break
                if echo_reply(v6, data) == (ident, number):
                    times.append(time.monotonic() - start)
                    break
    return times


def echo_socket(address: str) -> socket.socket:
    """For echoes to this address. Takes CAP_NET_RAW in the namespace the calling thread is in."""
    protocol = socket.IPPROTO_ICMPV6 if ":" in address else socket.IPPROTO_ICMP
    return socket.socket(family_of(address), socket.SOCK_RAW, protocol)


def echo_request(v6: bool, ident: int, number: int, size: int = 64) -> bytes:
    """ICMP or ICMPv6, with so many bytes of PATTERN."""
    message = struct.pack("!BBHHH", ICMP6_ECHO if v6 else ICMP_ECHO, 0, 0, ident, number) + filler(size)
    if v6:  # the kernel fills the checksum in
        return message
    return message[:2] + checksum(message).to_bytes(2, "big") + message[4:]


def echo_reply(v6: bool, data: bytes) -> tuple[int, int] | None:
    """(ident, number) of what an `echo_socket` has received; None if it is something else."""
    icmp = data if v6 else data[(data[0] & 15) * 4 :] if data else b""
    if len(icmp) < 8 or icmp[0] != (ICMP6_ECHO_REPLY if v6 else ICMP_ECHO_REPLY):
        return None
    ident, number = struct.unpack_from("!HH", icmp, 4)
    return ident, number


@dataclass
class Transfer:
    """A finished TCP transfer."""

    bytes: int
    seconds: float
    sent_hash: str
    received_hash: str
    error: str = ""

    @property
    def intact(self) -> bool:
        return not self.error and self.sent_hash == self.received_hash


def tcp_transfer(
    source: Namespace,
    sink: Namespace,
    address: str,
    size: int,
    *,
    more: Callable[[], bool] = lambda: False,
    timeout: float = 10.0,
) -> Transfer:
    """Move `size` bytes, and on while `more()`, over one TCP connection to `address` in `sink`; compare SHA-256."""
    with sink:
        listener = socket.create_server((address, 0), family=family_of(address))
    listener.settimeout(timeout)
    received = hashlib.sha256()
    problems: list[str] = []

    def receive() -> None:
        try:
            connection, _ = listener.accept()
            with connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
                connection.settimeout(timeout)
                while chunk := connection.recv(1 << 18):
                    received.update(chunk)
                connection.sendall(b"!")  # all is here: the sender's clock may stop
        except OSError as error:
            problems.append(f"receiver: {error}")

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    block = os.urandom(1 << 16) + filler(1 << 16)
    sent = hashlib.sha256()
    done = 0
    start = time.monotonic()
    try:
        with source:
            connection = socket.socket(family_of(address))
        with connection:
            connection.settimeout(timeout)
            connection.connect(listener.getsockname()[:2])
            while done < size or more():
                connection.sendall(block)
                sent.update(block)
                done += len(block)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)
    except OSError as error:
        problems.append(f"sender: {error}")
    seconds = time.monotonic() - start
    thread.join()
    listener.close()
    return Transfer(done, seconds, sent.hexdigest(), received.hexdigest(), "; ".join(problems))


@dataclass
class Stream:
    """A numbered UDP stream while it runs and after."""

    sent: int = 0
    received: set[int] = field(default_factory=set)
    duplicates: int = 0
    overruns: int = 0
    """Of what is lost: dropped by the kernel because the receiver did not read in time."""

    @property
    def lost(self) -> int:
        return self.sent - len(self.received)


class NumberedStream:
    """Datagrams 0, 1, 2 .. at a steady pace from one namespace to another, each accounted for."""

    def __init__(
        self,
        source: Namespace,
        sink: Namespace,
        address: str,
        per_second: int,
        size: int = 200,
        patience: float = SILENCE,
    ) -> None:
        """`patience`: seconds without any datagram after which nothing more is waited for. On a busy machine what is
        missing may be under way for seconds."""
        with sink:
            self._in = socket.socket(family_of(address), socket.SOCK_DGRAM)
            self._in.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            self._in.bind((address, 0))
            self._in.settimeout(SILENCE)
        with source:
            self._out = socket.socket(family_of(address), socket.SOCK_DGRAM)
            self._out.connect(self._in.getsockname()[:2])
        self._interval = 1 / per_second
        self._payload = filler(size)
        self._patience = patience
        self._stop = threading.Event()
        self._all_sent = threading.Event()
        self.stream = Stream()
        self._sender, self._receiver = (
            threading.Thread(target=turn, daemon=True) for turn in (self._send, self._receive)
        )
        self._sender.start()
        self._receiver.start()

    def _send(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            self._out.send(struct.pack("!I", self.stream.sent) + self._payload)
            self.stream.sent += 1
            due += self._interval
            time.sleep(max(0.0, due - time.monotonic()))

    def _receive(self) -> None:
        heard = time.monotonic()
        while True:
            try:
                number = struct.unpack_from("!I", self._in.recv(65535))[0]
            except TimeoutError:
                if self._all_sent.is_set() and (not self.stream.lost or time.monotonic() - heard >= self._patience):
                    return
                continue
            heard = time.monotonic()
            if number in self.stream.received:
                self.stream.duplicates += 1
            self.stream.received.add(number)

    def finish(self) -> Stream:
        """Stop sending, wait for what is under way, and give the account."""
        self._stop.set()
        self._sender.join()
        self._all_sent.set()
        self._receiver.join()
        self.stream.overruns = receive_drops(self._in)
        self._in.close()
        self._out.close()
        return self.stream
