"""The UDP socket of udp.py: bound to its port, alone or with others, or what to do about it."""

from __future__ import annotations

import errno
import socket

from xfrmi.dev.port_sharing import allow_sharing, take_esp
from xfrmi.errors import XfrmError
from xfrmi.wire.xfrm_const import AF_INET

IPPROTO_IPV6 = socket.IPPROTO_IPV6


def bind(family: int, port: int, shared: bool = False, with_ike: bool = False, address: str = "") -> socket.socket:
    """A non-blocking UDP socket on all addresses, or one. `shared`: beside others of this user that are, see
    steering.py. `with_ike`: with an IKE daemon that has it already (port_sharing.py). Raises XfrmError EADDRINUSE,
    EACCES, EAFNOSUPPORT, EADDRNOTAVAIL."""
    try:
        return _bind(family, port, shared, with_ike, address)
    except OSError as error:
        raise _explain(error, port) from None


def _bind(family: int, port: int, shared: bool, with_ike: bool, address: str) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family != AF_INET:
            bound.setsockopt(IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if with_ike:
            allow_sharing(bound)
        bound.bind((address, port))
        if with_ike:
            take_esp(bound)
    except OSError:
        bound.close()
        raise
    return bound


def _explain(error: OSError, port: int) -> XfrmError:
    number = error.errno or errno.EIO
    if number == errno.EADDRINUSE:
        detail = f"another program (an IKE daemon?) has UDP port {port}: see who with `ss -ulpn sport = :{port}`"
    elif number == errno.EACCES:
        limit = f"UDP port {port} is below net.ipv4.ip_unprivileged_port_start"
        detail = f"{limit} and takes CAP_NET_BIND_SERVICE: xfrmi daemon --keep net_bind_service"
    else:
        detail = f"UDP port {port}: {error.strerror}"
    return XfrmError(number, "", detail)
