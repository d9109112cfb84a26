"""`xfrmi top` beside a tunnel that is used."""

from __future__ import annotations

import re
import socket

from tests.system.background import sending
from tests.system.hosts import Hosts, Tunnel, at
from tests.system.stage import on_stage
from tests.top.terminal import top

TUNNEL = Tunnel("ipsec0", 42, state="limit packet-soft 30 limit packet-hard 1000000")


@on_stage
def test_rates_rise_while_something_is_sent(hosts: Hosts) -> None:
    hosts.set_up(TUNNEL)
    with hosts.moon:
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.connect((TUNNEL.address("sun", 4), 9))
    with at(hosts.sun), top("-n", "0.3", env=hosts.sun.env) as terminal:
        terminal.shows(lambda screen: rate(screen) == 0)
        assert "top 0" in terminal.screen
        with sending([sender], bytes(500), pause=0.01):
            terminal.shows(lambda screen: rate(screen) > 10)
            terminal.shows(lambda screen: "top 0" not in screen and "⣿" in screen)
            terminal.shows("DYING")
            terminal.shows("soft reached")
        terminal.shows(lambda screen: rate(screen) == 0)
        terminal.press("q")
        assert terminal.ends() == 0
        for host in ("moon", "sun"):
            assert TUNNEL.keys[host] not in terminal.heard


def rate(screen: str) -> float:
    """Packets a second that sun's interface receives; -1 where none are shown."""
    found = re.search(r"^ipsec0 +0x2a +([0-9.]+) ", screen, re.MULTILINE)
    return float(found[1]) if found else -1
