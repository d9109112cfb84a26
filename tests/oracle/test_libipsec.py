"""A second foreign implementation: ESP in UDP between xfrmi and strongSwan's libipsec, which also runs in userspace.

Echoes, fragments and TCP both ways, IPv4 and IPv6 inside, IPv4 and IPv6 outside, for every algorithm libipsec has.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest

from tests.oracle.libipsec.pair import INNER, Connection, Pair, pair
from tests.oracle.libipsec.proposals import PROPOSALS
from tests.stage import Stage, on_stage
from tests.system.hosts import rises
from xfrmi.lab.traffic import ping, tcp_transfer

CONNECTIONS = [
    Connection(number, proposal, outer) for number, (outer, proposal) in enumerate(product((4, 6), PROPOSALS), 1)
]
SIZE = 200_000


@pytest.fixture(scope="module")
def peers() -> Iterator[Stage[Pair]]:
    with Stage(lambda: pair(CONNECTIONS), lambda peers: peers.hosts.clear(), Pair.last_words) as stage:
        yield stage


@pytest.mark.parametrize("connection", CONNECTIONS, ids=lambda connection: connection.name)
@on_stage
def test_everything_passes(peers: Pair, connection: Connection) -> None:
    hosts = peers.hosts
    with rises(hosts.moon):
        for family in INNER:
            for source, sink in (hosts.ends, hosts.ends[::-1]):
                address = connection.address(sink.name, family)
                assert len(ping(source, address, 2)) == 2, f"IPv{family} from {source.name}"
                assert len(ping(source, address, 1, size=3000)) == 1, f"IPv{family} fragments from {source.name}"
                transfer = tcp_transfer(source, sink, address, SIZE)
                assert transfer.intact, f"IPv{family} from {source.name}: {transfer}"
    if connection.proposal.secret:
        assert hosts.shown() == []
