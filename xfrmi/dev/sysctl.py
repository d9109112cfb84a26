"""Switches of this machine as they are now: /proc/sys, of the network namespace that we are in."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xfrmi.core.sysctl import Sysctls
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


class KernelSysctls(Sysctls):
    def __init__(self, workers: int = 1) -> None:
        """`workers`: how many of them stand for a processor each, however many there are."""
        self._workers = workers

    def acq_expires(self) -> int:
        return read_sysctl("net/core/xfrm_acq_expires", super().acq_expires())

    def no_pmtu_disc(self) -> bool:
        return read_sysctl("net/ipv4/ip_no_pmtu_disc", 0) != 0

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
