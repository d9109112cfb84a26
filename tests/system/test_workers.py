"""`xfrmi daemon --workers N`: what must not happen twice, and what is to be seen when one of them dies."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.netns import in_netns
from tests.system.background import sending
from tests.system.hosts import (
    OUTER,
    PEER,
    PORT,
    Hosts,
    Tunnel,
    at,
    counters,
    device,
    eventually,
    give_addresses,
    rises,
    stat,
    state,
    tell,
    two_hosts,
)  # fmt: skip
from tests.system.monitor import Monitor
from xfrmi.client.packets import Lost, Packets, Record
from xfrmi.lab.topology import Node
from xfrmi.lab.traffic import NumberedStream, filler, ping, tcp_transfer
from xfrmi.lab.wiretap import esp_offset, kind, spi_and_sequence
from xfrmi.wire.link_types import IFF_LOWER_UP
from xfrmi.wire.xfrm_event_msg import Aevent
from xfrmi.wire.xfrm_migrate_msg import Migration, Move
from xfrmi.wire.xfrm_types import Selector, StateId

MOVED = "192.0.2.129"
TUNNEL = Tunnel("ipsec0", 42)


def pids(host: Node) -> list[int]:
    with at(host) as client:
        found: list[int] = client.status()["workers"]
        return found


def kill(host: Node, number: int) -> None:
    """SIGKILL, and wait for the successor."""
    before = pids(host)[number]
    os.kill(before, signal.SIGKILL)
    eventually(lambda: pids(host)[number] not in (0, before), "it is not replaced")


def for_processors(hosts: Hosts, count: int, more: str = "") -> None:
    """States of TUNNEL's kind for one processor each, in both directions."""
    for cpu in range(count):
        for sender in PEER:
            key = secrets.token_hex(20)
            for host in hosts.ends:
                way = "dir out" if host.name == sender else "dir in replay-window 128"
                tell(
                    host,
                    f"state add src {OUTER[sender, 4]} dst {OUTER[PEER[sender], 4]} proto esp "
                    f"spi {0x5000 + 0x10 * cpu + TUNNEL.spi(sender) % 0x10:#x} reqid 42 mode tunnel if_id 42 "
                    f"aead rfc4106(gcm(aes)) 0x{key} 128 flag af-unspec {way} pcpu-num {cpu} {more}\n",
                )


def send_flows(host: Node, address: str, count: int) -> None:
    for _ in range(count):
        with host:
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sender:
            sender.sendto(filler(100), (address, 9))


def records(packets: Packets, count: int) -> list[Record]:
    """The next ones, none of which is lost."""
    found = [next(packets) for _ in range(count)]
    assert not [record for record in found if isinstance(record, Lost)]
    return [record for record in found if isinstance(record, Record)]


@contextmanager
def flows(hosts: Hosts, count: int = 16) -> Iterator[None]:
    """Datagrams of many flows both ways, as long as the block lasts."""
    senders = []
    for source, sink in (hosts.ends, hosts.ends[::-1]):
        for _ in range(count):
            with source:
                sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sender.connect((TUNNEL.address(sink.name, 4), 9))
            senders.append(sender)
    with sending(senders, filler(64), 0.01):
        yield


def to_sun(hosts: Hosts) -> list[bytes]:
    """What left moon as ESP. (Its answers, too, are ESP: nobody listens at the ports of these datagrams.)"""
    there = socket.inet_aton(OUTER["sun", 4])
    return [frame for frame in hosts.wire("moon") if kind(frame) == "ESP" and frame[30:34] == there]


def spis(hosts: Hosts) -> Counter[int]:
    return Counter(spi_and_sequence(frame)[0] for frame in to_sun(hosts))


# Numbers and nonces --------------------------------------------------------------------------------------------------


