"""What a VTI device cannot do and an xfrm interface must: each limitation of the original motivation, one test.

Two engines joined in memory stand for the two ends.
"""

from __future__ import annotations

import itertools

import pytest

from tests.core.packets import udp
from tests.core.pair import INNER, NOW, OUTER, Host, Pair, policies, receive, tunnel_state, wire
from xfrmi.core import PolicyInfo, Selector, StateInfo, Template
from xfrmi.wire.xfrm_const import Dir, Mode, PolicyType

FAMILIES = list(itertools.product((4, 6), (4, 6)))


@pytest.mark.parametrize("outer", [4, 6])
def test_both_families_through_one_interface(outer: int) -> None:
    """VTI: one family per device and one per tunnel."""
    pair = Pair(outer)
    packets = [udp(*INNER[4]), udp(*INNER[6]), udp(*INNER[4]), udp(*INNER[6])]
    assert pair.send(*packets) == packets
    assert pair.xfrm_left.tx_packets == pair.xfrm_right.rx_packets == 4
    assert pair.left.moved() == pair.right.moved() == {}


@pytest.mark.parametrize("inner", [4, 6])
def test_transport_mode(inner: int) -> None:
    """VTI: tunnel mode only."""
    a, b = INNER[inner]
    left, right = Host(a), Host(b)
    xfrm, _ = left.interface(), right.interface()
    for host in (left, right):
        host.engine.add_state(tunnel_state(a, b, 0x1000, mode=Mode.TRANSPORT, flags=0), NOW)
    for info in policies(a, b, out=True, mode=Mode.TRANSPORT):
        if len(info.selector.saddr) == len(info.templates[0].src):
            left.engine.add_policy(info, NOW)
    packet = udp(a, b)
    outgoing, replies = left.engine.output(xfrm, [packet], NOW)
    assert not replies and receive(right.engine, wire(outgoing)) == [packet]


@pytest.mark.parametrize(("inner", "outer"), FAMILIES)
def test_beet_mode(inner: int, outer: int) -> None:
    """VTI: tunnel mode only."""
    a, b = INNER[inner]
    left, right = Host(a), Host(b)
    xfrm, _ = left.interface(), right.interface()
    bits = 32 if inner == 4 else 128
    selector = Selector.parse(f"{a}/{bits}", f"{b}/{bits}")
    for host in (left, right):
        host.engine.add_state(
            tunnel_state(*OUTER[outer], 0x1000, mode=Mode.BEET, flags=0, selector=selector), NOW
        )
    template = Template(*OUTER[outer], mode=Mode.BEET, reqid=1)
    left.engine.add_policy(PolicyInfo(selector, Dir.OUT, 42, (template,)), NOW)
    right.engine.add_policy(PolicyInfo(selector, Dir.IN, 42, (template,)), NOW)
    packet = udp(a, b)
    outgoing, _ = left.engine.output(xfrm, [packet], NOW)
    delivered = receive(right.engine, wire(outgoing))
    assert len(delivered) == 1 and delivered[0][-13:] == packet[-13:]
    assert right.moved() == {}


def test_several_interfaces_between_the_same_endpoints() -> None:
    """VTI: the key is the pair of endpoints, so there is one device per pair. Here the if_id is."""
    pair = Pair()
    others = {}
    for if_id in (43, 44, 45):
        pair.add_tunnel(4, if_id, if_id * 0x100)
        others[if_id] = (pair.left.interface(f"x{if_id}", if_id), pair.right.interface(f"x{if_id}", if_id))
    packet = udp(*INNER[4])
    for if_id, (here, there) in others.items():
        outer = wire(pair.left.engine.output(here, [packet] * 3, NOW)[0])
        assert {int.from_bytes(p[20:24], "big") for p in outer} == {if_id * 0x100}
        delivered = pair.right.engine.input([(p[:20], p[20:]) for p in outer], NOW)
        assert [(i.name, len(packets)) for i, packets in delivered] == [(there.name, 3)]
    assert pair.xfrm_left.tx_packets == pair.xfrm_right.rx_packets == 0


