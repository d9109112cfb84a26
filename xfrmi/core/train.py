"""Packet trains: packets of one flow that follow each other through one state, handled as one.

A TUN hands over up to 64 KiB of a stream at once and UDP sockets send and receive as much (UDP_SEGMENT, UDP_GRO), so
a train never has to be taken apart on its way. It is a piece of memory in which ESP packets of one size lie behind each
other; what they have in common is said once:

    Train      sealed, going out: one outer header for all     seal_train.py -> dev/udp.py, dev/raw.py
    Arrived    received, one outer header for all              dev/udp.py, dev/raw.py -> open_train.py

To everybody who does not know trains, a Train is a sequence of complete outer packets, and Arrived.datagrams() are the
datagrams that came.

What makes trains cheap is that the headers of neighbours in a flow differ by constants. As 32-bit words, row i of them
is row 0 plus i times one row, the ramp:

    ESP sequence number +1 | IPv4 identification +1, header checksum -1 | TCP sequence number + payload

One addition makes all headers of a train, one subtraction shows whether received ones belong together. Upper-layer
checksums are the exception, they depend on the payload. Trains in which the identification or a checksum would wrap
are left to burst.py and gro.py, which know no such shortcuts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from xfrmi.core.rows import HEAD_LEN, STEP, field
from xfrmi.wire.ip import Buffer
from xfrmi.wire.vnet import GSO_UDP_L4, SuperPacket

if TYPE_CHECKING:
    from xfrmi.core.open_train import OpenViews
    from xfrmi.core.outer import Finish

Words: TypeAlias = NDArray[np.uint32]

MANY: Final = 256
"""Rows that all ramps have, so that trains of usual lengths share one."""

HEAD_WORDS: Final = HEAD_LEN // 4
"""SPI, sequence number and IV, in 32-bit words."""


class Train(Sequence[Buffer]):
    """Sealed packets, all of the same length but for the last, which may be shorter."""

    __slots__ = ("_count", "_finish", "esp", "header", "size")

    def __init__(self, header: bytes, esp: memoryview, size: int, count: int, finish: Finish) -> None:
        self.header = header
        """Outer header of each, lengths and checksums not yet set (mode.Framing.wrap)."""
        self.esp = esp
        """`count` ESP packets of `size` bytes behind each other, from the SPI on. It is the holder's to read."""
        self.size = size
        self._count = count
        self._finish = finish

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Buffer: ...
    @overload
    def __getitem__(self, index: slice) -> list[Buffer]: ...
    def __getitem__(self, index: int | slice) -> Buffer | list[Buffer]:
        """A complete outer packet, in memory of its own."""
        if isinstance(index, slice):
            return [self._packet(at) for at in range(*index.indices(self._count))]
        return self._packet(range(self._count)[index])

    def _packet(self, index: int) -> bytearray:
        start = index * self.size
        packet = bytearray(self.header)
        packet += self.esp[start : start + self.size]
        self._finish(packet, len(self.header))
        return packet


class Block:
    """Memory of a device in which it receives packets of one length, at equal distances."""

    __slots__ = ("array", "rows", "spis", "views")

    def __init__(self, array: NDArray[np.uint8], rows: list[memoryview]) -> None:
        self.array = array
        """Shape (packets at most, bytes of each), C-contiguous but for the distance of the rows."""
        self.rows = rows
        """The same as views."""
        self.spis: Words = field(array, 0, "u4")
        """SPIs; their byte order is not looked at, only whether they are 0."""
        self.views: OpenViews | None = None
        """open_train.py's: made once for each block and transform."""


class Arrived:
    """Received datagrams of one length that had the same outer header."""

    __slots__ = ("block", "count", "header", "start")

    def __init__(self, header: bytes, block: Block, start: int, count: int) -> None:
        self.header = header
        """The outer header, with the UDP header if there was one."""
        self.block = block
        self.start = start
        self.count = count
        """They are `count` rows of the block from `start` on."""

    def datagrams(self) -> list[tuple[Buffer, Buffer]]:
        return [(self.header, row) for row in self.block.rows[self.start : self.start + self.count]]


class Ramp:
    """How the headers of a kind of train differ, and where the fields are that do not follow that rule."""

    __slots__ = ("check_at", "checks", "flags_at", "header_len", "size", "words")

    def __init__(self, rows: int, version: int, upper: int, header_len: int, gso_size: int, udp: bool) -> None:
        step = np.zeros(HEAD_WORDS + header_len // 4, np.uint32)
        step[1] = 1
        inner = step[HEAD_WORDS:]
        if version == 4:
            inner[1], inner[2] = 0x10000, 0xFFFFFFFF
        if not udp:
            inner[upper // 4 + 1] = gso_size
        count = np.arange(rows, dtype=np.uint32)
        self.words: Words = count[:, None] * step
        """Row i is i times the step: ESP head, IP header, upper-layer header."""
        self.checks: NDArray[np.int64] = np.arange(rows) * (0 if udp else -256 * gso_size)
        """What the growing sequence number adds to a checksum in little-endian words, negative."""
        self.header_len = header_len
        self.size = gso_size
        self.check_at = upper + (6 if udp else 16)
        """Offset of the upper-layer checksum in the inner packet."""
        self.flags_at = 0 if udp else upper + 13
        """Offset of the TCP flags, 0 without."""


def ramp_for(packet: SuperPacket, rows: int) -> Ramp:
    """The ramp of the segments of `packet`, with at least `rows` rows."""
    version, udp = packet.data[0] >> 4, packet.gso_type == GSO_UDP_L4
    return _ramp(max(rows + -rows % STEP, MANY), version, packet.csum_start, packet.hdr_len, packet.gso_size, udp)


_ramp = lru_cache(maxsize=64)(Ramp)
