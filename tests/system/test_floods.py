"""Floods, balanced to the packet: every packet that reaches a daemon has passed or raised one counter, and no other.

Packets come in crowds, each of which has to be counted before the next one comes: so nothing is lost in the kernel on
the way, however busy the machine. What floods at line rate leave of legitimate traffic is measured by bench/floods.py.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest

from tests.core.packets import udp
from tests.system.hosts import OUTER, Hosts, Tunnel, at, counters, eventually, rises, stat, tell
from tests.system.monitor import Monitor
from tests.system.stage import on_stage
from xfrmi.core.acquire_limit import AT_ONCE, FREE
from xfrmi.core.engine import Engine
from xfrmi.wire.link_types import IFF_UP, LinkInfo
from xfrmi.wire.xfrm_const import STATE_AF_UNSPEC, Dir, Mode
from xfrmi.wire.xfrm_types import Algorithm, PolicyInfo, Selector, StateInfo, Template

CROWDS, EACH = 6, 40
"""Crowds, and packets of each kind in one."""
ESP, PORT = 50, 4500


def sealed(tunnel: Tunnel, count: int) -> list[bytes]:
    """ESP packets as moon would send them: with the tunnel's key, numbered from 1."""
    src, dst = OUTER["moon", tunnel.outer], OUTER["sun", tunnel.outer]
    key = Algorithm("rfc4106(gcm(aes))", bytes.fromhex(tunnel.keys["moon"]), 128)
    engine = Engine()
    interface = engine.add_interface(tunnel.name, tunnel.if_id)
    info = StateInfo(
        src=src, dst=dst, spi=tunnel.spi("moon"), mode=Mode.TUNNEL, reqid=1, if_id=tunnel.if_id, flags=STATE_AF_UNSPEC,
        aead=key,
    )  # fmt: skip
    engine.add_state(info, 0)
    template = Template(src, dst, mode=Mode.TUNNEL, reqid=1)
    engine.add_policy(PolicyInfo(Selector.parse("0.0.0.0/0"), Dir.OUT, tunnel.if_id, (template,)), 0)
    inner = udp(tunnel.address("moon", 4), tunnel.address("sun", 4), bytes(40))
    outgoing, _ = engine.output(interface, [inner] * count, 0)
    header = 20 if tunnel.outer == 4 else 40
    return [bytes(packet)[header:] for group in outgoing for packet in group.packets]


@pytest.mark.parametrize("way", ["raw", "in UDP"])
@pytest.mark.parametrize("outer", [4, 6])
@on_stage
def test_every_packet_is_counted_once(hosts: Hosts, outer: int, way: str) -> None:
    """Unknown SPIs, damaged ones, replays and stubs, between packets that are as they should be."""
    encap = f"encap espinudp {PORT} {PORT} 0.0.0.0" if way == "in UDP" else ""
    tunnel = Tunnel("ipsec0", 42, outer=outer, state=encap)
    hosts.set_up(tunnel)
    total = CROWDS * EACH
    packets = sealed(tunnel, 2 * total)
    bad = [packet[:-1] + bytes((packet[-1] ^ 1,)) for packet in packets[total:]]
    unknown = [(0xABC000 + number).to_bytes(4) + packet[4:] for number, packet in enumerate(packets[:total])]
    stub = packets[0][:7] if way == "raw" else packets[0][:9]  # with a number that was there
    before = stat(hosts.sun)
    expected = {"XfrmInNoStates": total, "XfrmInStateProtoError": total, "XfrmInStateSeqError": total}
    if way == "raw":
        expected["XfrmInHdrError"] = total
    else:
        expected["XfrmInStateSeqError"] += total

    def counted() -> int:
        after = stat(hosts.sun)
        return sum(after.values()) - sum(before.values()) + counters(hosts.sun, tunnel.name).rx_packets

    with rises(hosts.sun, **expected), sender(hosts, outer, way) as attacker:
        sent = 0
        for crowd in range(CROWDS):
            for number in range(crowd * EACH, (crowd + 1) * EACH):
                for packet in (unknown[number], packets[number], bad[number], packets[number], stub):
                    attacker.send(packet)
            sent += 5 * EACH
            await_count(counted, sent)
    stats = counters(hosts.sun, tunnel.name)
    assert (stats.rx_packets, stats.rx_bytes) == (total, total * 68)
    assert stats.rx_errors == expected["XfrmInStateProtoError"] + expected["XfrmInStateSeqError"]


def await_count(counted: Callable[[], int], expected: int) -> None:
    eventually(lambda: counted() == expected, lambda: f"{counted()} of {expected}", 20)


def sender(hosts: Hosts, outer: int, way: str) -> socket.socket:
    """Out of moon, to sun's daemon."""
    family = socket.AF_INET if outer == 4 else socket.AF_INET6
    with hosts.moon:
        if way == "raw":
            attacker = socket.socket(family, socket.SOCK_RAW, ESP)
            attacker.connect((OUTER["sun", outer], 0))
        else:
            attacker = socket.socket(family, socket.SOCK_DGRAM)
            attacker.connect((OUTER["sun", outer], PORT))
    return attacker


@on_stage
def test_a_storm_of_new_flows_is_counted_and_bounded(hosts: Hosts) -> None:
    """Each to another address, in transport mode, while somebody listens: every one is refused, FREE make an acquire;
    one who asks twice is heard for all that."""
    moon = hosts.moon
    with at(moon) as client:
        client.add_link(LinkInfo("ipsec0", if_id=42, flags=IFF_UP, change=IFF_UP))
        template = Template("0.0.0.0", "0.0.0.0", mode=Mode.TRANSPORT, reqid=1)
        client.add_policy(PolicyInfo(Selector.parse("0.0.0.0/0"), Dir.OUT, 42, (template,)))
    moon.address("ipsec0", "10.42.0.1/16")
    before, count = stat(moon)["XfrmOutNoStates"], 0

    def refused() -> int:
        return stat(moon)["XfrmOutNoStates"] - before

    def to(numbers: range) -> None:
        nonlocal count
        for start in numbers[::50]:
            for number in range(start, min(start + 50, numbers.stop)):
                outgoing.sendto(b"x", (f"10.42.{number >> 8}.{number & 255}", 9))
            count += min(50, numbers.stop - start)
            await_count(refused, count)

    with Monitor(moon, "acquire") as monitor, moon, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outgoing:
        eventually(lambda: _asked(hosts, outgoing), "the monitor listens")
        count = refused()
        first = time.monotonic()
        to(range(0x100, 0x100 + FREE + 200))
        assert _larval(hosts) == FREE or time.monotonic() - first > 20, "others have expired by then"
        for _ in range(2):  # once is enough, unless one of the others is remembered in his place
            to(range(0x100 + FREE + 150, 0x100 + FREE + 152))
        monitor.expect(f"10.42.{0x100 + FREE + 150 >> 8}.{FREE + 150 & 255}/32")
        assert _larval(hosts) <= FREE + AT_ONCE
        stats = counters(moon, "ipsec0")
        assert stats.tx_errors == stats.tx_dropped == stats.tx_carrier_errors == refused() and not stats.tx_packets
    tell(moon, "state flush\n")


def _larval(hosts: Hosts) -> int:
    with at(hosts.moon) as client:
        return client.count_states().count


def _asked(hosts: Hosts, outgoing: socket.socket) -> bool:
    """Has one packet made a larval state? Not before somebody listens."""
    outgoing.sendto(b"x", ("10.42.0.2", 9))
    return bool(_larval(hosts))
