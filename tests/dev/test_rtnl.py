"""The small rtnetlink client, against the kernel."""

from __future__ import annotations

import errno
import socket

import pytest

from tests.dev.wire import OWN, OWN4, OWN6, PEER, Wire
from tests.netns import Namespace, in_netns, ip
from xfrmi.dev.rtnl import IFF_MULTICAST, RTN_LOCAL, RTN_UNICAST, Address, RouteAnswer, Rtnl
from xfrmi.errors import XfrmError
from xfrmi.wire.link_types import IFF_UP

both = pytest.mark.parametrize("version", [4, 6])


@in_netns
def test_a_link_by_name_and_by_index() -> None:
    ip("link add veth0 type veth peer name veth1")
    ip("link set veth0 up mtu 1400 txqueuelen 77 alias one")
    rtnl = Rtnl()
    link = rtnl.link("veth0")
    assert link is not None
    assert link == rtnl.link(link.ifindex)
    assert (link.name, link.mtu, link.qlen, link.kind, link.alias) == ("veth0", 1400, 77, "veth", "one")
    assert link.flags & IFF_UP
    assert link.link == socket.if_nametoindex("veth1")
    assert {other.name for other in rtnl.links()} == {"lo", "veth0", "veth1"}


@in_netns
def test_a_link_that_is_not_there() -> None:
    rtnl = Rtnl()
    assert rtnl.link("nothing") is None
    assert rtnl.link(4711) is None


@in_netns
def test_statistics_move() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(bytes(100), ("127.0.0.1", 9))
    link = Rtnl().link("lo")
    assert link is not None
    assert link.stats.tx_packets >= 1
    assert link.stats.tx_bytes >= 128


@in_netns
def test_changing_one_thing_leaves_the_rest() -> None:
    ip("link add veth0 type veth peer name veth1")
    rtnl = Rtnl()
    before = rtnl.link("veth0")
    assert before is not None
    index = before.ifindex
    rtnl.set_link(index, mtu=1300)
    rtnl.set_link(index, up=True, multicast=False)
    rtnl.set_link(index, txqlen=1000, alias="tunnel to the branch")
    rtnl.set_link(index, up=False)
    rtnl.set_link(index, name="renamed")
    after = rtnl.link(index)
    assert after is not None
    assert (after.name, after.mtu, after.qlen, after.alias) == ("renamed", 1300, 1000, "tunnel to the branch")
    assert not after.flags & (IFF_UP | IFF_MULTICAST)
    rtnl.delete_link(index)
    assert rtnl.link(index) is None


@in_netns
def test_moving_to_another_namespace() -> None:
    ip("link add veth0 type veth peer name veth1")
    rtnl, there = Rtnl(), Namespace()
    with there:
        rtnl_there = Rtnl()
    link = rtnl.link("veth1")
    assert link is not None
    rtnl.set_link(link.ifindex, netns_fd=there.fd)
    assert rtnl.link("veth1") is None
    assert rtnl_there.link("veth1") is not None


@in_netns
def test_refusals_carry_the_kernels_words() -> None:
    ip("link add veth0 type veth peer name veth1")
    rtnl = Rtnl()
    with pytest.raises(XfrmError) as too_small:
        rtnl.set_link(socket.if_nametoindex("veth0"), mtu=10)
    assert (too_small.value.errno, too_small.value.extack) == (errno.EINVAL, "mtu less than device minimum")
    with pytest.raises(XfrmError) as missing:
        rtnl.delete_link(4711)
    assert missing.value.errno == errno.ENODEV
    assert rtnl.link("lo") is not None  # the socket is in step again


@in_netns
def test_addresses_are_our_own_end() -> None:
    ip("link add veth0 type veth peer name veth1")
    ip("addr add 192.0.2.1 peer 192.0.2.9/32 dev veth0")
    ip("addr add 10.0.0.1/24 brd + dev veth1")
    ip("addr add 2001:db8::1/64 dev veth0 nodad")
    one, other = socket.if_nametoindex("veth0"), socket.if_nametoindex("veth1")
    found = Rtnl().addresses()
    for expected in (Address(one, OWN4, 32), Address(other, bytes((10, 0, 0, 1)), 24), Address(one, OWN6, 64)):
        assert expected in found
    assert Address(1, bytes(15) + b"\1", 128) in found


@in_netns
def test_a_dump_of_many_links_is_whole() -> None:
    for number in range(60):
        ip(f"link add veth{number} type veth peer name peer{number}")
    assert len({link.ifindex for link in Rtnl().links()}) == 121


@both
@in_netns
def test_a_route(version: int) -> None:
    Wire()
    rtnl = Rtnl()
    wire = socket.if_nametoindex("wire0")
    assert rtnl.route(PEER[version]) == RouteAnswer(RTN_UNICAST, wire, OWN[version], 0, False, 0)
    assert rtnl.route(PEER[version], OWN[version], wire, 7).ifindex == wire
    assert rtnl.route(OWN[version]).type == RTN_LOCAL
    network = "192.0.2.128/25" if version == 4 else "2001:db8::8000/113"
    ip(f"-{version} route add {network} dev wire0 mtu 1333 hoplimit 9")
    special = rtnl.route(PEER[version][:-2] + (b"\x02\x90" if version == 4 else b"\x80\x01"))
    assert (special.mtu, special.hop_limit) == (1333, 9)


@both
@in_netns
def test_no_route(version: int) -> None:
    with pytest.raises(XfrmError) as refused:
        Rtnl().route(PEER[version])
    assert refused.value.errno == errno.ENETUNREACH
