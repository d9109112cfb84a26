"""`xfrmi daemon --keep none`: no capability at all, and the interfaces of an earlier daemon carry packets.

What goes without: packets, states and policies of these interfaces, UDP encapsulation, deleting interfaces. What does
not is refused, and has then changed nothing.
"""

from __future__ import annotations

import errno
import signal

import pytest

from tests.daemon.test_privileges import sets
from tests.netns import in_netns
from tests.system.hosts import OUTER, Hosts, at, device, device_counts, eventually, tell, two_hosts
from tests.system.test_fail_closed import TUNNELS, carries, load
from xfrmi.errors import XfrmError
from xfrmi.lab.traffic import ping
from xfrmi.lab.wiretap import kind

BASED = (
    "policy add src 10.9.0.0/24 dst 10.8.0.0/24 dir out "
    "tmpl src 192.0.2.1 dst 198.51.100.1 proto esp reqid 99 mode tunnel"
)
REFUSED = (
    "link add more type xfrm if_id 9",
    "link set tun4 mtu 1300",
    "link set tun4 down",
    "link set tun4 name other",
    "link set tun4 alias other",
    "link set tun4 txqueuelen 77",
    "link set tun4 type xfrm if_id 9",
    BASED,
)


def give_up_all(hosts: Hosts) -> None:
    """Start moon's daemon again, without capabilities."""
    hosts.daemons["moon"].send_signal(signal.SIGTERM)
    assert hosts.daemons["moon"].wait(5) == 0
    hosts.daemons["moon"] = hosts.moon.start_daemon("--keep", "none")
    eventually(lambda: sets(hosts.daemons["moon"].pid) == [0] * 5, "it keeps something", seconds=20)


def rekey(hosts: Hosts) -> None:
    fresh = [tunnel.rekeyed() for tunnel in TUNNELS]
    for host in hosts.ends:
        tell(host, "state flush\n" + "".join(tunnel.key_lines() for tunnel in fresh))


def picture(hosts: Hosts) -> list[object]:
    """All that a refused request might have changed."""
    with at(hosts.moon) as client:
        links = [(link.name, link.ifindex, link.if_id, link.mtu, link.txqlen, link.alias) for link in client.links()]
        return [links, len(list(client.states())), len(list(client.policies())), device(hosts.moon, "tun4")]


@in_netns
def test_packets_and_keys() -> None:
    """Every pair of families, both ways, UDP too; new keys under load; what may not be done is refused, as a whole."""
    with two_hosts() as hosts:
        hosts.set_up(*TUNNELS)
        give_up_all(hosts)
        tell(hosts.moon, "".join(tunnel.lines("moon").replace(tunnel.link_lines(), "") for tunnel in TUNNELS))
        rekey(hosts)
        carries(hosts)
        with load(hosts, size=300, pause=0.005):
            rekey(hosts)
        carries(hosts)
        before = picture(hosts)
        for line in REFUSED:
            with pytest.raises(XfrmError) as refused:
                tell(hosts.moon, line)
            assert refused.value.errno == errno.EPERM, line
            assert picture(hosts) == before, line
        carries(hosts)
        assert hosts.shown() == []
        tell(hosts.moon, "link del tun6")
        assert device(hosts.moon, "tun6") is None


@in_netns
def test_a_mark_cannot_be_set() -> None:
    """What a state wants to send with a mark takes CAP_NET_ADMIN: it is dropped and counted, not sent without one."""
    with two_hosts() as hosts:
        tunnel = TUNNELS[0]
        hosts.set_up(tunnel)
        give_up_all(hosts)
        tell(hosts.moon, tunnel.lines("moon").replace(tunnel.link_lines(), ""))
        tell(hosts.moon, f"state delete dst {OUTER['sun', 4]} proto esp spi {tunnel.spi('moon'):#x}\n")
        tell(hosts.moon, tunnel.rekeyed().state_line("moon", "output-mark 0x5"))
        hosts.clear()
        with device_counts(hosts.moon, "tun4", tx_errors=3, tx_aborted_errors=3):
            assert ping(hosts.moon, tunnel.address("sun", 4), 3, timeout=0.2) == []
        assert [kind(frame) for frame in hosts.wire() if kind(frame) == "ESP"] == []
        assert hosts.shown() == []
