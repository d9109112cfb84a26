"""T-01 to T-06, T-10, T-19: what an xfrm device refuses, what it says to whom, which state it takes."""

from __future__ import annotations

import errno
from itertools import pairwise

import pytest

from tests.conformance.frames import SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6, complaint, outbox
from tests.core.packets import udp
from tests.core.pair import INNER, NOW, OUTER, Host, policies
from tests.core.samples import Log
from tests.system.hosts import OUTER as OUTER_OF
from tests.system.hosts import Hosts, Tunnel, at, device_counts, eventually, give_addresses, rises, state, tell
from tests.system.monitor import Monitor
from tests.system.stage import on_stage
from xfrmi.core import events
from xfrmi.errors import XfrmError
from xfrmi.lab.traffic import ping
from xfrmi.lab.wiretap import spi_and_sequence
from xfrmi.wire.icmp import ICMP_DEST_UNREACH, ICMP_HOST_UNREACH, ICMPV6_ADDR_UNREACH, ICMPV6_DEST_UNREACH
from xfrmi.wire.link_types import LinkInfo

TUNNEL = Tunnel("ipsec0", 42)
HOST_UNREACHABLE = {
    4: (errno.EHOSTUNREACH, SO_EE_ORIGIN_ICMP, ICMP_DEST_UNREACH, ICMP_HOST_UNREACH),
    6: (errno.EHOSTUNREACH, SO_EE_ORIGIN_ICMP6, ICMPV6_DEST_UNREACH, ICMPV6_ADDR_UNREACH),
}
"""As frames.Complaint, by family."""


def unreachable(hosts: Hosts, family: int) -> None:
    """A datagram is refused: its sender gets "host unreachable", the device counts, nothing leaves (TX-09, 1.4)."""
    with (
        device_counts(hosts.moon, "ipsec0", tx_errors=1, tx_dropped=1, tx_carrier_errors=1),
        outbox(hosts.moon, TUNNEL.address("sun", family)) as sender,
    ):
        sender.send(b"nowhere")
        assert complaint(sender)[:4] == HOST_UNREACHABLE[family]
    assert hosts.esp() == []
    assert hosts.shown() == []


@on_stage
def test_t01_devices_that_are_refused(hosts: Hosts) -> None:
    """T-01: DEV-01, DEV-02, DEV-04."""

    def refused(info: LinkInfo) -> XfrmError:
        with at(hosts.moon) as client, pytest.raises(XfrmError) as caught:
            client.add_link(info)
        return caught.value

    for nothing in (0, None):
        refusal = refused(LinkInfo(name="ipsec1", if_id=nothing))
        assert (refusal.errno, refusal.extack) == (errno.EINVAL, "if_id must be non zero")
    tell(hosts.moon, "link add ipsec0 type xfrm if_id 42\nlink add any0 type xfrm external\n")
    assert refused(LinkInfo(name="ipsec1", if_id=42)).errno == errno.EEXIST
    assert refused(LinkInfo(name="ipsec1", if_id=42, link=1)).errno == errno.EEXIST, "`dev` makes no difference"
    assert refused(LinkInfo(name="any1", external=True)).errno == errno.EEXIST
    with at(hosts.moon) as client:
        assert sorted(link.name for link in client.links()) == ["any0", "ipsec0"]


@on_stage
def test_t02_no_policy(hosts: Hosts) -> None:
    """T-02: TX-07, TX-09, OUT-01: the device counts, xfrm_stat does not."""
    tell(hosts.moon, TUNNEL.link_lines() + TUNNEL.state_line("moon"))
    give_addresses(hosts.moon, TUNNEL)
    for family in (4, 6):
        with rises(hosts.moon):
            unreachable(hosts, family)


@on_stage
def test_t03_no_state(hosts: Hosts) -> None:
    """T-03: OUT-05, TX-16, 7.6: larval states only where somebody listens to acquires, and one for one flow."""
    tell(hosts.moon, TUNNEL.link_lines() + TUNNEL.policy_line("moon", "out", 4) + TUNNEL.policy_line("moon", "out", 6))
    give_addresses(hosts.moon, TUNNEL)
    for family in (4, 6):
        with rises(hosts.moon, XfrmOutNoStates=1):
            unreachable(hosts, family)
    with at(hosts.moon) as client:
        assert list(client.states()) == [], "nobody listens"
    with Monitor(hosts.moon, "acquire") as monitor:
        eventually(lambda: ping(hosts.moon, TUNNEL.address("sun", 4), 1, timeout=0.1) or monitor.text(), "no acquire")
        with rises(hosts.moon, XfrmOutNoStates=2):
            assert ping(hosts.moon, TUNNEL.address("sun", 4), 2, timeout=0.1) == []
        assert monitor.text().count("acquire") == 1
        with at(hosts.moon) as client:
            (larval,) = client.states()
            assert (larval.spi, larval.if_id) == (0, 42)


def test_t03_one_acquire_in_30_seconds() -> None:
    """T-03: 3.3, 7.6: while the larval state lives (xfrm_acq_expires) nobody is asked again; then anew."""
    host, log = Host(), Log()
    host.engine.subscribe(log)
    host.engine.acquire_listeners = 1
    interface = host.interface()
    for info in policies(*OUTER[4], out=True):
        host.engine.add_policy(info, NOW)
    asked = []
    for second in range(62):
        host.engine.tick(NOW + second)
        host.engine.output(interface, [udp(*INNER[4])], NOW + second)
        asked += [second for event in log.take() if isinstance(event, events.Acquire)]
    assert len(asked) == 3, asked
    assert all(30 <= later - earlier <= 31 for earlier, later in pairwise(asked)), asked


