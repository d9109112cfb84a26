"""One UDP port for two: IKE messages to the IKE daemon, ESP to us, as the kernel's UDP_ENCAP would part them.

Both sockets have SO_REUSEPORT and form a group, in which a filter chooses by what a datagram begins with (RFC 3948):
four zero bytes, or too little for an SPI, are for the first that was bound; anything else is for the second. If one of
the two is alone, it gets everything.
"""

from __future__ import annotations

import socket

from xfrmi.dev.socket_filter import JEQ, LD_ABS, RET, SO_ATTACH_REUSEPORT_CBPF, attach

_IKE_FIRST = (
    (LD_ABS, 0, 0, 0),  # four bytes that are not there make the verdict 0
    (JEQ, 1, 0, 0),
    (RET, 0, 0, 1),
    (RET, 0, 0, 0),
)


def allow_sharing(sock: socket.socket) -> None:
    """Before bind. Whoever has the port already must have allowed it, too, and be of the same user."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    # Libreswan binds its sockets with it, also anew while we have the port; only then they are made to share.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def take_esp(sock: socket.socket) -> None:
    """After bind, by the second."""
    attach(sock, SO_ATTACH_REUSEPORT_CBPF, _IKE_FIRST)
