"""What the kernel is told about path MTUs: of the right route, and of no other. And we do not listen to ourselves."""

from __future__ import annotations

import select

import pytest
from pyroute2 import IPRoute

from tests.dev.wire import FAMILY, FAR, OWN, Wire, two_ways
from tests.netns import in_netns, ip
from xfrmi.core.path import Path
from xfrmi.dev.icmp_errors import IcmpErrors
from xfrmi.dev.kernel_pmtu import tell_kernel
from xfrmi.wire.address import format_address

both = pytest.mark.parametrize("version", [4, 6])


def path(version: int, mark: int = 0) -> Path:
    return Path(FAMILY[version], OWN[version], FAR[version], mark=mark)


def known(version: int, mark: int = 0) -> tuple[str, int]:
    """By which device the kernel sends, and how much it believes the way to carry; 0: as much as the device."""
    with IPRoute() as netlink:
        dst, src = format_address(FAR[version]), format_address(OWN[version])
        (route,) = netlink.route("get", family=FAMILY[version], dst=dst, src=src, mark=mark)
        (link,) = netlink.get_links(route.get_attr("RTA_OIF"))
    metrics = route.get_attr("RTA_METRICS")
    return link.get_attr("IFLA_IFNAME"), metrics.get_attr("RTAX_MTU") or 0 if metrics else 0


@both
@in_netns
def test_the_kernel_knows_from_then_on(version: int) -> None:
    ip("link set lo up")
    two_ways()
    assert known(version) == ("wire0", 0)
    tell_kernel(path(version), 1400)
    assert known(version) == ("wire0", 1400)
    tell_kernel(path(version), 1450)
    assert known(version) == ("wire0", 1400), "what is more than it knows is no news"
    tell_kernel(path(version), 1300)
    assert known(version) == ("wire0", 1300)


@both
@in_netns
def test_it_is_the_route_of_the_mark(version: int) -> None:
    ip("link set lo up")
    two_ways()
    ip(f"-{version} rule add fwmark 7 table 70")
    ip(f"-{version} route add default dev wire1 table 70")
    tell_kernel(path(version, mark=7), 1400)
    assert known(version, 7) == ("wire1", 1400)
    assert known(version) == ("wire0", 0)


@both
@in_netns
def test_we_do_not_hear_ourselves(version: int) -> None:
    ip("link set lo up")
    Wire()
    errors = IcmpErrors(FAMILY[version])
    tell_kernel(path(version), 1400)
    assert select.select([errors], [], [], 0.05)[0] == []


@both
@in_netns
def test_without_loopback_device_or_route_it_is_no_failure(version: int) -> None:
    ip("link set lo down")
    tell_kernel(path(version), 1400)
    two_ways()
    tell_kernel(path(version), 1400)
    assert known(version) == ("wire0", 0)
