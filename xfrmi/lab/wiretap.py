"""A look at the wire: every frame on one device of a node, captured while a block runs, and put back at will."""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections import Counter
from types import TracebackType

from xfrmi.lab.namespace import Namespace

ETH_P_ALL = 3
ETH_P_IP, ETH_P_ARP, ETH_P_IPV6 = 0x0800, 0x0806, 0x86DD
ETH_HEADER_LEN = 14
IPPROTO_ESP = 50
ND_TYPES = range(133, 138)
MLD_TYPES = (130, 131, 132, 143)


class Wiretap:
    """Captures a device: with Wiretap(router, 'eth1') as tap: ..; then tap.frames."""

    def __init__(self, node: Namespace, device: str) -> None:
        with node:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        self._socket.bind((device, ETH_P_ALL))
        self._socket.settimeout(0.1)
        self._stop = threading.Event()
        self.frames: list[bytes] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                frame = self._socket.recv(65535)
            except TimeoutError:
                continue
            except OSError as error:
                if error.errno == errno.ENETDOWN:
                    return  # the device has gone, as where a lab ends before its taps do
                raise
            self.frames.append(frame)  # looked up now: `clear` may have made a new list in the meantime

    def inject(self, frame: bytes) -> None:
        """Put a frame on the wire, towards the other end of the cable."""
        self._socket.send(frame)

    def clear(self) -> None:
        self.frames = []

    def esp(self) -> list[bytes]:
        """The frames that carry ESP, either family."""
        return [frame for frame in self.frames if kind(frame) == "ESP"]

    def kinds(self) -> Counter[str]:
        return Counter(map(kind, self.frames))

    def holds(self, text: bytes) -> int:
        """How many frames show this text."""
        return sum(text in frame for frame in self.frames)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def __enter__(self) -> Wiretap:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def kind(frame: bytes | bytearray) -> str:
    """'ESP', 'neighbour' (ARP, neighbour discovery, multicast listener reports), or what the IP header says."""
    ethertype = int.from_bytes(frame[12:14], "big")
    packet = frame[ETH_HEADER_LEN:]
    if ethertype == ETH_P_ARP:
        return "neighbour"
    if len(packet) < {ETH_P_IP: 20, ETH_P_IPV6: 40}.get(ethertype, 0):
        return "cut off"
    if ethertype == ETH_P_IP:
        return "ESP" if packet[9] == IPPROTO_ESP else f"IPv4 protocol {packet[9]}"
    if ethertype == ETH_P_IPV6:
        header = packet[6]
        rest = packet[40:]
        if header == 0 and len(rest) > 1:  # hop-by-hop options carry the router alert of MLD
            header, rest = rest[0], rest[(rest[1] + 1) * 8 :]
        if header == socket.IPPROTO_ICMPV6 and rest and (rest[0] in ND_TYPES or rest[0] in MLD_TYPES):
            return "neighbour"
        return "ESP" if header == IPPROTO_ESP else f"IPv6 protocol {header}"
    return f"ethertype {ethertype:#06x}"


def esp_offset(frame: bytes | bytearray) -> int:
    """Where the SPI stands in an ESP frame."""
    packet = frame[ETH_HEADER_LEN:]
    return ETH_HEADER_LEN + ((packet[0] & 15) * 4 if packet[0] >> 4 == 4 else 40)


def spi_and_sequence(frame: bytes | bytearray) -> tuple[int, int]:
    spi, sequence = struct.unpack_from("!II", frame, esp_offset(frame))
    return spi, sequence
