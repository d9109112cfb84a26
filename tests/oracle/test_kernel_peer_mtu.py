"""Packets too large for the tunnel, in front of xfrmi and of a real kernel: both tell their senders the same."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import closing
from itertools import product

import pytest

from tests.oracle.kernelpeer.algorithms import GCM
from tests.oracle.kernelpeer.case import MODES, Algorithm, Case
from tests.oracle.kernelpeer.exam import SIZE, connected, counts_agree, crosses, untroubled
from tests.oracle.kernelpeer.pair import DEVICE, Pair, inner
from tests.oracle.kernelpeer.probe import PMTUDISC_DO, PMTUDISC_DONT, Probe, narrow
from tests.oracle.kernelpeer.talk import carries_tcp
from tests.stage import Stage, on_stage
from tests.system.hosts import ROUTER

SHA1 = Algorithm("cbc(aes)", 16, 96, "hmac(sha1)", 20)
NULL = Algorithm("ecb(cipher_null)", 0, 128, "hmac(sha256)", 32)


@pytest.fixture(autouse=True)
def forgetful(kernel_pair: Stage[Pair]) -> None:
    """Nobody remembers the path MTUs of the test before."""
    forget(kernel_pair=kernel_pair)


@on_stage
def forget(kernel_pair: Pair) -> None:
    """`clean` does it for IPv4. IPv6 remembers them with the route: it is replaced by one like it."""
    kernel_pair.tell(
        lambda name: (
            f"route replace {inner(name, 6)}/64 dev {DEVICE} metric 256\nroute replace ::/0 via {ROUTER[name, 6]}\n"
        )
    )


def probes(pair: Pair, case: Case, discover: int = PMTUDISC_DO) -> Iterator[Probe]:
    """From moon, then from sun."""
    for source, sink in (pair.ends, pair.ends[::-1]):
        with closing(Probe(source, sink, case.address(sink.name), discover)) as probe:
            yield probe


WAYS = [
    Case(GCM, mode, inner, outer, encap)
    for mode in ("tunnel", "beet")  # in transport mode it is the outer route's own MTU that a kernel's sender is told
    for inner, outer in MODES[mode]
    for encap in (False, True)
]
OTHER_OVERHEADS = [Case(algorithm, "tunnel", 4, 4) for algorithm in (SHA1, NULL)]


@on_stage
@pytest.mark.parametrize("case", WAYS + OTHER_OVERHEADS, ids=str)
def test_both_ends_are_told_the_same(kernel_pair: Pair, case: Case) -> None:
    """T-11, 5.8: one byte more than fits is refused at both ends with the same limit, and what fits arrives."""
    pair = kernel_pair
    with connected(pair, case), untroubled(pair):
        learned = []
        for probe in probes(pair, case):
            assert probe.mtu == 1500
            learned.append(probe.learn())
            with pytest.raises(OSError) as refused:
                probe.send(learned[-1] + 1)
            assert refused.value.errno == errno.EMSGSIZE
            assert probe.arrives(learned[-1])
        assert learned[0] == learned[1] < 1500
        counts_agree(pair)


@on_stage
@pytest.mark.parametrize(("outer", "encap"), list(product((4, 6), (False, True))))
def test_fragments_outside_and_inside(kernel_pair: Pair, outer: int, encap: bool) -> None:
    """TX-12b: without DF a packet goes on, and its ESP packet in fragments; longer ones are cut by the device."""
    pair = kernel_pair
    case = Case(GCM, "tunnel", 4, outer, encap)
    with connected(pair, case), untroubled(pair):
        for probe in probes(pair, case, PMTUDISC_DONT):
            for size in (1500, 4000, 20_000):
                assert probe.arrives(size), size
        counts_agree(pair)


@on_stage
@pytest.mark.parametrize("outer", (4, 6))
def test_large_ipv6_datagrams(kernel_pair: Pair, outer: int) -> None:
    """An IPv6 sender fragments by what it has been told."""
    pair = kernel_pair
    case = Case(GCM, "tunnel", 6, outer)
    with connected(pair, case), untroubled(pair):
        for probe in probes(pair, case):
            probe.learn()
        for probe in probes(pair, case, PMTUDISC_DONT):
            for size in (4000, 20_000):
                assert probe.arrives(size), size
        counts_agree(pair)


@on_stage
@pytest.mark.parametrize("case", WAYS, ids=str)
def test_a_router_on_the_way_carries_less(kernel_pair: Pair, case: Case) -> None:
    """1.7: the router's ICMP error reaches the end that sealed the packet, the next packet inside makes it known there.

    Both ends arrive at the same figure, and TCP gets through.
    """
    pair = kernel_pair
    with narrow(pair.router, 1400), connected(pair, case):
        learned = [probe.learn() for probe in probes(pair, case)]
        assert learned[0] == learned[1]
        crosses(pair, case)


@on_stage
@pytest.mark.parametrize(("families", "encap"), list(product(((4, 4), (4, 6), (6, 6)), (False, True))))
def test_tcp_over_1280(kernel_pair: Pair, families: tuple[int, int], encap: bool) -> None:
    """The least that IPv6 asks of a link. (IPv6 inside IPv4 cannot be told less than 1280, see deviations.)

    What a kernel has to send of IPv6 over IPv6 it drops here: nobody may be told less than 1280, and its outer packets
    are not fragmented. Ours are.
    """
    pair = kernel_pair
    case = Case(GCM, "tunnel", *families, encap)
    with narrow(pair.router, 1280), connected(pair, case):
        assert carries_tcp(pair.moon, pair.sun, case.address("sun"), SIZE)
        if families != (6, 6):
            assert carries_tcp(pair.sun, pair.moon, case.address("moon"), SIZE)
