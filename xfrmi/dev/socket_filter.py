"""Classic BPF in front of sockets: which packets one lets in, or which of a group gets them (linux/filter.h)."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterable, Sequence

SO_ATTACH_FILTER, SO_ATTACH_REUSEPORT_CBPF = 26, 51
LDX_MSH, LD_ABS, LDB_ABS, LD_IND, LDH_IND, LDB_IND, JEQ, RET = 0xB1, 0x20, 0x30, 0x40, 0x48, 0x50, 0x15, 0x06
SKF_NET_OFF = 0xFFF00000
"""Added to an offset, it counts from the IP header."""

Line = tuple[int, int, int, int]
"""An instruction: its code, how far to jump if true, if false, and its operand."""

INSTRUCTION = struct.Struct("=HBBI")


def assembled(lines: Iterable[Line]) -> bytes:
    """As an array of sock_filter."""
    return b"".join(INSTRUCTION.pack(*line) for line in lines)


def attach(sock: socket.socket, option: int, lines: Sequence[Line]) -> None:
    """Give the socket this program, in place of the one it has. OSError."""
    program = ctypes.create_string_buffer(assembled(lines))
    described = struct.pack("@HP", len(lines), ctypes.addressof(program))
    sock.setsockopt(socket.SOL_SOCKET, option, described)
