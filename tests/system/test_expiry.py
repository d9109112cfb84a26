"""What ends by itself or is missing, and what `xfrmi monitor` prints about it: limits in packets and time, acquires."""

from __future__ import annotations

from tests.system.hosts import (
    OUTER,
    Hosts,
    Tunnel,
    at,
    counters,
    eventually,
    give_addresses,
    rises,
    state,
    tell,
)
from tests.system.monitor import Monitor
from tests.system.stage import on_stage
from xfrmi.lab.topology import Node
from xfrmi.lab.traffic import ping
from xfrmi.wire.xfrm_types import StateInfo

TUNNEL = Tunnel("ipsec0", 42)
HEAD = {
    sender: f"src {OUTER[sender, 4]} dst {OUTER[receiver, 4]}\n\tproto esp spi 0x{TUNNEL.spi(sender):08x} reqid 42"
    for sender, receiver in (("moon", "sun"), ("sun", "moon"))
}


@on_stage
def test_packet_limits(hosts: Hosts) -> None:
    """T-10, LT-01, LT-03: soft tells once, exactly `packet-hard` packets pass, the next one finds no state."""
    hosts.set_up(TUNNEL)
    outbound = state(hosts.moon, TUNNEL, "moon")
    tell(hosts.moon, f"state delete dst {OUTER['sun', 4]} proto esp spi {outbound.spi:#x}")
    with Monitor(hosts.moon, "SA", "expire") as monitor:
        tell(hosts.moon, TUNNEL.state_line("moon", "limit packet-soft 2 limit packet-hard 4"))
        with rises(hosts.moon, XfrmOutStateExpired=1, XfrmOutNoStates=1):
            assert len(ping(hosts.moon, TUNNEL.address("sun", 4), 6, timeout=0.2)) == 4
        text = monitor.expect(f"Expired {HEAD['moon']} mode tunnel", "\thard 0\n", "\thard 1\n")
    assert text.count("Expired") == 2
    assert text.index("\thard 0\n") < text.index("\thard 1\n")
    with at(hosts.moon) as client:
        assert [found.spi for found in client.states()] == [TUNNEL.spi("sun")]
    assert hosts.shown() == []


@on_stage
def test_time_limits(hosts: Hosts) -> None:
    """LT-05: a state that is used or not ends after `time-hard` seconds, with no packet to notice it."""
    with Monitor(hosts.sun) as monitor:
        tell(hosts.sun, TUNNEL.state_line("moon", "limit time-soft 1 limit time-hard 2"))
        tell(hosts.sun, TUNNEL.policy_line("sun", "in", 4).replace("tmpl", "limit time-hard 1 tmpl"))
        with at(hosts.sun) as client:
            eventually(lambda: not list(client.states()) and not list(client.policies()), "they are still there")
        text = monitor.expect(
            f"Expired {HEAD['moon']} mode tunnel", "\thard 0\n", "\thard 1\n", "Expired src 0.0.0.0/0"
        )
        assert "Deleted src 0.0.0.0/0" not in text, "an expired policy is not reported as deleted (2.7)"


@on_stage
def test_acquire(hosts: Hosts) -> None:
    """7.6, T-03: with somebody listening, a packet that wants a missing state makes a larval one, once, and says so."""
    tell(hosts.moon, TUNNEL.link_lines() + TUNNEL.policy_line("moon", "out", 4))
    give_addresses(hosts.moon, TUNNEL)
    target = TUNNEL.address("sun", 4)
    with rises(hosts.moon, XfrmOutNoStates=2):
        assert ping(hosts.moon, target, 2, timeout=0.1) == []
    with at(hosts.moon) as client:
        assert list(client.states()) == [], "nobody listens"
    carrier = counters(hosts.moon, "ipsec0").tx_carrier_errors
    with Monitor(hosts.moon, "acquire") as monitor:

        def acquired() -> bool:
            ping(hosts.moon, target, 1, timeout=0.1)
            return bool(monitor.text())

        eventually(acquired, "no acquire")
        text = monitor.expect(
            "acquire proto esp \n", "sel src 10.0.42.1/32 dst 10.0.42.2/32 proto icmp type 8 code 0", "if_id 0x2a"
        )
        assert f"tmpl src {OUTER['moon', 4]} dst {OUTER['sun', 4]}" in text
        for _ in range(2):
            ping(hosts.moon, target, 1, timeout=0.1)
        larval = _only_state(hosts.moon)
        assert (larval.spi, larval.reqid, larval.if_id) == (0, 42, 42)
        assert monitor.text().count("acquire") == 1, "one while the larval state lives"

        # What a key manager does: the state carries the acquire's number, the larval one goes, traffic flows.
        tell(hosts.sun, TUNNEL.lines("sun"))
        give_addresses(hosts.sun, TUNNEL)
        rest = TUNNEL.state_line("moon", f"seq {larval.seq:#x}") + TUNNEL.state_line("sun")
        tell(hosts.moon, rest + TUNNEL.policy_line("moon", "in", 4))
        with at(hosts.moon) as client:
            assert {found.spi for found in client.states()} == {TUNNEL.spi("moon"), TUNNEL.spi("sun")}
        assert len(ping(hosts.moon, target, 3)) == 3
    assert counters(hosts.moon, "ipsec0").tx_carrier_errors > carrier
    assert hosts.shown() == []


def _only_state(host: Node) -> StateInfo:
    with at(host) as client:
        (found,) = client.states()
    return found
