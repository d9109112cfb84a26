"""Switches of this machine as they are now: /proc/sys, of the network namespace that we are in."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xfrmi.core.icmp_limit import IcmpLimits
from xfrmi.core.sysctl import Sysctls
from xfrmi.wire.icmp import ICMP_DEST_UNREACH, ICMPV6_DEST_UNREACH
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6

if TYPE_CHECKING:
    from xfrmi.core.interface import Interface

_FAMILIES = {AF_INET: "ipv4", AF_INET6: "ipv6"}


def read_sysctl(name: str, default: int) -> int:
    """`name` is the path below /proc/sys. `default` where this kernel has no such switch."""
    try:
        with open(f"/proc/sys/{name}", "rb", buffering=0) as knob:
            return int(knob.read(32))
    except (OSError, ValueError):
        return default


def _in_ranges(number: int, name: str) -> bool:
    """Is `number` in a list such as "0-1,3-127"? True where this kernel has no such switch."""
    try:
        with open(f"/proc/sys/{name}", "rb", buffering=0) as knob:
            ranges = [part.split(b"-") for part in knob.read(4096).strip().split(b",") if part]
        return any(int(ends[0]) <= number <= int(ends[-1]) for ends in ranges)
    except (OSError, ValueError):
        return True


class KernelSysctls(Sysctls):
    def __init__(self, workers: int = 1) -> None:
        """`workers`: how many of them stand for a processor each, however many there are."""
        self._workers = workers

    def acq_expires(self) -> int:
        return read_sysctl("net/core/xfrm_acq_expires", super().acq_expires())

    def no_pmtu_disc(self) -> bool:
        return read_sysctl("net/ipv4/ip_no_pmtu_disc", 0) != 0

    def icmp_limits(self) -> IcmpLimits:
        default = super().icmp_limits()
        limited4 = read_sysctl("net/ipv4/icmp_ratemask", 1 << ICMP_DEST_UNREACH) >> ICMP_DEST_UNREACH & 1
        limited6 = _in_ranges(ICMPV6_DEST_UNREACH, "net/ipv6/icmp/ratemask")
        return IcmpLimits(
            read_sysctl("net/ipv4/icmp_ratelimit", 1000) / 1000 if limited4 else None,
            read_sysctl("net/ipv6/icmp/ratelimit", 1000) / 1000 if limited6 else None,
            read_sysctl("net/ipv4/icmp_msgs_per_sec", default.per_second),
            read_sysctl("net/ipv4/icmp_msgs_burst", default.burst),
        )

    def cpus(self) -> int:
        try:
            with open("/sys/devices/system/cpu/possible", "rb", buffering=0) as ranges:
                return max(self._workers, int(re.split(rb"[-,\s]", ranges.read(4096).strip())[-1]) + 1)
        except (OSError, ValueError):
            return super().cpus()

    def disable_policy(self, interface: Interface) -> frozenset[int]:
        return frozenset(
            family
            for family, directory in _FAMILIES.items()
            if any(read_sysctl(f"net/{directory}/conf/{of}/disable_policy", 0) for of in ("all", interface.name))
        )
