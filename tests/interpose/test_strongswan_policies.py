"""Stock charons with stock connections: no if_id, no xfrm interface, only traffic selectors."""

from __future__ import annotations

import pytest

from tests.interpose.strongswan import ADDRESS, PEER, Host, eventually, two_hosts
from tests.netns import in_netns
from tests.oracle.spread import EVERYTHING
from xfrmi.lab.wiretap import Wiretap, kind

pytestmark = pytest.mark.skipif(not EVERYTHING, reason="two charons: make interop")

INSIDE = {"moon": "10.1.0.1", "sun": "10.2.0.1"}
NETS = {"moon": "10.1.0.0/16", "sun": "10.2.0.0/16"}


def start(*hosts: Host, child: str = "", ike: str = "") -> None:
    """Both gateways with a network behind each, whose address inside charon finds by itself."""
    for host in hosts:
        host.node.address("lo", f"{INSIDE[host.name]}/32")
        host.start(if_id="0", nets=(NETS[host.name], NETS[PEER[host.name]]), child=child, ike=ike)


def in_the_clear(tap: Wiretap) -> list[str]:
    """Kinds of what is neither ESP, nor IKE, nor finds neighbours."""
    return [kind(frame) for frame in tap.frames if kind(frame) not in ("ESP", "neighbour") and not is_ike(frame)]


def is_ike(frame: bytes) -> bool:
    ports = int.from_bytes(frame[34:36]), int.from_bytes(frame[36:38])
    return kind(frame) == "IPv4 protocol 17" and bool({500, 4500} & set(ports))


@in_netns
def test_between_two_networks() -> None:
    """Also renewed, ended, and without a route or an interface of anybody's making but charon's."""
    with two_hosts() as (moon, sun):
        start(moon, sun)
        moon.swanctl("--initiate", "--child", "net")
        with Wiretap(sun.node, "eth0") as tap:
            assert moon.ping(address=INSIDE["sun"]) == 3
            assert sun.ping(address=INSIDE["moon"], size=1400) == 3
            moon.swanctl("--rekey", "--child", "net")
            assert moon.ping(address=INSIDE["sun"]) == 3
            eventually(lambda: len(tap.esp()) >= 18, lambda: f"on the wire: {tap.kinds()}")
            assert in_the_clear(tap) == []
        assert "xfrmi" not in moon.run("ip link") and "if_id" not in moon.run("ip xfrm policy")
        moon.swanctl("--terminate", "--ike", "net")
        assert moon.run("ip xfrm state") == ""


@pytest.mark.parametrize("mode", ["tunnel", "transport", "beet"])
@in_netns
def test_trap_between_hosts(mode: str) -> None:
    """The first packet raises it, and again after it was ended; in between nothing leaves in the clear."""
    with two_hosts() as (moon, sun):
        for host in (moon, sun):
            # Without its vendor id strongSwan does not believe itself that it knows BEET mode.
            settings = "send_vendor_id = yes"
            host.start(if_id="0", dynamic=True, child=f"start_action = trap\n mode = {mode}", settings=settings)
        with Wiretap(sun.node, "eth0") as tap:
            for _ in range(2 if mode == "tunnel" else 1):
                eventually(lambda: moon.ping(1, address=ADDRESS["sun"]), moon.last_words)
                assert moon.ping(address=ADDRESS["sun"]) == 3 and sun.ping(address=ADDRESS["moon"]) == 3
                moon.swanctl("--terminate", "--ike", "net")
            assert tap.esp() and in_the_clear(tap) == []


@in_netns
def test_in_udp() -> None:
    with two_hosts() as (moon, sun):
        start(moon, sun, ike="encap = yes")
        sun.swanctl("--initiate", "--child", "net")
        with Wiretap(sun.node, "eth0") as tap:
            assert moon.ping(address=INSIDE["sun"]) == 3 and sun.ping(address=INSIDE["moon"]) == 3
            assert in_the_clear(tap) == [] and tap.esp() == []
