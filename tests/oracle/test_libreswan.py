"""Libreswan with ipsec-interface, under exec: two plutos, and pluto with strongSwan's charon."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.interpose.strongswan import ADDRESS, INNER, Host, connection, eventually, need_charon
from tests.netns import in_netns
from tests.oracle.pluto import Pluto, need_pluto
from tests.oracle.spread import EVERYTHING
from xfrmi.lab.topology import Lab
from xfrmi.lab.traffic import ping

pytestmark = pytest.mark.skipif(not EVERYTHING, reason="libreswan: make interop")

SUBNET = "10.0.42.0/24"


@contextmanager
def hosts(more: str, sun_is: type[Pluto] | type[Host] = Pluto, ike: str = "") -> Iterator[tuple[Pluto, Pluto | Host]]:
    """Moon has pluto; sun, too, or charon. `more` are lines for pluto, `ike` for charon."""
    need_pluto()
    with Lab() as lab:
        nodes = moon, sun = lab.node("moon"), lab.node("sun")
        lab.link(moon, "eth0", [f"{ADDRESS['moon']}/24"], sun, "eth0", [f"{ADDRESS['sun']}/24"])
        ends = Pluto(moon), sun_is(sun)
        try:
            for end, peer in zip(ends, ("sun", "moon"), strict=True):
                if isinstance(end, Pluto):
                    lines = f"ipsec-interface=42\n    {more}"
                    end.launch(ADDRESS[end.name], ADDRESS[peer], peer, SUBNET, lines)
                else:
                    need_charon()
                    end.launch(connection(ADDRESS["sun"], ADDRESS["moon"], "sun", "moon", ike=ike))
                    end.link()
            yield ends
        except BaseException:
            print(*(end.last_words() for end in ends), sep="\n")
            raise
        for end, node in zip(ends, nodes, strict=True):
            end.stop()
            assert not (node.folder / "exec.log").exists(), (node.folder / "exec.log").read_text()


def give_address(end: Pluto) -> None:
    """Pluto makes the device when it first needs it."""
    end.run(f"ip address add {INNER[end.name]}/24 dev ipsec42")


def echoes(*ends: Pluto | Host) -> None:
    for end, peer in zip(ends, reversed(ends), strict=True):
        assert len(ping(end.node, INNER[peer.name], 3)) == 3, f"from {end.name}"


def spis(end: Pluto | Host) -> set[str]:
    return set(re.findall(r"spi (0x[0-9a-f]{8})", end.run("ip xfrm state")))


def renewed(pluto: Pluto, renew: Callable[[], object], *ends: Pluto | Host) -> None:
    """Pluto takes the old keys away when its peer may still be sending with them: until then, packets can be lost."""
    before = spis(pluto)
    renew()
    eventually(lambda: before.isdisjoint(spis(pluto)) and len(spis(pluto)) == 2, pluto.last_words)
    echoes(*ends)


@pytest.mark.parametrize("encap", ["no", "yes"])
@in_netns
def test_two_plutos(encap: str) -> None:
    """Pluto makes the interface and removes it; it has bound port 4500 of each address by itself, and shares it."""
    with hosts(f"encapsulation={encap}") as (moon, sun):
        assert isinstance(sun, Pluto)
        assert "established Child SA" in moon.whack("--name", "net", "--initiate")
        for end in (moon, sun):
            eventually(lambda end=end: "xfrm if_id 0x2a" in end.run("ip -d link"), end.last_words)  # type: ignore[misc]
            give_address(end)
        assert ("encap type espinudp" in moon.run("ip xfrm state")) == (encap == "yes")
        echoes(moon, sun)
        eventually(lambda: moon.counts() == sun.counts() == {"in": 6 * 92, "out": 6 * 92}, lambda: str(moon.counts()))
        renewed(moon, lambda: moon.whack("--name", "net", "--rekey-ipsec"), moon, sun)
        sun.whack("--name", "net", "--rekey-ike")
        renewed(sun, lambda: sun.whack("--name", "net", "--rekey-ipsec"), moon, sun)
        moon.whack("--name", "net", "--delete")
        assert spis(moon) == set()
        assert "ipsec42" not in moon.run("ip link"), "nobody needs the interface any more"
        eventually(lambda: spis(sun) == set(), sun.last_words)


@pytest.mark.parametrize("encap", ["no", "yes"])
@in_netns
def test_pluto_and_charon(encap: str) -> None:
    with hosts(f"encapsulation={encap}", Host, ike=f"encap = {encap}") as (moon, sun):
        assert isinstance(sun, Host)
        sun.swanctl("--initiate", "--child", "net")
        give_address(moon)
        echoes(moon, sun)
        renewed(moon, lambda: moon.whack("--name", "net", "--rekey-ipsec"), moon, sun)
        renewed(moon, lambda: sun.swanctl("--rekey", "--child", "net"), moon, sun)
        sun.swanctl("--terminate", "--ike", "net")
        eventually(lambda: spis(moon) == set() == spis(sun), moon.last_words)
