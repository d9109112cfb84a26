"""What the core asks about the switches of a machine, question by question, so that the answer is that of now.

The answers come from outside (dev/sysctl.py). Who has no machine says `Sysctls()`: all is as a kernel comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xfrmi.core.icmp_limit import IcmpLimits

if TYPE_CHECKING:
    from xfrmi.core.interface import Interface


class Sysctls:
    """The kernel's defaults."""

    def acq_expires(self) -> int:
        """net.core.xfrm_acq_expires: seconds a larval state waits to be completed (3.3)."""
        return 30

    def no_pmtu_disc(self) -> bool:
        """net.ipv4.ip_no_pmtu_disc: no outer IPv4 packet says Don't Fragment (3.5)."""
        return False

    def icmp_limits(self) -> IcmpLimits:
        """net.ipv4.icmp_ratelimit and others: how many ICMP errors may say "unreachable"."""
        return IcmpLimits()

    def cpus(self) -> int:
        """How many processors the machine may have: the `pcpu-num` of a state is less. Any number will do."""
        return 1 << 32

    def disable_policy(self, interface: Interface) -> frozenset[int]:
        """net.{ipv4,ipv6}.conf.NAME.disable_policy: families in which what it receives is let in unasked (RX-12)."""
        return frozenset()
