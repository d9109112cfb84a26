"""A second foreign implementation: ESP in UDP between xfrmi and strongSwan's libipsec, which also runs in userspace.

Echoes, fragments and TCP both ways, IPv4 and IPv6 inside, IPv4 and IPv6 outside, for every algorithm libipsec has.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

import pytest

from tests.netns import in_netns
from tests.oracle.libipsec.pair import INNER, Connection, Pair, pair, spi_in_udp
from tests.oracle.libipsec.proposals import PROPOSALS
from tests.stage import Stage, on_stage
from tests.system.hosts import PEER, eventually, rises, tell
from xfrmi.lab.traffic import NumberedStream, ping, tcp_transfer

CONNECTIONS = [
    Connection(number, proposal, outer) for number, (outer, proposal) in enumerate(product((4, 6), PROPOSALS), 1)
]
SIZE = 200_000
GCM = next(proposal for proposal in PROPOSALS if proposal.name == "aes128gcm16")


@contextmanager
def connected() -> Iterator[Pair]:
    with pair(CONNECTIONS) as built:
        for connection in CONNECTIONS:
            built.connect(connection)
        yield built


@pytest.fixture(scope="module")
def peers() -> Iterator[Stage[Pair]]:
    with Stage(connected, lambda peers: peers.hosts.clear(), Pair.last_words) as stage:
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
    peers.counts_agree(connection)
    if connection.proposal.secret:
        assert hosts.shown() == []


@pytest.mark.parametrize("outer", [4, 6])
@in_netns
def test_rekey(outer: int) -> None:
    """3.2: new keys follow the old ones under traffic: libipsec turns to them, then xfrmi, nothing is lost."""
    connection = Connection(1, GCM, outer)
    with pair([connection], rekeyed=[connection]) as peers:
        moon, sun = peers.hosts.ends
        peers.connect(connection)
        old, new = peers.children[connection.name], peers.successors[connection.name]
        with rises(moon):
            streams = [
                NumberedStream(source, sink, connection.address(sink.name, family), 100)
                for (source, sink), family in product(((moon, sun), (sun, moon)), INNER)
            ]
            eventually(lambda: used(peers) == {old.spis["in"], old.spis["out"]}, "not the old keys")
            tell(moon, connection.state_line(new.child, "sun"))
            peers.hosts.taps["sun"].inject(new.answer)
            eventually(lambda: used(peers) == {new.child.spis["in"], old.spis["out"]}, "libipsec keeps the old keys")
            tell(moon, connection.state_line(new.child, "moon"))
            eventually(lambda: used(peers) == set(new.child.spis.values()), "xfrmi keeps the old keys")
            tell(moon, "".join(f"state delete {connection.state_id(old, sender)}\n" for sender in PEER))
            time.sleep(0.1)
            assert [(stream.lost, stream.duplicates) for stream in (s.finish() for s in streams)] == [(0, 0)] * 4
        assert peers.hosts.shown() == []


def used(peers: Pair) -> set[int]:
    """SPIs that are seen in a tenth of a second."""
    peers.hosts.clear()
    time.sleep(0.1)
    return {spi for frame in peers.hosts.wire() if (spi := spi_in_udp(frame))}
