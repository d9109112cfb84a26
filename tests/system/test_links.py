"""What `link set` does to a device with traffic in it, by our command and by the kernel's own means."""

from __future__ import annotations

import errno

import pytest

from tests.iproute import ip
from tests.system.hosts import (
    Hosts,
    Tunnel,
    at,
    counters,
    device,
    eventually,
    give_addresses,
    rises,
    tell,
)
from tests.system.stage import on_stage
from xfrmi.errors import XfrmError
from xfrmi.lab.traffic import ping
from xfrmi.wire.link_types import IFF_UP

TUNNEL = Tunnel("ipsec0", 42)


def answers(hosts: Hosts, count: int = 2) -> bool:
    """Echoes in both directions and families."""
    return all(
        len(ping(source, TUNNEL.address(sink.name, family), count, timeout=0.3)) == count
        for family in (4, 6)
        for source, sink in (hosts.ends, hosts.ends[::-1])
    )


@on_stage
def test_another_name(hosts: Hosts) -> None:
    """The daemon follows, whoever gives the name; what is counted stays with the device."""
    hosts.set_up(TUNNEL)
    assert answers(hosts)
    before = counters(hosts.moon, "ipsec0")
    tell(hosts.moon, "link set ipsec0 name vpn0")
    assert device(hosts.moon, "ipsec0") is None
    assert counters(hosts.moon, "vpn0") == before
    assert answers(hosts)
    with hosts.moon:
        ip("link set vpn0 name vpn1")  # the kernel, behind the daemon's back
    assert counters(hosts.moon, "vpn1").tx_packets > before.tx_packets
    with at(hosts.moon) as client, pytest.raises(XfrmError) as refused:
        client.link("vpn0")
    assert refused.value.errno == errno.ENODEV
    with pytest.raises(XfrmError) as refused:
        tell(hosts.moon, "link set vpn1 name eth0")
    assert refused.value.errno == errno.EEXIST
    assert answers(hosts)


@on_stage
def test_down_and_up(hosts: Hosts) -> None:
    """RX-07: a device that is down is no device: what arrives for it is refused, nothing leaves; up, and it goes on."""
    hosts.set_up(TUNNEL)
    assert answers(hosts)
    tell(hosts.sun, "link set ipsec0 down")
    received = counters(hosts.sun, "ipsec0").rx_packets
    assert ping(hosts.moon, TUNNEL.address("sun", 4), 2, timeout=0.1) == []
    assert counters(hosts.sun, "ipsec0").rx_packets == received
    assert hosts.shown() == []
    tell(hosts.sun, "link set ipsec0 up")
    hosts.sun.address("ipsec0", f"{TUNNEL.address('sun', 6)}/64")  # the kernel forgets IPv6 addresses, not IPv4
    assert answers(hosts)
    with hosts.sun:
        ip("link set ipsec0 down")
    link = device(hosts.sun, "ipsec0")
    assert link is not None
    with at(hosts.sun) as client:
        assert not client.link("ipsec0").flags & IFF_UP


@on_stage
def test_another_if_id(hosts: Hosts) -> None:
    """DEV-12: `link set type xfrm if_id` moves the device to other states and policies, and back."""
    hosts.set_up(TUNNEL)
    assert answers(hosts)
    tell(hosts.moon, "link set ipsec0 type xfrm if_id 43")
    assert ping(hosts.moon, TUNNEL.address("sun", 4), 1, timeout=0.1) == []
    tell(hosts.moon, "link set ipsec0 type xfrm if_id 42")
    assert answers(hosts)


@on_stage
def test_delete(hosts: Hosts) -> None:
    """DEV-14: the device goes, its states and policies stay, and serve the next device with its if_id."""
    hosts.set_up(TUNNEL)
    assert answers(hosts)
    tell(hosts.moon, "link del ipsec0")
    assert device(hosts.moon, "ipsec0") is None
    with at(hosts.moon) as client:
        assert client.links() == []
        assert len(list(client.states())) == 2
        assert len(list(client.policies())) == 6
    tell(hosts.moon, TUNNEL.link_lines())
    give_addresses(hosts.moon, TUNNEL)
    assert answers(hosts)


@on_stage
def test_deleted_behind_the_daemons_back(hosts: Hosts) -> None:
    """`ip link del` of the TUN: the interface goes, too, and the daemon serves the others on."""
    other = Tunnel("ipsec1", 43)
    hosts.set_up(TUNNEL, other)
    assert answers(hosts)
    with hosts.moon:
        ip("link del ipsec0")
    with at(hosts.moon) as client:
        eventually(lambda: [link.name for link in client.links()] == ["ipsec1"], "ipsec0 is still there")
    with rises(hosts.moon), rises(hosts.sun):
        assert len(ping(hosts.moon, other.address("sun", 4), 3)) == 3
    assert hosts.daemons["moon"].poll() is None
    assert "Traceback" not in hosts.moon.last_words(lines=100)
