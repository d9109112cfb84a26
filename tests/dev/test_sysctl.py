"""The switches of the machine, turned and read again. Each namespace has its own."""

from __future__ import annotations

import os

import pytest

from tests.netns import in_netns, sysctl
from xfrmi.core.interface import Interface
from xfrmi.core.sysctl import Sysctls
from xfrmi.dev.sysctl import KernelSysctls, read_sysctl
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6


@in_netns
def test_a_new_namespace_has_the_defaults() -> None:
    here, default = KernelSysctls(), Sysctls()
    assert here.acq_expires() == default.acq_expires()
    assert here.no_pmtu_disc() == default.no_pmtu_disc()
    assert here.disable_policy(Interface("lo", 1)) == frozenset({AF_INET}), "of lo the kernel asks no policies"


@in_netns
def test_each_answer_is_that_of_now() -> None:
    here = KernelSysctls()
    for value in (1, 2, 0):
        sysctl("net.ipv4.ip_no_pmtu_disc", value)
        assert here.no_pmtu_disc() == (value != 0)
    if os.path.exists("/proc/sys/net/core/xfrm_acq_expires"):  # not where the kernel has no xfrm at all
        sysctl("net.core.xfrm_acq_expires", 165)
        assert here.acq_expires() == 165


@in_netns
def test_how_many_icmp_errors_there_may_be() -> None:
    here = KernelSysctls()
    sysctl("net.ipv4.icmp_ratelimit", 500)
    sysctl("net.ipv6.icmp.ratelimit", 0)
    limits = here.icmp_limits()
    assert (limits.apart4, limits.apart6) == (0.5, 0.0)
    if os.path.exists("/proc/sys/net/ipv4/icmp_msgs_burst"):  # where each namespace has its own
        sysctl("net.ipv4.icmp_msgs_burst", 77)
        sysctl("net.ipv4.icmp_msgs_per_sec", 88)
        limits = here.icmp_limits()
        assert (limits.burst, limits.per_second) == (77, 88)
    sysctl("net.ipv4.icmp_ratemask", 0xFFFF & ~(1 << 3))
    sysctl("net.ipv6.icmp.ratemask", "3-127")
    limits = here.icmp_limits()
    assert (limits.apart4, limits.apart6) == (None, None)
    sysctl("net.ipv6.icmp.ratemask", "")
    assert here.icmp_limits().apart6 is None
    sysctl("net.ipv6.icmp.ratemask", "0-1,3-127")
    assert here.icmp_limits().apart6 == 0.0


@pytest.mark.parametrize("of", ["lo", "all"])
@in_netns
def test_RX_12_disable_policy_of_a_device_or_of_all(of: str) -> None:
    here = KernelSysctls()
    lo = Interface("lo", 1)
    sysctl("net.ipv4.conf.lo.disable_policy", 0)
    assert here.disable_policy(lo) == frozenset()
    sysctl(f"net.ipv6.conf.{of}.disable_policy", 1)
    assert here.disable_policy(lo) == frozenset({AF_INET6})
    sysctl(f"net.ipv4.conf.{of}.disable_policy", 1)
    assert here.disable_policy(lo) == frozenset({AF_INET, AF_INET6})


def test_what_this_kernel_does_not_have() -> None:
    assert read_sysctl("net/ipv4/conf/no-such-device/disable_policy", 7) == 7
    assert KernelSysctls().disable_policy(Interface("no-such-device", 1)) <= {AF_INET, AF_INET6}


def test_the_processors_that_this_machine_may_have() -> None:
    count = KernelSysctls().cpus()
    assert count == os.sysconf("SC_NPROCESSORS_CONF") or count > max(os.sched_getaffinity(0))
