"""core.selector: kernel-behaviour 2.1."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.samples import flow
from tests.each import each
from xfrmi.core.selector import prefix_mask, selector_match
from xfrmi.wire.address import format_address
from xfrmi.wire.flow import Flow
from xfrmi.wire.xfrm_const import AF_INET, AF_INET6, IPPROTO_GRE, IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP
from xfrmi.wire.xfrm_types import Selector

ECHO, ECHO_REPLY = flow(proto=IPPROTO_ICMP, sport=8, dport=0), flow(proto=IPPROTO_ICMP, sport=0, dport=0)

CASES = [
    ("any", Selector.parse(), flow(), 0, True),
    ("source inside", Selector.parse("10.0.0.0/8"), flow("10.255.0.1"), 0, True),
    ("source outside", Selector.parse("10.0.0.0/9"), flow("10.255.0.1"), 0, False),
    ("destination inside", Selector.parse("", "10.1.0.0/31"), flow(dst="10.1.0.1"), 0, True),
    ("destination outside", Selector.parse("", "10.1.0.0/32"), flow(dst="10.1.0.1"), 0, False),
    ("host bits are not compared", Selector.parse("10.0.0.99/8"), flow("10.200.0.1"), 0, True),
    ("IPv6", Selector.parse("2001:db8::/33", "::/0"), flow("2001:db8:7fff::1", "::1"), 0, True),
    ("IPv6 outside", Selector.parse("2001:db8::/33", "::/0"), flow("2001:db8:8000::1", "::1"), 0, False),
    ("protocol", Selector.parse(proto=IPPROTO_UDP), flow(), 0, True),
    ("other protocol", Selector.parse(proto=IPPROTO_TCP), flow(), 0, False),
    ("ports", Selector.parse(proto=IPPROTO_UDP, sport=1000, dport=53), flow(), 0, True),
    ("other source port", Selector.parse(sport=1001), flow(), 0, False),
    ("other destination port", Selector.parse(dport=54), flow(), 0, False),
    ("port 0 under a full mask", Selector.parse(dport=0), flow(), 0, False),
    ("port range by mask", Selector(AF_INET, bytes(4), 0, bytes(4), 0, 0, 992, 0xFFF0, 0, 0), flow(), 0, True),
    ("beyond the range", Selector(AF_INET, bytes(4), 0, bytes(4), 0, 0, 1008, 0xFFF0, 0, 0), flow(), 0, False),
    ("a fragment has no ports", Selector.parse(dport=53), flow(sport=0, dport=0), 0, False),
    ("icmp type 8, any code", Selector.parse(proto=IPPROTO_ICMP, sport=8), ECHO, 0, True),
    ("icmp type 8 against a reply", Selector.parse(proto=IPPROTO_ICMP, sport=8), ECHO_REPLY, 0, False),
    ("gre key", Selector.parse(proto=IPPROTO_GRE, sport=1, dport=2), flow(proto=47, sport=1, dport=2), 0, True),
    ("device", Selector.parse(ifindex=3), flow(), 3, True),
    ("other device", Selector.parse(ifindex=3), flow(), 4, False),
    ("any device", Selector.parse(), flow(), 4, True),
    # The family of the selector is not asked here.
    ("0.0.0.0/0 against IPv6", Selector.parse("0.0.0.0/0"), flow("::1", "::2"), 0, True),
    ("10.0.0.0/8 against IPv6", Selector.parse("10.0.0.0/8"), flow("::1", "::2"), 0, False),
    ("its first bytes against IPv6", Selector.parse("32.1.13.184/32"), flow("2001:db8::1", "::2"), 0, True),
]


@each(
    ("selector", "flow_", "ifindex", "expected"), [pytest.param(*case[1:], id=case[0]) for case in CASES]
)
def test_selector_match(selector: Selector, flow_: Flow, ifindex: int, expected: bool) -> None:
    assert selector_match(selector, flow_, ifindex) is expected


def test_user_is_not_compared() -> None:
    assert selector_match(Selector(AF_INET, bytes(4), 0, bytes(4), user=1000), flow())


@given(st.binary(min_size=4, max_size=4), st.integers(0, 32), st.binary(min_size=4, max_size=4))
def test_IPv4_prefixes_mean_what_ipaddress_means(network: bytes, length: int, address: bytes) -> None:
    expected = ipaddress.ip_address(address) in ipaddress.ip_network((network, length), strict=False)
    selector = Selector(AF_INET, network, length, bytes(4), 0)
    assert selector_match(selector, flow(src=format_address(address))) is expected


@given(st.binary(min_size=16, max_size=16), st.integers(0, 128), st.integers(0, 127))
def test_IPv6_prefixes_compare_exactly_their_bits(network: bytes, length: int, flipped: int) -> None:
    address = (int.from_bytes(network, "big") ^ 1 << (127 - flipped)).to_bytes(16, "big")
    selector = Selector(AF_INET6, bytes(16), 0, network, length)
    flow_ = Flow(AF_INET6, bytes(16), address, 17, 0, 0, True)
    assert selector_match(selector, flow_) is (flipped >= length)


@pytest.mark.parametrize(
    ("length", "bits", "mask"), [(0, 32, 0), (8, 32, 0xFF000000), (32, 32, 2**32 - 1), (128, 32, 2**32 - 1)]
)
def test_prefix_mask(length: int, bits: int, mask: int) -> None:
    assert prefix_mask(length, bits) == mask
