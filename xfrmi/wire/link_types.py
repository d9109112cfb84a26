"""An xfrm link as values: what RTM_NEWLINK says about it (kernel-behaviour 1.2, 1.3, 7.8)."""

from __future__ import annotations

from dataclasses import dataclass

IFF_UP = 0x1
IFF_RUNNING = 0x40
IFF_NOARP = 0x80
IFF_LOWER_UP = 0x10000

OPER_UNKNOWN = 0
OPER_DOWN = 2
OPER_UP = 6

POLICY_BASED = "xfrmi-policy"
"""The name of what stands for all devices of the host, where policies without if_id apply."""

XFRM_LINK_MTU = 1500
"""At creation, whatever lies behind (1.2)."""
XFRM_LINK_MIN_MTU = 68
XFRM_LINK_MAX_MTU = 65535
XFRM_LINK_QLEN = 1000
MAX_NAME = 15
"""Characters of a device's name: IFNAMSIZ without the 0 at its end."""


def is_device_name(name: str) -> bool:
    """As ip(8) asks before it asks the kernel."""
    return 0 < len(name) <= MAX_NAME and "/" not in name and not any(char.isspace() for char in name)


@dataclass(frozen=True, slots=True)
class LinkStats:
    """rtnl_link_stats64, in its order."""

    rx_packets: int = 0
    tx_packets: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_errors: int = 0
    tx_errors: int = 0
    rx_dropped: int = 0
    tx_dropped: int = 0
    multicast: int = 0
    collisions: int = 0
    rx_length_errors: int = 0
    rx_over_errors: int = 0
    rx_crc_errors: int = 0
    rx_frame_errors: int = 0
    rx_fifo_errors: int = 0
    rx_missed_errors: int = 0
    tx_aborted_errors: int = 0
    tx_carrier_errors: int = 0
    tx_fifo_errors: int = 0
    tx_heartbeat_errors: int = 0
    tx_window_errors: int = 0
    rx_compressed: int = 0
    tx_compressed: int = 0
    rx_nohandler: int = 0
    rx_otherhost_dropped: int = 0


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """One xfrm device. In a request None (or "") means the attribute is absent; a dump fills everything in."""

    name: str = ""
    ifindex: int = 0
    if_id: int | None = None
    link: int | None = None
    """ifindex of the underlying device; 0 for none (`@NONE`)."""
    link_name: str = ""
    """Name of `link` where the printing side knows it; never on the wire."""
    external: bool = False
    kind: str = "xfrm"
    mtu: int | None = None
    txqlen: int | None = None
    flags: int = IFF_NOARP
    change: int = 0
    """Mask of `flags` that a request changes."""
    operstate: int = OPER_UNKNOWN
    netns_fd: int | None = None
    netns_pid: int | None = None
    target_nsid: int | None = None
    """The namespace where the device is, by our number for it."""
    alias: str | None = None
    """"" takes it away."""
    stats: LinkStats | None = None