class Ledger:
    """Every sequence number and every IV of a wire. A key has one SPI here, and keeps it when it is added again."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._ivs: set[tuple[int, bytes]] = set()
        self._numbers: set[tuple[int, int]] = set()
        self.packets = 0

    def take(self) -> None:
        """What has passed since the last time."""
        for frame in self._hosts.esp():
            spi, number = spi_and_sequence(frame)
            at = esp_offset(frame) + 8
            iv = bytes(frame[at : at + 8])
            assert (spi, number) not in self._numbers, f"number {number} of SPI {spi:#x} twice"
            assert (spi, iv) not in self._ivs, f"IV {iv.hex()} of SPI {spi:#x} twice"
            self._numbers.add((spi, number))
            self._ivs.add((spi, iv))
            self.packets += 1
        self._hosts.clear()

    def begin_again(self) -> None:
        """The states are new ones, with the old keys: numbers begin again, nonces never do."""
        self._numbers.clear()


@pytest.mark.parametrize("bound", [False, True], ids=["for all processors", "for one each"])
@in_netns
def test_no_number_and_no_nonce_twice_whatever_becomes_of_the_workers(bound: bool) -> None:
    count = 3 if bound else 2
    with two_hosts("--workers", str(count)) as hosts:
        hosts.set_up(TUNNEL)
        if bound:
            for_processors(hosts, count)
        ledger = Ledger(hosts)
        for number in (*range(count), *reversed(range(count))):  # seals, opens
            with flows(hosts):
                time.sleep(0.2)
                os.kill(pids(hosts.moon)[number], signal.SIGKILL)
                time.sleep(0.1)
                tell(hosts.moon, TUNNEL.state_line("moon", "limit packet-soft 1000000").replace("add", "update", 1))
                with at(hosts.moon) as client:
                    named = StateId(socket.inet_aton(OUTER["sun", 4]), TUNNEL.spi("moon"))
                    client.set_replay(Aevent(named, etimer_thresh=20))
                eventually(lambda: 0 not in pids(hosts.moon), "it is not replaced")
                time.sleep(0.1)
            ledger.take()
        with flows(hosts):
            time.sleep(0.2)
            kill(hosts.sun, 0)
            kill(hosts.moon, 0)  # right after it was begun: it may be in its first block of numbers
            os.kill(pids(hosts.moon)[0], signal.SIGKILL)
            time.sleep(1.5)
        ledger.take()
        before = ledger.packets
        assert before > 1000
        for host in hosts.ends:
            tell(host, f"state delete dst {OUTER['sun', 4]} proto esp spi {TUNNEL.spi('moon'):#x}\n")
            tell(host, TUNNEL.state_line("moon"))
        ledger.begin_again()
        with flows(hosts):
            time.sleep(0.3)
        ledger.take()
        assert ledger.packets > before
        assert hosts.shown() == []
        log = hosts.moon.last_words(lines=200)
        assert len(re.findall(r"worker \d \(pid \d+\) ended with signal 9", log)) == 2 * count + 2
        assert "Traceback" not in log


@in_netns
def test_a_key_that_moves_keeps_its_nonces_apart() -> None:
    """MIGRATE: the clone has the key and counts its IVs in a range of its own."""
    with two_hosts("--workers", "2") as hosts:
        hosts.set_up(TUNNEL)
        hosts.moon.address("lo", f"{MOVED}/32")
        ivs: list[bytes] = []
        for turn in range(2):
            hosts.clear()
            send_flows(hosts.moon, TUNNEL.address("sun", 4), 30)
            eventually(lambda: len(to_sun(hosts)) == 30, "not all leave")
            frames = to_sun(hosts)
            ivs.extend(bytes(frame[esp_offset(frame) + 8 :][:8]) for frame in frames)
            assert {socket.inet_ntoa(bytes(frame[26:30])) for frame in frames} == {MOVED if turn else OUTER["moon", 4]}
            if not turn:
                here, there, moved = map(socket.inet_aton, (OUTER["moon", 4], OUTER["sun", 4], MOVED))
                move = Move(here, there, moved, there, reqid=42)
                with at(hosts.moon) as client:
                    client.migrate(Migration(Selector.parse("0.0.0.0/0", "0.0.0.0/0"), moves=(move,), if_id=42))
        assert len(ivs) == 60 == len(set(ivs))


# Windows -------------------------------------------------------------------------------------------------------------


@in_netns
def test_what_was_received_before_a_crash_is_not_received_again() -> None:
    with two_hosts("--workers", "2") as hosts:
        hosts.set_up(TUNNEL)
        hosts.clear()
        assert len(ping(hosts.moon, TUNNEL.address("sun", 4), 10)) == 10
        frames = [frame for frame in hosts.esp() if spi_and_sequence(frame)[0] == TUNNEL.spi("moon")]
        assert len(frames) == 10
        kill(hosts.sun, 1)
        received = counters(hosts.sun, "ipsec0").rx_packets
        with rises(hosts.sun, XfrmInStateSeqError=10):
            with hosts.router:
                out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
                out.bind((PORT["sun"], 0))
            with out:
                for frame in frames:
                    out.send(frame)
        assert counters(hosts.sun, "ipsec0").rx_packets == received
        assert len(ping(hosts.moon, TUNNEL.address("sun", 4), 5)) == 5, "what comes next is"


# Who does what -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encapsulation", ["", "encap espinudp 4500 4500 0.0.0.0"], ids=["raw", "udp"])
@in_netns
def test_both_ways_and_the_sum_of_all_is_shown(encapsulation: str) -> None:
    tunnel = Tunnel("ipsec0", 42, state=encapsulation)
    with two_hosts("--workers", "2") as hosts:
        hosts.set_up(tunnel)
        for family in (4, 6):
            assert len(ping(hosts.moon, tunnel.address("sun", family), 5)) == 5
            for source, sink in (hosts.ends, hosts.ends[::-1]):
                assert tcp_transfer(source, sink, tunnel.address(sink.name, family), 4_000_000).intact
        there = NumberedStream(hosts.moon, hosts.sun, tunnel.address("sun", 4), 500)
        back = NumberedStream(hosts.sun, hosts.moon, tunnel.address("moon", 4), 500)
        time.sleep(0.5)
        for stream in (there.finish(), back.finish()):
            assert stream.sent > 50 and (stream.lost, stream.duplicates) == (0, 0)
        for sender, receiver in (hosts.ends, hosts.ends[::-1]):
            sealed, opened = state(sender, tunnel, sender.name), state(receiver, tunnel, sender.name)
            assert sealed.current.packets == opened.current.packets > 100
            assert sealed.current.bytes == opened.current.bytes
            assert sealed.replay_esn is not None and opened.replay_esn is not None
            assert sealed.replay_esn.oseq == opened.replay_esn.seq == sealed.current.packets
            assert counters(receiver, "ipsec0").rx_packets == opened.current.packets
        assert hosts.shown() == []
        for host in hosts.ends:
            assert "Traceback" not in host.last_words(lines=40)


@in_netns
def test_states_for_processors_share_the_flows() -> None:
    with two_hosts("--workers", "3") as hosts:
        hosts.set_up(TUNNEL)
        for_processors(hosts, 3)
        hosts.clear()
        send_flows(hosts.moon, TUNNEL.address("sun", 4), 150)
        eventually(lambda: counters(hosts.sun, "ipsec0").rx_packets == 150, "they do not all arrive")
        shares = spis(hosts)
        assert set(shares) == {0x5001, 0x5011, 0x5021} and min(shares.values()) > 15
        with at(hosts.sun) as client:
            opened = {found.spi: found.current.packets for found in client.states()}
        assert {spi: opened[spi] for spi in shares} == shares
        tell(hosts.moon, f"state delete dst {OUTER['sun', 4]} proto esp spi 0x5011\n")
        hosts.clear()
        send_flows(hosts.moon, TUNNEL.address("sun", 4), 150)
        eventually(lambda: counters(hosts.sun, "ipsec0").rx_packets == 300, "they do not all arrive")
        assert set(spis(hosts)) == {0x5001, 0x5021}, "no flow goes to a worker without a state of its own"


@in_netns
def test_what_a_workers_own_state_is_not_for_goes_by_the_one_for_all() -> None:
    """And what nobody has a state for is told to the sender, once."""
    with two_hosts("--workers", "2") as hosts:
        hosts.set_up(TUNNEL)
        for_processors(hosts, 2, "sel src 10.0.42.0/24 dst 10.0.42.0/24 proto udp dport 7")
        hosts.clear()
        send_flows(hosts.moon, TUNNEL.address("sun", 4), 100)
        assert tcp_transfer(hosts.moon, hosts.sun, TUNNEL.address("sun", 4), 2_000_000).intact
        eventually(lambda: counters(hosts.sun, "ipsec0").rx_packets > 1000, "they do not all arrive")
        assert set(spis(hosts)) == {TUNNEL.spi("moon")}
        tell(hosts.moon, f"state delete dst {OUTER['sun', 4]} proto esp spi {TUNNEL.spi('moon'):#x}\n")
        before = counters(hosts.moon, "ipsec0").tx_carrier_errors
        with rises(hosts.moon, XfrmOutNoStates=40):
            send_flows(hosts.moon, TUNNEL.address("sun", 4), 40)
            eventually(lambda: counters(hosts.moon, "ipsec0").tx_carrier_errors == before + 40, "not all are refused")
        assert hosts.shown() == []


@in_netns
def test_each_worker_asks_for_a_state_of_its_own() -> None:
    with two_hosts("--workers", "2") as hosts, Monitor(hosts.moon, "SA", "acquire") as monitor:
        hosts.set_up(TUNNEL)
        line = TUNNEL.policy_line("moon", "out", 4)
        tell(hosts.moon, line.replace("add", "update", 1).replace("tmpl", "flag cpu-acquire tmpl"))
        hosts.clear()
        send_flows(hosts.moon, TUNNEL.address("sun", 4), 40)
        eventually(lambda: monitor.text().count("acquire") == 2, monitor.text)
        eventually(lambda: counters(hosts.sun, "ipsec0").rx_packets == 40, "they do not all arrive")
        assert set(spis(hosts)) == {TUNNEL.spi("moon")}, "the one for all serves meanwhile"
        with at(hosts.moon) as client:
            larvals = sorted(found.pcpu for found in client.states() if not found.spi and found.pcpu is not None)
        assert larvals == [0, 1]


# Life and death ------------------------------------------------------------------------------------------------------


@in_netns
def test_when_the_daemon_is_killed_its_workers_end_and_nothing_is_shown() -> None:
    with two_hosts("--workers", "2") as hosts:
        hosts.set_up(TUNNEL)
        workers = pids(hosts.moon)
        with flows(hosts):
            time.sleep(0.2)
            hosts.daemons["moon"].kill()
            hosts.daemons["moon"].wait()
            eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers), "they are still there")
            time.sleep(0.2)
        assert hosts.shown() == []
        link = device(hosts.moon, "ipsec0")
        assert link is not None and not link.flags & IFF_LOWER_UP
        hosts.daemons["moon"] = hosts.moon.start_daemon("--workers", "2")
        tell(hosts.moon, "".join(line + "\n" for line in TUNNEL.lines("moon").splitlines() if "link add" not in line))
        for sender in PEER:
            tell(hosts.sun, f"state delete dst {OUTER[PEER[sender], 4]} proto esp spi {TUNNEL.spi(sender):#x}\n")
        tell(hosts.sun, TUNNEL.key_lines())
        assert len(ping(hosts.moon, TUNNEL.address("sun", 4), 3)) == 3


@pytest.mark.parametrize("before", ["1", "2"])
@in_netns
def test_devices_made_with_and_without_workers_are_taken_over(before: str) -> None:
    after = "3" if before == "1" else "1"
    with two_hosts("--workers", before) as hosts:
        tell(hosts.moon, TUNNEL.link_lines())
        give_addresses(hosts.moon, TUNNEL)
        assert hosts.moon.stop(hosts.daemons["moon"]) == 0
        hosts.daemons["moon"] = hosts.moon.start_daemon("--workers", after)
        tell(hosts.moon, "".join(line + "\n" for line in TUNNEL.lines("moon").splitlines() if "link add" not in line))
        tell(hosts.sun, TUNNEL.lines("sun"))
        give_addresses(hosts.sun, TUNNEL)
        assert len(ping(hosts.moon, TUNNEL.address("sun", 4), 3)) == 3
        for_processors(hosts, 2 if after == "3" else 1)
        send_flows(hosts.moon, TUNNEL.address("sun", 4), 30)
        eventually(lambda: counters(hosts.sun, "ipsec0").rx_packets == 33, "they do not all arrive")
        with at(hosts.moon) as client:
            client.delete_link("ipsec0")
        assert device(hosts.moon, "ipsec0") is None
        tell(hosts.moon, TUNNEL.link_lines())


@in_netns
def test_a_worker_that_hangs_is_replaced() -> None:
    with two_hosts("--workers", "2") as hosts:
        hosts.set_up(TUNNEL)
        victim = pids(hosts.moon)[0]
        os.kill(victim, signal.SIGSTOP)
        started = time.monotonic()
        hosts.moon.xfrmi("stat")  # asks all of them
        assert time.monotonic() - started < 10
        eventually(lambda: victim not in pids(hosts.moon) and 0 not in pids(hosts.moon), "it is not replaced")
        assert len(ping(hosts.moon, TUNNEL.address("sun", 4), 3)) == 3


@in_netns
def test_what_workers_carry_is_told_as_one_story() -> None:
    """Out and in by different workers, drops, and what a successor carries."""
    with two_hosts("--workers", "2") as hosts:
        hosts.set_up(TUNNEL)
        address = TUNNEL.address("sun", 4)
        with at(hosts.moon) as client:
            packets = client.packets("ipsec0")
            sizes = [100, 200, 300]
            for size in sizes:
                assert ping(hosts.moon, address, 1, size=size)
            seen = records(packets, 6)
            assert [record.direction for record in seen] == ["out", "in"] * 3
            assert sorted(record.time for record in seen) == [record.time for record in seen]
            assert [len(record.inner) for record in seen[::2]] == [size + 28 for size in sizes]
            assert all(record.outer[20:24] == TUNNEL.spi("moon").to_bytes(4, "big") for record in seen[::2])
            assert all(record.inner and not record.reason for record in seen)
            kill(hosts.moon, 1)
            stat(hosts.moon)  # which its successor answers, too
            assert ping(hosts.moon, address, 1)
            assert [record.direction for record in records(packets, 2)] == ["out", "in"]
            packets.close()
            packets = client.packets(dropped=True)
            tell(hosts.moon, f"state delete dst {OUTER['sun', 4]} proto esp spi {TUNNEL.spi('moon'):#x}\n")
            tell(hosts.sun, f"state delete dst {OUTER['sun', 4]} proto esp spi {TUNNEL.spi('moon'):#x}\n")
            send_flows(hosts.moon, address, 1)
            (drop,) = records(packets, 1)
            assert (drop.counter, drop.direction, drop.interface) == ("XfrmOutNoStates", "out", "ipsec0")
            packets.close()
