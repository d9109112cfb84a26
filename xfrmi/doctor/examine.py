"""All checks, in the order in which one would ask; what is lacking comes first."""

from __future__ import annotations

from collections.abc import Callable

from xfrmi.doctor import firewall, host_xfrm, network, ports, process, service, supervision
from xfrmi.doctor.finding import Finding
from xfrmi.doctor.machine import Machine

CHECKS: tuple[Callable[[Machine], Finding], ...] = (
    process.python, process.tun, process.rights, process.container,
    host_xfrm.kernel, host_xfrm.states, host_xfrm.policies,
    network.rp_filter, network.linkdown, network.forwarding, network.underlay,
    firewall.firewall, ports.udp_4500, service.place, service.daemon, supervision.supervision,
)  # fmt: skip


def examine(machine: Machine) -> list[Finding]:
    """Lacks, then warnings, then what is well."""
    return sorted((check(machine) for check in CHECKS), key=lambda finding: finding.level)
