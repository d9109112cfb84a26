"""The router protocol's stand-in for prompts and tests."""

from xfrmi.core.router import Route, Router, StaticRouter, is_multicast
from xfrmi.wire.address import pack_address


def test_everything_is_reachable_with_one_mtu() -> None:
    router: Router = StaticRouter(mtu=1400)
    peer, own = pack_address("192.0.2.1"), pack_address("192.0.2.9")
    assert router.route(peer, own, 3, 0) == Route(1400, 3, own)
    assert router.route(pack_address("2001:db8::1"), b"", 0, 0) == Route(1400, 0, bytes(16))


def test_own_addresses_and_multicast_are_local() -> None:
    own = pack_address("10.0.0.1")
    router = StaticRouter(local={own})
    assert router.is_local(1, own)
    assert router.is_local(1, pack_address("ff02::1"))
    assert not router.is_local(1, pack_address("10.0.0.2"))


def test_multicast() -> None:
    for text in ("224.0.0.1", "239.255.255.255", "255.255.255.255", "ff00::"):
        assert is_multicast(pack_address(text)), text
    for text in ("223.255.255.255", "240.0.0.1", "fe80::1", "0.0.0.0"):
        assert not is_multicast(pack_address(text)), text
