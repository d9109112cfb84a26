"""One UDP port for two: IKE messages to the IKE daemon, ESP to us, as the kernel's UDP_ENCAP would part them.

Both sockets have SO_REUSEPORT and form a group, in which a filter chooses by what a datagram begins with (RFC 3948):
four zero bytes, or too little for an SPI, are for the first that was bound; anything else is for the second. If one of
the two is alone, it gets everything.
"""

from __future__ import annotations

import ctypes
import socket
import struct

_SO_ATTACH_REUSEPORT_CBPF = 51
_LD_ABS, _JEQ, _RET = 0x20, 0x15, 0x06
_IKE_FIRST = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in (
        (_LD_ABS, 0, 0, 0),  # four bytes that are not there make the verdict 0
        (_JEQ, 1, 0, 0),
        (_RET, 0, 0, 1),
        (_RET, 0, 0, 0),
    )
)


def allow_sharing(sock: socket.socket) -> None:
    """Before bind. Whoever has the port already must have allowed it, too, and be of the same user."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    # An IKE daemon that is started again binds its socket first, and only then it is made to share.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def take_esp(sock: socket.socket) -> None:
    """After bind, by the second."""
    program = ctypes.create_string_buffer(_IKE_FIRST, len(_IKE_FIRST))
    fprog = struct.pack("@HP", len(_IKE_FIRST) // 8, ctypes.addressof(program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, fprog)
