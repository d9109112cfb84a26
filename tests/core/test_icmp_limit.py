"""ICMP errors of ours are as many as a kernel's, whoever provokes them."""

from __future__ import annotations

import pytest

from tests.core.packets import udp
from tests.core.pair import INNER, NOW, Pair
from xfrmi.core import Engine
from xfrmi.core.icmp_limit import BURST, MAX_DESTINATIONS, IcmpLimit, IcmpLimits
from xfrmi.core.router import StaticRouter
from xfrmi.core.sysctl import Sysctls
from xfrmi.wire.address import pack_address
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6

SENDERS = {4: "10.0.0.1", 6: "fd00::1"}
FAMILY = {4: AF_INET, 6: AF_INET6}
both = pytest.mark.parametrize("version", [4, 6])


def one_each(count: int) -> bytes:
    """What random would say for an error to cost one."""
    return b"\1" * count


class Host:
    """Without any policy: each packet is refused, and its sender told."""

    def __init__(self, version: int, local: bool, **limits: float | None) -> None:
        self.version = version
        mine = frozenset({pack_address(SENDERS[version])} if local else ())
        self.engine = Engine(StaticRouter(local=mine), random=one_each, sysctls=Sysctls())
        self.engine.sysctls.icmp_limits = lambda: IcmpLimits(**limits)  # type: ignore[arg-type,method-assign]
        self.interface = self.engine.add_interface("xfrm0", 42)

    def told(self, count: int, now: float, source: str = "") -> int:
        packets = [udp(source or SENDERS[self.version], SENDERS[self.version][:-1] + "2")] * count
        before = self.interface.tx_carrier
        _, replies = self.engine.output(self.interface, packets, now)
        assert self.interface.tx_carrier == before + count, "all are counted"
        return len(replies)


@both
def test_a_sender_elsewhere_hears_one_in_a_second(version: int) -> None:
    host = Host(version, local=False)
    assert host.told(50, NOW) == BURST
    assert host.told(50, NOW + 0.9) == 0
    assert host.told(50, NOW + 1.1) == 1
    assert host.told(50, NOW + 3.2) == 2
    assert host.told(50, NOW + 1000) == BURST
    assert host.told(1, NOW + 1000, SENDERS[version] + "9") == 1, "another one"


@both
def test_a_sender_here_hears_a_thousand_in_a_second(version: int) -> None:
    host = Host(version, local=True)
    assert host.told(200, NOW) == 50
    assert host.told(200, NOW + 0.019) == 0
    assert host.told(200, NOW + 0.0305) == 30
    assert sum(host.told(100, NOW + 1 + step / 100) for step in range(100)) in range(950, 1051)


def test_both_families_share_what_all_may_have() -> None:
    limit = IcmpLimit(IcmpLimits, one_each)
    allowed = [limit.allows(family, b"", True, NOW) for family in (AF_INET, AF_INET6) * 50]
    assert sum(allowed) == 50


def test_what_one_costs_is_not_to_be_foretold() -> None:
    """None, one or two: over many refills as many as the switch says."""
    costs = iter(bytes(range(256)) * 100)
    limit = IcmpLimit(IcmpLimits, lambda count: bytes(next(costs) for _ in range(count)))
    told = sum(limit.allows(AF_INET, b"", True, NOW + step / 10_000) for step in range(20_000))
    assert 1900 < told < 2200


@both
def test_the_switches(version: int) -> None:
    apart = f"apart{version}"
    assert Host(version, False, **{apart: 0.5}).told(50, NOW) == BURST
    assert Host(version, False, **{apart: 15.0}).told(50, NOW) == 4, "new: a minute saved up, as Linux 6.18 has it"
    assert Host(version, False, **{apart: 61.0}).told(50, NOW) == 0, "likewise"
    assert Host(version, False, **{apart: 0.0}).told(99, NOW) == 50, "not by destination"
    assert Host(version, False, **{apart: None}).told(99, NOW) == 99, "not at all"
    assert Host(version, True, per_second=200, burst=7).told(99, NOW) == 7
    assert Host(version, True, per_second=0).told(99, NOW) == 0


def test_a_switch_is_asked_again_after_a_second() -> None:
    host = Host(4, local=True)
    assert host.told(99, NOW) == 50
    host.engine.sysctls.icmp_limits = lambda: IcmpLimits(burst=3)  # type: ignore[method-assign]
    assert host.told(99, NOW + 0.5) == 50
    assert host.told(99, NOW + 1.5) == 3


@both
def test_path_mtus_are_always_told(version: int) -> None:
    pair = Pair()
    long = udp(*INNER[version], payload=bytes(1600))
    _, replies = pair.left.engine.output(pair.xfrm_left, [long] * 99, NOW)
    assert len(replies) == 99


def test_many_senders_do_not_fill_the_memory() -> None:
    limit = IcmpLimit(lambda: IcmpLimits(burst=1 << 20, per_second=1 << 20), one_each)
    for number in range(3 * MAX_DESTINATIONS):
        assert limit.allows(AF_INET, number.to_bytes(4), False, NOW)
    assert len(limit._tokens) <= MAX_DESTINATIONS


def test_the_clock_may_be_set_back() -> None:
    host = Host(4, local=False)
    assert host.told(50, NOW) == BURST
    assert host.told(50, NOW - 100_000) == 0
    assert host.told(50, NOW - 99_998.9) == 1


def test_who_hears_nothing_for_the_others_sake_keeps_what_he_has_saved_up() -> None:
    """Linux 6.18, by UDP to closed ports: after 2935 refusals for want of what all may have, still six at once."""
    limit = IcmpLimit(IcmpLimits, one_each)
    strangers = [limit.allows(AF_INET, number.to_bytes(4), False, NOW) for number in range(800)]
    assert sum(strangers) == 50
    assert not any(limit.allows(AF_INET, b"late", False, NOW + 0.01) for _ in range(2935))
    assert sum(limit.allows(AF_INET, b"late", False, NOW + 0.05) for _ in range(114)) == BURST


def test_who_has_had_his_share_takes_nothing_from_the_others() -> None:
    limit = IcmpLimit(IcmpLimits, one_each)
    assert sum(limit.allows(AF_INET, b"loud", False, NOW) for _ in range(159)) == BURST
    assert sum(limit.allows(AF_INET, b"here", True, NOW) for _ in range(159)) == 50 - BURST
