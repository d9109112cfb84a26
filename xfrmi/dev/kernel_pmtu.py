"""Telling the kernel what a router has said about ESP, as a kernel that does ESP itself would know.

A kernel notes for a destination how much the way there carries, for all its sockets: IKE's to the same peer, and who
looks with `ip route get`. Of ESP it does not believe ICMP errors here (raw.py), and there is no request to set what is
noted. So an error that the core has judged to be about a packet of ours (core/path_mtu.py) is sent once more, over the
loopback device, quoting no more than a header; meanwhile one raw socket is open that does believe, with the path's
mark, by which the kernel finds the route.

    router -> ICMP -> icmp_errors.py -> core/path_mtu.py -> ICMP over lo -> raw socket, believing -> route exception

Our own packets do not depend on it. Where the loopback device is down, or filtered, the kernel does not hear.
"""

from __future__ import annotations

import contextlib
import socket
import struct

from xfrmi.core.path import Path
from xfrmi.dev.sockets import IP_MTU_DISCOVER, SO_MARK
from xfrmi.wire.icmp import ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED, ICMPV6_PKT_TOOBIG
from xfrmi.wire.ip import IPV4_HEADER_LEN, checksum
from xfrmi.wire.xfrm_const import AF_INET, IPPROTO_ESP, IPPROTO_ICMP, IPPROTO_ICMPV6

PMTUDISC_WANT, IPV6_RECVERR = 1, 25

_ICMPV4 = struct.Struct(">BBHxxH")
_ICMPV6 = struct.Struct(">BBHI")
_IPV4 = struct.Struct(">BBHHHBBH4s4s")
_IPV6 = struct.Struct(">IHBB16s16s")
_QUOTED = bytes(8)
"""Of the quoted packet: where its SPI and number were. Nobody asks any more."""
_TTL = 64


def tell_kernel(path: Path, mtu: int) -> None:
    """Packets on `path` have been too big for a router that carries `mtu` bytes. The kernel judges by itself what to
    make of it: it ignores what is more than it knows, and notes no less than 552 (IPv4), or 1280 (IPv6)."""
    with contextlib.suppress(OSError):  # no way to the peer, lo is down: there is nothing to be known
        if path.family == AF_INET:
            _tell(path, _about_ipv4(path, mtu), IPPROTO_ICMP, "127.0.0.1", (socket.IPPROTO_IP, IP_MTU_DISCOVER))
        else:
            _tell(path, _about_ipv6(path, mtu), IPPROTO_ICMPV6, "::1", (socket.IPPROTO_IPV6, IPV6_RECVERR))


def _tell(path: Path, message: bytes, protocol: int, loopback: str, believe: tuple[int, int]) -> None:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with (
        socket.socket(path.family, kind, IPPROTO_ESP) as believer,
        socket.socket(path.family, kind, protocol) as router,
    ):
        believer.setsockopt(*believe, PMTUDISC_WANT)  # which is 1, as "on" for the other
        believer.setsockopt(socket.SOL_SOCKET, SO_MARK, path.mark)
        router.sendto(message, (loopback, 0))


def _about_ipv4(path: Path, mtu: int) -> bytes:
    quoted = _IPV4.pack(0x45, 0, IPV4_HEADER_LEN + len(_QUOTED), 0, 0, _TTL, IPPROTO_ESP, 0, path.src, path.dst)
    message = bytearray(_ICMPV4.pack(ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED, 0, min(mtu, 0xFFFF)) + quoted + _QUOTED)
    struct.pack_into(">H", message, 2, checksum(message))
    return bytes(message)


def _about_ipv6(path: Path, mtu: int) -> bytes:
    """The kernel fills in the checksum."""
    quoted = _IPV6.pack(0x60000000, len(_QUOTED), IPPROTO_ESP, _TTL, path.src, path.dst)
    return _ICMPV6.pack(ICMPV6_PKT_TOOBIG, 0, 0, mtu) + quoted + _QUOTED
