"""T-07 to T-09, T-13 to T-15, T-20, T-22, T-23: what is let in, what is not, and which counters say so."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.conformance.frames import SO_MARK, Inbox, catch, flip, forged, inbox, opened, outbox, put
from tests.iproute import ip
from tests.system.hosts import OUTER, Hosts, Tunnel, device_counts, rises, state, tell
from tests.system.monitor import Monitor
from tests.system.stage import on_stage
from xfrmi.lab.topology import Node
from xfrmi.lab.traffic import ping, tcp_transfer
from xfrmi.lab.wiretap import esp_offset, spi_and_sequence
from xfrmi.wire.xfrm_types import StateStats

TUNNEL = Tunnel("ipsec0", 42)
ENCAP = "encap espinudp 4500 4500 0.0.0.0"
HEADERS = 28
"""IPv4 and UDP: what is around the payloads b"0", b"1" .. in the inner packets."""
IPPROTO_NONE = 59


def refusals(hosts: Hosts) -> StateStats:
    """What sun's state for moon's packets has refused."""
    return state(hosts.sun, TUNNEL, "moon").stats


def next_is(box: Inbox, payload: bytes) -> None:
    """Nothing has arrived in front of this, either."""
    assert box.next().payload == payload


@on_stage
def test_t07_wrong_icv(hosts: Hosts) -> None:
    """T-07: 1.4, RP-10: XfrmInStateProtoError, the state's `failed`, rx errors; the window does not move."""
    hosts.set_up(TUNNEL)
    (frame,) = catch(hosts, TUNNEL, 1)
    tell(hosts.sun, TUNNEL.key_lines())
    with inbox(hosts.sun, TUNNEL.address("sun", 4)) as box:
        spoiled = {"ICV": len(frame) - 1, "ciphertext": len(frame) - 17, "sequence number": esp_offset(frame) + 6}
        for where in spoiled.values():
            with (
                rises(hosts.sun, XfrmInStateProtoError=1),
                device_counts(hosts.sun, "ipsec0", rx_errors=1, rx_dropped=1),
            ):
                put(hosts, flip(frame, where))
        assert refusals(hosts) == StateStats(integrity_failed=len(spoiled))
        with rises(hosts.sun), device_counts(hosts.sun, "ipsec0", rx_packets=1, rx_bytes=HEADERS + 1):
            put(hosts, frame)
            next_is(box, b"0")


@on_stage
def test_t08_replay(hosts: Hosts) -> None:
    """T-08: RP-07, RP-08: seen before and too old are two statistics of the state, one of xfrm_stat."""
    hosts.set_up(TUNNEL)
    frames = catch(hosts, TUNNEL, 34)
    tell(hosts.sun, TUNNEL.state_line("moon").replace("replay-window 128", "replay-window 32"))
    with inbox(hosts.sun, TUNNEL.address("sun", 4)) as box:
        for number in (0, 33, 2):  # with the last one, the window begins with number 2
            put(hosts, frames[number])
            next_is(box, str(number).encode())
        for number, stats in ((33, (0, 1, 0)), (2, (0, 2, 0)), (1, (1, 2, 0)), (0, (2, 2, 0))):
            with rises(hosts.sun, XfrmInStateSeqError=1), device_counts(hosts.sun, "ipsec0", rx_errors=1, rx_dropped=1):
                put(hosts, frames[number])
            assert refusals(hosts) == stats
        put(hosts, frames[3])
        next_is(box, b"3")


@on_stage
def test_t09_unknown_spi(hosts: Hosts) -> None:
    """T-09: RX-03, 1.4: XfrmInNoStates; the device knows nothing of it."""
    hosts.set_up(TUNNEL)
    (frame,) = catch(hosts, TUNNEL, 1)
    tell(hosts.sun, TUNNEL.key_lines())
    with rises(hosts.sun, XfrmInNoStates=1), device_counts(hosts.sun, "ipsec0"):
        put(hosts, flip(frame, esp_offset(frame) + 3))


@on_stage
def test_t13_encapsulation_differs(hosts: Hosts) -> None:
    """T-13: 5.10: a state takes packets as it says, plain or in UDP, and no others."""
    hosts.set_up(TUNNEL)
    opens_the_port = Tunnel("ipsec1", 43, state=ENCAP).state_line("moon")
    for ours, theirs in ((ENCAP, ""), ("", ENCAP)):
        tell(hosts.moon, "state flush\n" + TUNNEL.state_line("moon", ours))
        tell(hosts.sun, "state flush\n" + opens_the_port + TUNNEL.state_line("moon", theirs))
        with (
            rises(hosts.sun, XfrmInStateMismatch=1),
            device_counts(hosts.sun, "ipsec0", rx_errors=1, rx_dropped=1),
            outbox(hosts.moon, TUNNEL.address("sun", 4)) as sender,
        ):
            sender.send(b"wrapped otherwise")


