"""What routers of the underlay say about packets of this host that were too big for them (1.7).

The kernel believes such errors by itself, of every packet that looks like one of a socket's, forged or not. Therefore
the sockets that send ESP do not let it (raw.py, udp.py), and the errors are read here, for the core to judge. Only they
are: a filter in the kernel drops all other ICMP, also what we ourselves tell the kernel over the loopback device
(kernel_pmtu.py), and a flood is lost at the receive buffer.
"""

from __future__ import annotations

import socket
import struct

from xfrmi.dev.mmsg import ReceiveRows
from xfrmi.dev.raw import explain
from xfrmi.dev.socket_filter import (
    JEQ,
    LD_ABS,
    LDB_ABS,
    LDB_IND,
    LDH_IND,
    LDX_MSH,
    RET,
    SKF_NET_OFF,
    SO_ATTACH_FILTER,
    attach,
)
from xfrmi.wire.icmp import ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED, ICMPV6_PKT_TOOBIG
from xfrmi.wire.ip import Buffer
from xfrmi.wire.xfrm_const import AF_INET, IPPROTO_ESP, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_UDP

BURST = 16
"""Messages of one turn of the loop: whoever floods us gets no more than this between two bursts of packets."""

_ICMP6_FILTER = 1
_QUOTED_PROTOCOL = 8 + 9
_FRAG_NEEDED_FOR_ESP = (
    (LDB_ABS, 0, 0, 12),
    (JEQ, 7, 0, 127),  # from 127.0.0.0/8
    (LDX_MSH, 0, 0, 0),  # X: where the IP header ends
    (LDH_IND, 0, 0, 0),
    (JEQ, 0, 4, ICMP_DEST_UNREACH << 8 | ICMP_FRAG_NEEDED),
    (LDB_IND, 0, 0, _QUOTED_PROTOCOL),
    (JEQ, 1, 0, IPPROTO_ESP),
    (JEQ, 0, 1, IPPROTO_UDP),
    (RET, 0, 0, 0xFFFF),
    (RET, 0, 0, 0),
)
_NOT_FROM_LOOPBACK = (  # ::1. The program sees the payload; the header is before it
    (LD_ABS, 0, 0, SKF_NET_OFF + 20),
    (JEQ, 0, 2, 1),
    (LD_ABS, 0, 0, SKF_NET_OFF + 8),
    (JEQ, 1, 0, 0),
    (RET, 0, 0, 0xFFFF),
    (RET, 0, 0, 0),
)


class IcmpErrors:
    """Receives ICMP "fragmentation needed", or ICMPv6 "packet too big", of one address family."""

    def __init__(self, family: int, fd: int = -1) -> None:
        """`fd`: a socket that another process has opened. Raises XfrmError EPERM without CAP_NET_RAW, EAFNOSUPPORT
        without IPv6."""
        self.family = family
        protocol = IPPROTO_ICMP if family == AF_INET else IPPROTO_ICMPV6
        try:
            kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            self._socket = socket.socket(fileno=fd) if fd >= 0 else socket.socket(family, kind, protocol)
        except OSError as error:
            raise explain(error, family) from None
        if family == AF_INET:
            attach(self._socket, SO_ATTACH_FILTER, _FRAG_NEEDED_FOR_ESP)
        else:
            blocked = bytearray(b"\xff" * 32)  # one bit per type, in words of the host's byte order
            word, bit = divmod(ICMPV6_PKT_TOOBIG, 32)
            struct.pack_into("=I", blocked, word * 4, 0xFFFFFFFF ^ 1 << bit)
            self._socket.setsockopt(IPPROTO_ICMPV6, _ICMP6_FILTER, blocked)
            attach(self._socket, SO_ATTACH_FILTER, _NOT_FROM_LOOPBACK)
        self._rows = ReceiveRows(BURST)

    def fileno(self) -> int:
        return self._socket.fileno()

    def recv_burst(self) -> list[Buffer]:
        """Messages from the ICMP header on, BURST at most. IPv4: checksums have not been verified. Valid until the
        next call."""
        lengths = self._rows.receive(self._socket.fileno())
        rows = zip(self._rows.rows, lengths, strict=False)
        if self.family == AF_INET:
            return [row[(row[0] & 0x0F) << 2 : length] for row, length in rows]
        return [row[:length] for row, length in rows]

    def close(self) -> None:
        self._socket.close()
