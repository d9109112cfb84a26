"""A device that writes down what passes: wrap any device in it, read the file with tcpdump or Wireshark.

Classic pcap (LINKTYPE_RAW: packets begin with their IP header, nanosecond times), one file for both directions,
readable by its owner only. A super-packet is one record, as when capturing on the TUN itself. A datagram of the
underlay is written as the emulator sees it: headers that a socket does not give are the device's reconstruction.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic

from xfrmi.core.outgoing import Outgoing
from xfrmi.core.train import Arrived
from xfrmi.dev.device import Device, Received, Sent
from xfrmi.wire.ip import Buffer
from xfrmi.wire.vnet import SuperPacket

_FILE_HEADER = struct.Struct("=IHHiIII")
_RECORD_HEADER = struct.Struct("=IIII")
_MAGIC_NANOSECONDS = 0xA1B23C4D
_SNAPLEN = 1 << 18
_LINKTYPE_RAW = 101


class Capture(Generic[Received, Sent]):
    """Is itself the device it wraps. The file is complete after each burst."""

    def __init__(self, device: Device[Received, Sent], path: str, clock: Callable[[], int] = time.time_ns) -> None:
        """Create or overwrite `path` with mode 0600 (OSError as open). `clock` gives Unix nanoseconds."""
        self._device = device
        self._clock = clock
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.fchmod(descriptor, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        self._file.write(_FILE_HEADER.pack(_MAGIC_NANOSECONDS, 2, 4, 0, 0, _SNAPLEN, _LINKTYPE_RAW))
        self._file.flush()

    def fileno(self) -> int:
        return self._device.fileno()

    def recv_burst(self) -> list[Received]:
        burst = self._device.recv_burst()
        self._write(burst)
        return burst

    def send_burst(self, burst: Sequence[Sent]) -> int:
        self._write(burst)
        return self._device.send_burst(burst)

    def close(self) -> None:
        self._device.close()
        self._file.close()

    def _write(self, burst: Sequence[Any]) -> None:
        seconds, nanoseconds = divmod(self._clock(), 1_000_000_000)
        for item in burst:
            for packet in _packets(item):
                self._file.write(_RECORD_HEADER.pack(seconds, nanoseconds, len(packet), len(packet)))
                self._file.write(packet)
        self._file.flush()


def _packets(item: Any) -> Sequence[Buffer]:
    """The IP packets in one item of any device's burst."""
    if isinstance(item, Arrived):
        return [b"".join(datagram) for datagram in item.datagrams()]
    if isinstance(item, Outgoing):
        return item.packets
    if isinstance(item, SuperPacket):
        return [item.data]
    if isinstance(item, tuple):
        return [b"".join(item)]
    return [item]