@on_stage
def test_t04_block_policy(hosts: Hosts) -> None:
    """T-04: OUT-02: as T-02, and XfrmOutPolBlock."""
    tell(hosts.moon, TUNNEL.link_lines() + TUNNEL.state_line("moon"))
    give_addresses(hosts.moon, TUNNEL)
    for family in (4, 6):
        tell(hosts.moon, TUNNEL.policy_line("moon", "out", family).replace("tmpl", "action block tmpl"))
        with rises(hosts.moon, XfrmOutPolBlock=1):
            unreachable(hosts, family)


@on_stage
def test_t05_the_state_has_another_if_id(hosts: Hosts) -> None:
    """T-05: 2.5: a state is taken for output only if its if_id is the policy's."""
    hosts.set_up(TUNNEL)
    other = TUNNEL.state_line("moon").replace("if_id 42", "if_id 43")
    assert other != TUNNEL.state_line("moon")
    tell(hosts.moon, "state flush\n" + other)
    for family in (4, 6):
        with rises(hosts.moon, XfrmOutNoStates=1):
            unreachable(hosts, family)


@on_stage
def test_t06_rekey(hosts: Hosts) -> None:
    """T-06: 3.2: of two states the newest that is not dying is used, and no packet is lost over it."""
    hosts.set_up(TUNNEL)

    def used(count: int) -> list[int]:
        """SPIs of what moon sends for this many echoes, all of them answered."""
        hosts.clear()
        assert len(ping(hosts.moon, TUNNEL.address("sun", 4), count)) == count
        return [spi for frame in hosts.esp() if (spi := spi_and_sequence(frame)[0]) != TUNNEL.spi("sun")]

    old, new = TUNNEL.spi("moon"), 0xBEEF
    assert used(2) == [old] * 2
    successor = TUNNEL.state_line("moon").replace(f"{old:#x}", f"{new:#x}")
    tell(hosts.sun, successor)
    tell(hosts.moon, successor.replace("\n", " limit packet-soft 3\n"))
    assert used(3) == [new] * 3
    eventually(lambda: set(used(1)) == {old}, "the dying state is used on")
    tell(hosts.moon, successor.replace("add", "update", 1))
    assert used(2) == [new] * 2, "an update revives it"
    tell(hosts.moon, f"state delete dst {OUTER_OF['sun', 4]} proto esp spi {new:#x}")
    assert used(2) == [old] * 2


@on_stage
def test_t10_packet_limit(hosts: Hosts) -> None:
    """T-10: LT-01: exactly three packets pass, the fourth finds the state expired, which then is gone and said so."""
    hosts.set_up(TUNNEL)
    tell(hosts.moon, "state flush\n" + TUNNEL.state_line("sun"))
    with Monitor(hosts.moon, "SA", "expire") as monitor:
        tell(hosts.moon, TUNNEL.state_line("moon", "limit packet-hard 3"))
        with rises(hosts.moon):
            assert len(ping(hosts.moon, TUNNEL.address("sun", 4), 3)) == 3
        assert state(hosts.moon, TUNNEL, "moon").current.packets == 3
        with (
            rises(hosts.moon, XfrmOutStateExpired=1),
            device_counts(hosts.moon, "ipsec0", tx_errors=1, tx_aborted_errors=1),
        ):
            assert ping(hosts.moon, TUNNEL.address("sun", 4), 1, timeout=0.1) == []
        text = monitor.expect("Expired ", "\thard 1\n")
        assert "\thard 0\n" not in text
    with at(hosts.moon) as client:
        assert [found.spi for found in client.states()] == [TUNNEL.spi("sun")]
    assert len(hosts.esp()) == 6


@on_stage
def test_t19_sequence_numbers_are_used_up(hosts: Hosts) -> None:
    """T-19: 3.7, LT-09: after 2^32 - 1 nothing is sent until a rekey, and the counter stays."""
    hosts.set_up(TUNNEL)
    tell(hosts.moon, "state flush\n" + TUNNEL.state_line("moon", "replay-oseq 4294967294") + TUNNEL.state_line("sun"))
    with rises(hosts.moon):
        assert len(ping(hosts.moon, TUNNEL.address("sun", 4), 1)) == 1, "the last number"
    for _ in range(2):
        with (
            rises(hosts.moon, XfrmOutStateSeqError=1),
            device_counts(hosts.moon, "ipsec0", tx_errors=1, tx_aborted_errors=1),
        ):
            assert ping(hosts.moon, TUNNEL.address("sun", 4), 1, timeout=0.1) == []
        replay = state(hosts.moon, TUNNEL, "moon").replay_esn
        assert replay is not None
        assert (replay.oseq_hi, replay.oseq) == (0, 0xFFFFFFFF)
    assert [spi_and_sequence(frame)[1] for frame in hosts.esp()] == [0xFFFFFFFF, 1]
    tell(hosts.moon, "state flush\n" + TUNNEL.key_lines())
    assert len(ping(hosts.moon, TUNNEL.address("sun", 4), 1, timeout=0.1)) == 0, "sun has seen higher numbers"
    tell(hosts.sun, "state flush\n" + TUNNEL.key_lines())
    assert len(ping(hosts.moon, TUNNEL.address("sun", 4), 1)) == 1
