"""Two charons: one with xfrmi under exec and an xfrm interface, one with kernel-libipsec, whose tunnels are policies.

Unlike in test_libipsec.py, keys stay where they were negotiated. Only in `make interop`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.interpose.strongswan import Host, connection, need_charon
from tests.netns import in_netns
from tests.oracle.libipsec import charon
from tests.oracle.spread import EVERYTHING
from tests.system.hosts import OUTER, Hosts, eventually, two_hosts
from xfrmi.lab.traffic import NumberedStream, ping, tcp_transfer

pytestmark = pytest.mark.skipif(not EVERYTHING, reason="two IKE daemons, one with libipsec: make interop")

INNER = {"moon": "10.1.0.1", "sun": "10.1.0.2"}


@contextmanager
def connected(outer: int) -> Iterator[tuple[Hosts, Host, charon.Charon]]:
    need_charon()
    charon.need_charon()
    with two_hosts(daemons=False) as hosts:
        host = Host(hosts.moon)
        hosts.sun.address("lo", f"{INNER['sun']}/32")  # libipsec's routes want a local address in the selector
        peer = charon.Charon(
            hosts.sun, connection(OUTER["sun", outer], OUTER["moon", outer], "sun", "moon", selector="10.1.0.0/24")
        )
        peer.load()
        host.launch(connection(OUTER["moon", outer], OUTER["sun", outer], "moon", "sun", selector="10.1.0.0/24"))
        host.run(
            "ip link add ipsec0 type xfrm dev eth0 if_id 42 && ip link set ipsec0 up mtu 1350 && "
            f"ip address add {INNER['moon']}/24 dev ipsec0"
        )
        try:
            yield hosts, host, peer
        except BaseException:
            print(f"{host.last_words()}\nlibipsec said:\n{peer.last_words()}")
            raise
        host.stop()


@pytest.mark.parametrize("outer", [4, 6])
@in_netns
def test_a_tunnel_that_either_side_renews(outer: int) -> None:
    """Its UDP on port 4500 is shared with IKE at both ends. Nothing is lost, and both count the same."""
    with connected(outer) as (hosts, host, peer):
        host.swanctl("--initiate", "--child", "net")
        assert "TUNNEL-in-UDP" in host.swanctl("--list-sas")
        moon, sun = hosts.ends
        for renew in (lambda: host.swanctl("--rekey", "--child", "net"), lambda: peer.rekey("net")):
            for source, sink in ((moon, sun), (sun, moon)):
                assert len(ping(source, INNER[sink.name], 3)) == 3
                assert tcp_transfer(source, sink, INNER[sink.name], 200_000).intact
            eventually(lambda: counted(host) == peer.counts(), lambda: f"{counted(host)}, libipsec {peer.counts()}")
            before = set(counted(host))
            assert len(before) == 2
            stream = NumberedStream(moon, sun, INNER["sun"], 100)
            renew()
            eventually(lambda b=before: len(counted(host).keys() - b) == 2, host.last_words, 10)  # type: ignore[misc]
            eventually(lambda b=before: b.isdisjoint(counted(host)), host.last_words, 10)  # type: ignore[misc]
            done = stream.finish()
            assert (done.lost, done.duplicates) == (0, 0) and done.sent > 5
        eventually(lambda: counted(host) == peer.counts(), lambda: f"{counted(host)}, libipsec {peer.counts()}")


def counted(host: Host) -> dict[int, tuple[int, int]]:
    """What its SAs have carried, by SPI: packets and bytes, as libipsec's counts()."""
    return charon.parse_counts(host.swanctl("--list-sas", "--raw"))
