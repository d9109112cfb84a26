"""A second foreign implementation: ESP in UDP between xfrmi and strongSwan's libipsec, which also runs in userspace.

Echoes, fragments and TCP both ways, IPv4 and IPv6 inside, IPv4 and IPv6 outside, for every algorithm libipsec has.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import product

import pytest

from tests.netns import in_netns
from tests.oracle.kernelpeer.pair import Moon
from tests.oracle.kernelpeer.probe import Probe, narrow
from tests.oracle.libipsec.pair import INNER, MTU, Connection, Pair, pair, spi_in_udp
from tests.oracle.libipsec.proposals import PROPOSALS
from tests.oracle.spread import every
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
    chosen = every(4, CONNECTIONS)
    with pair(chosen) as built:
        for connection in chosen:
            built.connect(connection)
        yield built


@pytest.fixture(scope="module")
def peers() -> Iterator[Stage[Pair]]:
    with Stage(connected, lambda peers: peers.hosts.clear(), Pair.last_words, seconds=120) as stage:
        yield stage


@pytest.mark.parametrize("connection", every(4, CONNECTIONS), ids=lambda connection: connection.name)
@on_stage
def test_everything_passes(peers: Pair, connection: Connection) -> None:
    hosts = peers.hosts
    with peers.counted(connection), rises(hosts.moon):
        for family in INNER:
            for source, sink in (hosts.ends, hosts.ends[::-1]):
                address = connection.address(sink.name, family)
                assert len(ping(source, address, 2)) == 2, f"IPv{family} from {source.name}"
                assert len(ping(source, address, 1, size=3000)) == 1, f"IPv{family} fragments from {source.name}"
                transfer = tcp_transfer(source, sink, address, SIZE)
                assert transfer.intact, f"IPv{family} from {source.name}: {transfer}"
    if connection.proposal.secret:
        assert hosts.shown() == []


@pytest.mark.parametrize(("initiator", "outer"), every(3, product(PEER, (4, 6))))
@in_netns
def test_rekey(initiator: str, outer: int) -> None:
    """3.2: new keys follow the old ones under traffic: who has asked for them turns to them first, nothing is lost."""
    connection = Connection(1, GCM, outer)
    with pair([connection], initiator) as peers:
        moon, sun = peers.hosts.ends
        peers.connect(connection)
        old, new = peers.children[connection.name], peers.successors[connection.name]
        turns = {
            "moon": ("out", lambda: tell(moon, connection.state_line(new.child, "moon"))),
            "sun": ("in", lambda: peers.hosts.taps["sun"].inject(new.turn)),
        }
        with rises(moon):
            streams = [
                NumberedStream(source, sink, connection.address(sink.name, family), 100)
                for (source, sink), family in product(((moon, sun), (sun, moon)), INNER)
            ]
            expected = dict(old.spis)
            eventually(lambda: used(peers) == set(expected.values()), "not the old keys")
            tell(moon, connection.state_line(new.child, "sun"))
            for name in (initiator, PEER[initiator]):
                direction, turn = turns[name]
                turn()
                expected[direction] = new.child.spis[direction]
                eventually(lambda: used(peers) == set(expected.values()), f"{name} keeps the old keys")
            time.sleep(0.5)  # what is on its way under the old keys arrives
            tell(moon, "".join(f"state delete {connection.state_id(old, sender)}\n" for sender in PEER))
            time.sleep(0.1)
            assert [(stream.lost, stream.duplicates) for stream in (s.finish() for s in streams)] == [(0, 0)] * 4
        assert peers.hosts.shown() == []


@pytest.mark.parametrize(("outer", "expected"), every(2, ((4, 1338), (6, 1318))))
@in_netns
def test_a_router_on_the_way_carries_less(outer: int, expected: int) -> None:
    """1.7: who sends into xfrmi is told what is left. Who sends into libipsec is not: its host cuts what it seals."""
    connection = Connection(1, GCM, outer)
    with pair([connection]) as peers, narrow(peers.hosts.router, 1400):
        peers.connect(connection)
        ends = peers.hosts.ends
        near, far = map(Moon, ends)
        for family in INNER:
            with closing(Probe(near, far, connection.address("sun", family))) as probe:
                assert probe.mtu == MTU
                assert probe.learn() == expected
                assert probe.arrives(expected)
            for source, sink in (ends, ends[::-1]):
                assert tcp_transfer(source, sink, connection.address(sink.name, family), SIZE).intact


def used(peers: Pair) -> set[int]:
    """SPIs that are seen in a tenth of a second."""
    peers.hosts.clear()
    time.sleep(0.1)
    return {spi for frame in peers.hosts.wire() if (spi := spi_in_udp(frame))}