def test_wildcard_selectors_and_wildcard_endpoints() -> None:
    """VTI: one wildcard device per namespace. Here every interface may have any-selectors and a peer of any source."""
    pair = Pair()
    xfrm1 = pair.left.interface("xfrm1", 43)
    pair.left.engine.add_state(tunnel_state("0.0.0.0", OUTER[4][1], 0x4300, if_id=43), NOW)  # any source
    for info in policies(*OUTER[4], if_id=43, out=True):
        pair.left.engine.add_policy(info, NOW)
    for destination in ("203.0.113.9", "10.1.2.3"):
        packet = udp(INNER[4][0], destination)
        assert wire(pair.left.engine.output(pair.xfrm_left, [packet], NOW)[0])[0][20:24].hex() == "00001000"
        assert wire(pair.left.engine.output(xfrm1, [packet], NOW)[0])[0][20:24].hex() == "00004300"


def test_separate_if_id_in_and_out() -> None:
    """An interface for each direction: what leaves by one comes back by another."""
    left, right = Host(INNER[4][0]), Host(INNER[4][1])
    out = left.interface("out0", 1)
    back = right.interface("in0", 2)
    a, b = OUTER[4]
    left.engine.add_state(tunnel_state(a, b, 0x1000, if_id=1), NOW)
    right.engine.add_state(tunnel_state(a, b, 0x1000, if_id=2), NOW)
    right.interface("out0", 1)
    for info in policies(a, b, if_id=1, out=True):
        left.engine.add_policy(info, NOW)
    for info in policies(a, b, if_id=2, out=False):
        right.engine.add_policy(info, NOW)
    packet = udp(*INNER[4])
    delivered = right.engine.input([(p[:20], p[20:]) for p in wire(left.engine.output(out, [packet], NOW)[0])], NOW)
    assert [(i.name, [bytes(p) for p in ps]) for i, ps in delivered] == [("in0", [packet])]
    assert back.rx_packets == 1 and right.moved() == {}


def test_a_state_of_another_if_id_is_never_used() -> None:
    """The key must match policy and state (T-05): same endpoints, same reqid, other if_id."""
    host = Host()
    xfrm = host.interface()
    host.engine.add_state(tunnel_state(*OUTER[4], 0x1000, if_id=43), NOW)
    for info in policies(*OUTER[4], out=True):
        host.engine.add_policy(info, NOW)
    outgoing, replies = host.engine.output(xfrm, [udp(*INNER[4])], NOW)
    assert not outgoing and len(replies) == 1
    assert host.moved() == {"XfrmOutNoStates": 1}


def test_a_policy_of_another_if_id_lets_nothing_in() -> None:
    """T-14: received on the interface, refused by its policies."""
    pair = Pair()
    engine = pair.right.engine
    engine.flush_policies(PolicyType.MAIN, NOW)
    for info in policies(*OUTER[4], if_id=43, out=False):
        engine.add_policy(info, NOW)
    assert pair.send(udp(*INNER[4])) == []
    assert pair.xfrm_right.rx_packets == 1
    assert pair.right.moved() == {"XfrmInNoPols": 1}


def test_the_transformation_is_guaranteed_whatever_lies_behind() -> None:
    """Routing into the interface is enough: without a policy, or with one that demands nothing, nothing leaves."""
    host = Host()
    xfrm = host.interface()
    packet = udp(*INNER[4])
    assert wire(host.engine.output(xfrm, [packet], NOW)[0]) == []
    host.engine.add_policy(PolicyInfo(Selector.parse("0.0.0.0/0"), Dir.OUT, 42), NOW)
    assert wire(host.engine.output(xfrm, [packet], NOW)[0]) == []
    assert (xfrm.tx_errors, xfrm.tx_dropped, xfrm.tx_carrier, xfrm.tx_packets) == (2, 2, 2, 0)
    assert host.moved() == {}


def test_state_keyword_form_needs_no_packing() -> None:
    """At a prompt addresses are text."""
    info = StateInfo(src="192.0.2.1", dst="2001:db8::1", spi=1)
    assert info.src == bytes((192, 0, 2, 1)) and len(info.dst) == 16
