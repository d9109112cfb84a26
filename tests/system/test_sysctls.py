"""Switches of the machine that a running daemon follows: policies of a device, TTL, PMTU discovery, larval states."""

from __future__ import annotations

import os

from tests.netns import in_netns
from tests.system.hosts import OUTER, Hosts, Tunnel, at, counters, eventually, rises, tell, two_hosts
from xfrmi.lab.namespace import sysctl
from xfrmi.lab.topology import Node
from xfrmi.lab.traffic import ping
from xfrmi.lab.wiretap import ETH_HEADER_LEN
from xfrmi.wire.address import pack_address
from xfrmi.wire.xfrm_const import STATE_NOPMTUDISC, Mode
from xfrmi.wire.xfrm_types import StateInfo

TUNNEL = Tunnel("ipsec0", 42)


def turn(host: Node, name: str, value: int) -> None:
    with host:
        sysctl(name, value)


def arrives(hosts: Hosts, family: int) -> bool:
    return len(ping(hosts.moon, TUNNEL.address("sun", family), 1, timeout=0.3)) == 1


@in_netns
def test_RX_12_disable_policy_of_the_device() -> None:
    """What comes out of it is asked no policy, family by family. Without policies nothing else comes in."""
    with two_hosts() as hosts:
        hosts.set_up(TUNNEL)
        assert arrives(hosts, 4) and arrives(hosts, 6)
        tell(hosts.sun, "policy flush")
        out = "".join(line for line in TUNNEL.lines("sun").splitlines(True) if "policy" in line and "dir out" in line)
        tell(hosts.sun, out)
        with rises(hosts.sun, XfrmInNoPols=2):
            assert not arrives(hosts, 4) and not arrives(hosts, 6)
        turn(hosts.sun, "net.ipv4.conf.ipsec0.disable_policy", 1)
        eventually(lambda: arrives(hosts, 4), "IPv4 is refused still", seconds=9)
        assert not arrives(hosts, 6)
        turn(hosts.sun, "net.ipv6.conf.ipsec0.disable_policy", 1)
        eventually(lambda: arrives(hosts, 6), "IPv6 is refused still", seconds=9)
        turn(hosts.sun, "net.ipv4.conf.ipsec0.disable_policy", 0)
        eventually(lambda: not arrives(hosts, 4), "IPv4 comes in still", seconds=9)
        assert counters(hosts.sun, "ipsec0").rx_errors == 0


@in_netns
def test_5_3_the_ttl_outside_is_the_hosts() -> None:
    with two_hosts() as hosts:
        hosts.set_up(TUNNEL)

        def ttl() -> int:
            hosts.clear()
            assert arrives(hosts, 4)
            sent = [f for f in hosts.wire("moon") if f[ETH_HEADER_LEN + 12 :][:4] == pack_address(OUTER["moon", 4])]
            return sent[0][ETH_HEADER_LEN + 8]

        assert ttl() == 64
        turn(hosts.moon, "net.ipv4.ip_default_ttl", 33)
        eventually(lambda: ttl() == 33, "the TTL is not followed", seconds=8)


@in_netns
def test_3_3_and_3_5_what_new_states_are_made_with() -> None:
    with two_hosts() as hosts, at(hosts.moon) as client:
        has_xfrm = os.path.exists("/proc/sys/net/core/xfrm_acq_expires")
        if has_xfrm:
            turn(hosts.moon, "net.core.xfrm_acq_expires", 165)
        addresses = {"src": OUTER["moon", 4], "dst": OUTER["sun", 4]}
        larval = client.alloc_spi(StateInfo(**addresses, mode=Mode.TUNNEL, reqid=7), 0x1000, 0x1FFF)
        assert larval.limits.hard_add == (165 if has_xfrm else 30)
        turn(hosts.moon, "net.ipv4.ip_no_pmtu_disc", 1)
        tell(hosts.moon, TUNNEL.state_line("moon"))
        shown = [state for state in client.states() if state.spi == TUNNEL.spi("moon")]
        assert [state.flags & STATE_NOPMTUDISC for state in shown] == [STATE_NOPMTUDISC]
