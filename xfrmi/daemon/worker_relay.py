"""Packets that a worker hands on: those out of a TUN for which it has no state. Worker 0 decides about them.

A message is the key of the device, then the packet with its virtio_net_hdr as it came out of the TUN, super-packets as
a whole. What the socket does not take at once is lost, and counted as dropped on its way out.

All workers stop at once for a hand-over, and what is on its way to worker 0 is to leave before that. So the others say
which was the last: a number alone, that of the hold.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from xfrmi.wire.vnet import Packet, SuperPacket, emit, parse

if TYPE_CHECKING:
    from xfrmi.core.interface import Interface

PACKETS_A_TURN = 16
BUFFER = 4 << 20
"""Bytes: some sixty super-packets, where the system lets us."""

PATIENCE = 1.0
"""Seconds in which the last word has to be taken, behind everything else."""

_SO_SNDBUFFORCE = 32
_KEY = struct.Struct("=I")


def relay() -> tuple[socket.socket, socket.socket]:
    """(sending end, receiving end)."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    with contextlib.suppress(PermissionError):
        ends[0].setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, BUFFER)
    return ends


class RelayOut:
    def __init__(self, sock: socket.socket, key_of: Callable[[Interface], int]) -> None:
        self._socket = sock
        self._key_of = key_of

    def send(self, interface: Interface, packet: Packet) -> None:
        data = packet.data if isinstance(packet, SuperPacket) else packet
        try:
            self._socket.sendmsg((_KEY.pack(self._key_of(interface)), emit(packet), data))
        except OSError:
            interface.tx_errors += 1
            interface.tx_dropped += 1

    def end(self, serial: int) -> None:
        """There is no more, up to this hold."""
        self._socket.settimeout(PATIENCE)
        with contextlib.suppress(OSError):
            self._socket.send(_KEY.pack(serial))
        self._socket.setblocking(False)


class RelayIn:
    def __init__(self, sock: socket.socket, interfaces: Mapping[int, Interface]) -> None:
        self._socket = sock
        self._interfaces = interfaces
        self._row = memoryview(bytearray(_KEY.size + 70_000))
        self._ended = 0
        """The hold up to which all has come."""

    def receive(self) -> Iterator[tuple[Interface, Packet]]:
        """What has come, PACKETS_A_TURN at most; each packet is good until the next is asked for."""
        for _ in range(PACKETS_A_TURN):
            try:
                length = self._socket.recv_into(self._row)
            except OSError:
                return
            (key,) = _KEY.unpack_from(self._row)
            if length == _KEY.size:
                self._ended = key
                continue
            interface = self._interfaces.get(key) if length else None
            if interface is not None:
                yield interface, parse(self._row[_KEY.size : length])

    def drain(self, take: Callable[[], object], serial: int, stop: socket.socket) -> None:
        """Call `take`, which is to `receive`, until the last word of this hold has come, or `stop` is readable."""
        waiting = select.poll()
        waiting.register(self._socket, select.POLLIN)
        waiting.register(stop, select.POLLIN)
        while self._ended != serial:
            ready = [fd for fd, _ in waiting.poll()]
            if self._socket.fileno() in ready:
                take()
            elif stop.fileno() in ready:
                return
