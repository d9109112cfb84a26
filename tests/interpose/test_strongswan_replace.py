"""Daemons are replaced under two charons, with packets on the way; charons notice nothing, and go on to rekey."""

from __future__ import annotations

import pytest

from tests.interpose.strongswan import INNER, Host, eventually, two_hosts
from tests.interpose.test_strongswan_policies import INSIDE, in_the_clear, start
from tests.netns import in_netns
from tests.oracle.spread import EVERYTHING
from tests.system.test_replace import replace
from xfrmi.lab.traffic import NumberedStream
from xfrmi.lab.wiretap import Wiretap

pytestmark = pytest.mark.skipif(not EVERYTHING, reason="two charons: make interop")


def replaced_under_traffic(moon: Host, sun: Host, address: dict[str, str]) -> None:
    """Both, twice; in between all is rekeyed. Nothing is lost, but by rekeying perhaps one packet of each."""
    streams = [
        NumberedStream(source.node, sink.node, address[sink.name], 100) for source, sink in ((moon, sun), (sun, moon))
    ]
    replace(moon.node)
    replace(sun.node)
    accounts = [stream.finish() for stream in streams]
    assert [(stream.sent - len(stream.received), stream.duplicates) for stream in accounts] == [(0, 0), (0, 0)]
    assert min(stream.sent for stream in accounts) > 50
    before = moon.run("ip xfrm state")
    moon.swanctl("--rekey", "--child", "net")
    sun.swanctl("--rekey", "--ike", "net")
    eventually(lambda: moon.run("ip xfrm state") != before, lambda: moon.last_words() + sun.last_words())
    replace(moon.node)
    assert moon.ping(address=address["sun"]) == 3 and sun.ping(address=address["moon"], size=1300) == 3


@in_netns
def test_one_port_for_ike_and_esp() -> None:
    with two_hosts() as (moon, sun):
        for host in (moon, sun):
            host.node.start_daemon()
            host.start(ike="encap = yes")
            host.link()
        moon.swanctl("--initiate", "--child", "net")
        refused = moon.node.xfrmi("daemon", "--replace", "--workers", "2")
        assert "UDP port 4500 is shared with an IKE daemon, which workers cannot do" in refused.stderr
        replaced_under_traffic(moon, sun, INNER)
        moon.stop()
        moon.relaunch()
        assert "unable to bind" not in moon.log(), moon.log()
        moon.swanctl("--initiate", "--child", "net")
        assert moon.ping() == 3


@in_netns
def test_policies_without_if_id() -> None:
    with two_hosts() as (moon, sun):
        for host in (moon, sun):
            host.node.start_daemon()
        start(moon, sun)
        moon.swanctl("--initiate", "--child", "net")
        with Wiretap(sun.node, "eth0") as tap:
            replaced_under_traffic(moon, sun, INSIDE)
            assert len(tap.esp()) > 200
            assert in_the_clear(tap) == []
