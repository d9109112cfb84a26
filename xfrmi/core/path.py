"""The way an outer packet leaves: everything the sending side needs to choose a socket and a route."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Path:
    """Where a state's packets go. Equal paths share a socket, a route and a burst."""

    family: int
    src: bytes
    """Outer source, packed; the any address where the host is to choose."""
    dst: bytes
    sport: int = 0
    """UDP ports when encapsulated, both 0 for protocol 50."""
    dport: int = 0
    mark: int = 0
    """Mark of the outer packet, for the route lookup (set-mark, 3.8)."""
    ifindex: int = 0
    """The underlying device an xfrm link is bound to, 0 for none."""
    use_udp_socket: bool = False
    """Tunnel mode in UDP: a plain UDP socket can send it (and segment it). Otherwise the header is ours to the bit."""