@on_stage
def test_t14_in_policy_missing_or_of_another_if_id(hosts: Hosts) -> None:
    """T-14: IN-02, IN-04, IN-16, Q7: counted as received, then refused."""
    hosts.set_up(TUNNEL)
    let_in = TUNNEL.policy_line("sun", "in", 4)
    tell(hosts.sun, TUNNEL.policy_line("sun", "in", 4, "delete"))
    first, second, third = catch(hosts, TUNNEL, 3)
    tell(hosts.sun, TUNNEL.key_lines())
    with inbox(hosts.sun, TUNNEL.address("sun", 4)) as box:
        for frame, policy in ((first, ""), (second, let_in.replace("if_id 42", "if_id 43"))):
            tell(hosts.sun, policy)
            with (
                rises(hosts.sun, XfrmInNoPols=1),
                device_counts(hosts.sun, "ipsec0", rx_packets=1, rx_bytes=HEADERS + 1),
            ):
                put(hosts, frame)
        tell(hosts.sun, let_in)
        with rises(hosts.sun):
            put(hosts, third)
            next_is(box, b"2")


@on_stage
def test_t15_reqid_of_the_template(hosts: Hosts) -> None:
    """T-15: IN-11: another reqid is XfrmInTmplMismatch, 0 is any."""
    hosts.set_up(TUNNEL)
    frames = catch(hosts, TUNNEL, 2)
    tell(hosts.sun, TUNNEL.key_lines())
    let_in = TUNNEL.policy_line("sun", "in", 4, "add")
    with inbox(hosts.sun, TUNNEL.address("sun", 4)) as box:
        tell(hosts.sun, let_in.replace("policy add", "policy update").replace("reqid 42", "reqid 41"))
        with (
            rises(hosts.sun, XfrmInTmplMismatch=1),
            device_counts(hosts.sun, "ipsec0", rx_packets=1, rx_bytes=HEADERS + 1),
        ):
            put(hosts, frames[0])
        tell(hosts.sun, let_in.replace("policy add", "policy update").replace("reqid 42", "reqid 0"))
        with rises(hosts.sun):
            put(hosts, frames[1])
            next_is(box, b"1")


@pytest.mark.parametrize("window", [32, 64, 1024])
@on_stage
def test_t18_esn_across_the_wrap(hosts: Hosts, window: int) -> None:
    """T-18: 3.7: 40 packets before and after 2^32, in any order the window allows: each is let in, and once.

    The table of inferred upper halves is in tests/core/test_replay.py, number by number.
    """
    count, first = 40, 0xFFFFFFFF - 20
    esn = TUNNEL.state_line("moon", "esn").replace("replay-window 128", f"replay-window {window}")
    hosts.set_up(TUNNEL)
    tell(hosts.moon, "state flush\n" + esn.replace("\n", f" replay-oseq {first}\n"))
    frames = catch(hosts, TUNNEL, count)
    numbers = [(first + 1 + place) & 0xFFFFFFFF for place in range(count)]
    assert [spi_and_sequence(frame)[1] for frame in frames] == numbers
    tell(hosts.sun, esn.replace("\n", f" replay-seq {first}\n"))
    size = min(window, count)
    order = [place for start in range(0, count, size) for place in reversed(range(start, min(start + size, count)))]
    with inbox(hosts.sun, TUNNEL.address("sun", 4)) as box:
        with rises(hosts.sun):
            for place in order:
                put(hosts, frames[place])
                next_is(box, str(place).encode())
        # What is behind the window is taken for the next 2^32 and is not authentic there.
        behind = max(0, count - window)
        wrong = {"XfrmInStateProtoError": behind} if behind else {}
        with rises(hosts.sun, XfrmInStateSeqError=count - behind, **wrong):
            put(hosts, *frames)
    assert refusals(hosts) == StateStats(replay=count - behind, integrity_failed=behind)
    for host, names in ((hosts.moon, ("oseq_hi", "oseq")), (hosts.sun, ("seq_hi", "seq"))):
        replay = state(host, TUNNEL, "moon").replay_esn
        assert [getattr(replay, name) for name in names] == [1, numbers[-1]]


@on_stage
def test_t20_dummy_packet(hosts: Hosts) -> None:
    """T-20: 5.1, Q6, RP-10: authentic, and dropped as if it were not; its number is free for another packet."""
    hosts.set_up(TUNNEL)
    (frame,) = catch(hosts, TUNNEL, 1)
    inner, next_header = opened(frame, TUNNEL)
    assert (inner[28:], next_header) == (b"0", 4)
    tell(hosts.sun, TUNNEL.key_lines())
    number = spi_and_sequence(frame)[1]
    with inbox(hosts.sun, TUNNEL.address("sun", 4)) as box:
        for seq in (number, number + 1000):
            with (
                rises(hosts.sun, XfrmInStateProtoError=1),
                device_counts(hosts.sun, "ipsec0", rx_errors=1, rx_dropped=1),
            ):
                put(hosts, forged(frame, TUNNEL, seq, bytes(30), IPPROTO_NONE))
        assert refusals(hosts) == StateStats()
        replay = state(hosts.sun, TUNNEL, "moon").replay_esn
        assert replay is not None
        assert (replay.seq, set(replay.bitmap)) == (0, {0})
        with rises(hosts.sun):
            put(hosts, frame)
            next_is(box, b"0")


@on_stage
def test_t22_peer_moves_to_another_port(hosts: Hosts) -> None:
    """T-22: 5.10: what comes from another port is let in, key managers are told, and the state stays as it is."""
    tunnel = Tunnel("ipsec0", 42, state=ENCAP)
    hosts.set_up(tunnel)
    with Monitor(hosts.sun) as monitor:
        with rises(hosts.sun):
            assert len(ping(hosts.moon, tunnel.address("sun", 4), 2)) == 2
        assert "Mapping" not in monitor.text()
        moved = ENCAP.replace("4500", "4999", 1)
        tell(hosts.moon, tunnel.state_line("moon", moved).replace(ENCAP, "").replace("add", "update", 1))
        with rises(hosts.sun):
            assert len(ping(hosts.moon, tunnel.address("sun", 4), 1)) == 1
        monitor.expect("Mapping change 192.0.2.1:4500 -> 192.0.2.1:4999")
    encap = state(hosts.sun, tunnel, "moon").encap
    assert encap is not None
    assert encap.sport == 4500


def box_with(hosts: Hosts, tunnel: Tunnel) -> Node:
    """moon's device, moved into a namespace where there is nothing else."""
    box = hosts.lab.node("box")
    inhabitant = box.start([sys.executable, "-c", "import time; time.sleep(600)"])
    tell(hosts.moon, f"link set {tunnel.name} netns {inhabitant.pid}")
    box.up(tunnel.name)
    box.address(tunnel.name, f"{tunnel.address('moon', 4)}/30", f"{tunnel.address('moon', 6)}/64")
    return box


MARK = 7


@contextmanager
def marked_packets_are_stuck(host: Node) -> Iterator[None]:
    """In the block, what leaves `host` with MARK has no route."""
    with host:
        for family in (4, 6):
            ip(f"-{family} rule add fwmark {MARK} table 100")
            ip(f"-{family} route add unreachable default table 100")
    with outbox(host, OUTER["sun", 4]) as sender, pytest.raises(OSError):
        sender.setsockopt(socket.SOL_SOCKET, SO_MARK, MARK)
        sender.send(b"")
    yield
    with host:
        for family in (4, 6):
            ip(f"-{family} rule del fwmark {MARK} table 100")


@on_stage
def test_t23_device_in_another_namespace(hosts: Hosts) -> None:
    """T-23: NS-01 to NS-04 (NS-03: no mark), TX-14: it works as before, and no mark gets across, neither way."""
    hosts.set_up(TUNNEL)
    keys = TUNNEL.state_line("moon") + TUNNEL.state_line("sun", f"output-mark {MARK}")  # of what is let in, too (3.8)
    tell(hosts.moon, "state flush\n" + keys)
    box = box_with(hosts, TUNNEL)
    with marked_packets_are_stuck(hosts.moon), rises(hosts.moon), rises(hosts.sun):
        for family in (4, 6):
            there, here = (TUNNEL.address(host.name, family) for host in hosts.ends[::-1])
            assert len(ping(hosts.sun, here, 2)) == 2
            assert tcp_transfer(box, hosts.sun, there, 500_000).intact
            with inbox(hosts.sun, there) as far, outbox(box, there) as sender:
                sender.setsockopt(socket.SOL_SOCKET, SO_MARK, MARK)
                sender.send(b"out")
                next_is(far, b"out")
            with inbox(box, here) as far, outbox(hosts.sun, here) as sender:
                sender.send(b"in")
                arrived = far.next()
                assert (arrived.payload, arrived.mark) == (b"in", 0)
