"""`xfrmi daemon --replace`: another process goes on, and nobody notices."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest

from tests.netns import in_netns
from tests.oracle.spread import EVERYTHING
from tests.system.hosts import Hosts, Tunnel, at, eventually, tell, two_hosts
from tests.system.monitor import Monitor
from xfrmi.client.channel import connect
from xfrmi.daemon import handover_format as told
from xfrmi.daemon.runtime import JSON_SOCKET
from xfrmi.daemon.session import peer_credentials
from xfrmi.dev.netns import OWN_NETNS
from xfrmi.lab.namespace import xfrmi_command
from xfrmi.lab.topology import Node
from xfrmi.lab.traffic import NumberedStream, Stream, ping
from xfrmi.lab.wiretap import ETH_HEADER_LEN, kind
from xfrmi.wire.ip import split_outer

TUNNELS = (
    Tunnel("tun4", 4, outer=4),
    Tunnel("tun6", 6, outer=6),
    Tunnel("nat0", 45, outer=4, state="encap espinudp 4500 4500 0.0.0.0"),
)
PAIRS = [(tunnel, family) for tunnel in TUNNELS for family in tunnel.inner]
A_SECOND = 100
"""Datagrams of each stream."""
PATIENCE = 10.0
"""Seconds without a datagram after which what is missing is taken for lost."""
PAUSE = re.compile(r"packets waited ([0-9.]+) ms")


@contextmanager
def streaming(hosts: Hosts, pairs: Sequence[tuple[Tunnel, int]] = PAIRS) -> Iterator[dict[str, Stream]]:
    """Numbered datagrams through every tunnel, in both families and directions. What became of them is known after the
    block; in it, how many have been sent."""
    streams = {
        f"{source.name} {tunnel.name} IPv{family}": NumberedStream(
            source, sink, tunnel.address(sink.name, family), A_SECOND, patience=PATIENCE
        )
        for source, sink in (hosts.ends, hosts.ends[::-1])
        for tunnel, family in pairs
    }
    try:
        yield {name: stream.stream for name, stream in streams.items()}
    finally:
        for stream in streams.values():
            stream.finish()


def replace(host: Node, *options: str) -> subprocess.Popen[str]:
    """Start the successor; it has taken over when this returns."""
    before = host.last_words(lines=1000).count("has handed over")
    program = host.launch_daemon("--replace", *options)
    eventually(
        lambda: host.last_words(lines=1000).count("has handed over") > before,
        lambda: f"no hand-over:\n{host.last_words(lines=30)}",
        seconds=60,
    )
    return program


def losses(accounts: dict[str, Stream]) -> dict[str, tuple[int, int]]:
    """Streams of which anything was lost or came twice: how many."""
    counts = {name: (stream.sent - len(stream.received), stream.duplicates) for name, stream in accounts.items()}
    return {name: count for name, count in counts.items() if any(count)}


def missing(hosts: Hosts, accounts: dict[str, Stream]) -> str:
    """Which datagrams, and which queue of the kernel has dropped any: where nothing has, a daemon has lost them."""
    said = []
    for name, stream in accounts.items():
        lost = sorted(set(range(stream.sent)) - stream.received)
        if lost:
            which = f"{len(lost)} of {stream.sent}, from {lost[0]} to {lost[-1]}"
            said.append(f"{name}: {which}; {stream.overruns} dropped at the receiver")
    for host in hosts.ends:
        with host:
            for kind in ("raw", "raw6", "udp", "udp6"):
                with open(f"/proc/thread-self/net/{kind}", encoding="ascii") as lines:
                    dropped = sum(int(line.split()[-1]) for line in list(lines)[1:])
                said.append(f"{host.name} {kind}: {dropped} dropped")
            for command in ("ip -s link", "tc -s qdisc"):  # if there are any
                said.append(subprocess.run(command, shell=True, capture_output=True, text=True, check=False).stdout)
    return "\n".join(said)


def refused(hosts: Hosts) -> dict[str, int]:
    """Everything that either host has counted as an error."""
    found: dict[str, int] = {}
    for host in hosts.ends:
        with at(host) as client:
            found.update((f"{host.name} {name}", count) for name, count in client.stat().items() if count)
    return found


def used_twice(frames: list[bytes]) -> list[tuple[bytes, bytes]]:
    """SPI and IV of packets that were not the only ones with them."""
    seen: dict[tuple[bytes, bytes], int] = {}
    for frame in frames:
        if kind(frame) == "ESP":
            _, esp = split_outer(frame[ETH_HEADER_LEN:])
            seen[esp[:4], esp[8:16]] = seen.get((esp[:4], esp[8:16]), 0) + 1
        elif kind(frame) == "IPv4 protocol 17" and frame[36:38] == b"\x11\x94" and len(frame) > 64:
            seen[frame[42:46], frame[50:58]] = seen.get((frame[42:46], frame[50:58]), 0) + 1
    assert len(seen) > 100
    return [key for key, count in seen.items() if count > 1]


@in_netns
def test_nothing_is_lost() -> None:
    """Both hosts, one after the other: no packet is missing, none twice, none refused, none in the clear."""
    with two_hosts() as hosts:
        hosts.set_up(*TUNNELS)
        with streaming(hosts) as accounts:
            for host in hosts.ends:
                old = hosts.daemons[host.name]
                hosts.daemons[host.name] = replace(host)
                assert old.wait(5) == 0
            eventually(lambda: min(stream.sent for stream in accounts.values()) > 50, "they hardly send", seconds=20)
        print("packets waited (ms):", *(PAUSE.findall(host.last_words(lines=1000)) for host in hosts.ends))
        assert used_twice(hosts.wire()) == []
        assert losses(accounts) == {}, missing(hosts, accounts)
        assert min(stream.sent for stream in accounts.values()) > 50
        assert refused(hosts) == {}
        assert hosts.shown() == []


def for_processors(hosts: Hosts, tunnel: Tunnel, count: int) -> None:
    """More states for this tunnel, one for each processor."""
    for number in range(count):
        new = tunnel.rekeyed()
        for sender in ("moon", "sun"):
            line = new.state_line(sender, f"pcpu-num {number}")
            spi = tunnel.spi(sender)
            line = line.replace(f"spi {spi:#x}", f"spi {spi + 0x10 * (number + 1):#x}")
            for host in hosts.ends:
                way = "dir out" if host.name == sender else "dir in replay-window 128"
                tell(host, line.replace("replay-window 128", way))


@pytest.mark.parametrize("counts", [(1, 3, 2, 1), (3, 1, 2)], ids=str)
@in_netns
def test_nothing_is_lost_whatever_workers_there_are(counts: tuple[int, ...]) -> None:
    """One daemon after another: the last ones with what the first had, and with sockets of all of them. One tunnel has
    states for three processors, too, so that packets are in all queues and sockets."""
    with two_hosts("--workers", str(counts[0])) as hosts:
        hosts.set_up(*TUNNELS)
        if counts[0] > 1:
            for_processors(hosts, TUNNELS[0], 3)
        with streaming(hosts) as accounts:
            for count in counts[1:]:
                old = hosts.daemons["moon"]
                hosts.daemons["moon"] = replace(hosts.moon, "--workers", str(count))
                assert old.wait(5) == 0
        print("packets waited (ms):", PAUSE.findall(hosts.moon.last_words(lines=1000)))
        assert "Traceback" not in hosts.moon.last_words(lines=1000)
        assert used_twice(hosts.wire()) == []
        assert losses(accounts) == {}, missing(hosts, accounts)
        assert refused(hosts) == {}
        assert hosts.shown() == []


@in_netns
def test_clients_keep_what_they_have() -> None:
    """Connections, subscriptions, half a request, a larval state, a policy without if_id, all counters."""
    with two_hosts() as hosts:
        tunnel = TUNNELS[0]
        hosts.set_up(tunnel)
        with (
            at(hosts.moon) as client,
            connect(OWN_NETNS, JSON_SOCKET, socket.SOCK_STREAM, 10) as half,
            connect(OWN_NETNS, JSON_SOCKET, socket.SOCK_STREAM, 10) as tracing,
            Monitor(hosts.moon) as monitor,
        ):
            half.send(b'{"cmd": "st')
            tracing.send(b'{"cmd": "trace"}\n')
            assert tracing.recv(100) == b'{"result": {}}\n'
            tell(hosts.moon, "policy add src 10.9.0.0/24 dst 10.8.0.0/24 dir out "
                 "tmpl src 192.0.2.1 dst 198.51.100.1 proto esp reqid 99 mode tunnel\n")  # fmt: skip
            larval = hosts.moon.xfrmi("state", "allocspi", "src", "192.0.2.1", "dst", "198.51.100.1", "proto", "esp",
                                      "min", "0x777", "max", "0x777")  # fmt: skip
            assert larval.returncode == 0, larval.stderr
            assert len(ping(hosts.moon, tunnel.address("sun", 4), 2)) == 2
            before = [hosts.moon.xfrmi("-s", *words).stdout for words in (("state",), ("policy",), ("link", "show"))]
            program = replace(hosts.moon)
            with connect(OWN_NETNS, JSON_SOCKET, socket.SOCK_STREAM, 10) as fresh:
                assert peer_credentials(fresh).pid == program.pid
            after = [hosts.moon.xfrmi("-s", *words).stdout for words in (("state",), ("policy",), ("link", "show"))]
            assert after == before
            assert "0x00000777" in before[0]
            half.send(b'at"}\n')
            assert json.loads(half.recv(1 << 16))["result"]["XfrmInError"] == 0
            assert client.status()["held"] is not None, "the connection leads to the new one"
            tell(hosts.moon, "state flush\n")
            monitor.expect("Flushed state")
            assert ping(hosts.moon, tunnel.address("sun", 4), 1, timeout=0.2) == []
            records = b""
            while b"XfrmOutNoStates" not in records:
                records += tracing.recv(1 << 16)


def refusing_successor(host: Node, behave: Callable[[socket.socket], None], **request: object) -> dict[str, object]:
    """Ask for the hand-over, and then do what `behave` does."""
    with at(host), connect(OWN_NETNS, JSON_SOCKET, socket.SOCK_STREAM, 10) as control:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            ours.settimeout(10)
            line = json.dumps({"cmd": "hand-over", "format": told.FORMAT} | request).encode() + b"\n"
            socket.send_fds(control, [line], [theirs.fileno()])
            theirs.close()
            answer = json.loads(control.recv(1 << 16))
            if "result" in answer:
                behave(ours)
    return dict(answer)


def hear(channel: socket.socket, until: type) -> None:
    buffer = bytearray(told.MAX_MESSAGE)
    while not isinstance(told.receive(channel, buffer)[0], until):
        pass


def ends_at_once(channel: socket.socket) -> None:
    pass


def ends_when_all_is_told(channel: socket.socket) -> None:
    hear(channel, told.Prepared)


def talks_nonsense(channel: socket.socket) -> None:
    channel.send(b"nonsense")
    hear(channel, told.Prepared)


def hold(channel: socket.socket, fds: Sequence[int] = ()) -> None:
    """Go all the way to where packets wait for us."""
    for _ in range(2):
        hear(channel, told.Prepared)
        told.send(channel, told.Prepared(), fds)
    hear(channel, told.Rest)


def ends_when_all_is_told_again(channel: socket.socket) -> None:
    hear(channel, told.Prepared)
    told.send(channel, told.Prepared())
    hear(channel, told.Prepared)


def does_not_wait_for_an_answer(channel: socket.socket) -> None:
    """With one word more it could be believed, if it is quick: nobody can tell that from one that ends later."""
    hear(channel, told.Prepared)
    with suppress(OSError):
        for _ in range(2):
            told.send(channel, told.Prepared())
        hear(channel, told.Rest)


def ends_with_the_packets_held(channel: socket.socket) -> None:
    hold(channel)


def says_something_else_in_the_end(channel: socket.socket) -> None:
    hold(channel)
    told.send(channel, told.Lock())


def sends_descriptors(channel: socket.socket) -> None:
    """That nobody has asked for, with each word."""
    hold(channel, [0, 1, 2, 0, 1])
    told.send(channel, told.Lock(), [0] * 250)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@in_netns
def test_a_successor_that_fails_is_not_noticed() -> None:
    """At each step, with packets under way; then a real one whose process is killed; then one that succeeds."""
    with two_hosts() as hosts:
        hosts.set_up(*TUNNELS)
        pid = hosts.daemons["moon"].pid
        before = descriptors(pid)
        with streaming(hosts) as accounts:
            for number, behave in enumerate((
                ends_at_once, ends_when_all_is_told, talks_nonsense, ends_when_all_is_told_again,
                does_not_wait_for_an_answer, ends_with_the_packets_held,
                says_something_else_in_the_end, sends_descriptors,
            ), 1):  # fmt: skip
                assert refusing_successor(hosts.moon, behave) == {"result": {"pid": pid}}
                eventually(
                    lambda count=number: hosts.moon.last_words(lines=99).count("which goes on") == count,  # type: ignore[misc]
                    lambda: hosts.moon.last_words(lines=99),
                )
            program = hosts.moon.launch_daemon("--replace")
            asks = f"pid {program.pid} asks"
            eventually(lambda: asks in hosts.moon.last_words(lines=3), "it does not ask", seconds=20)
            program.send_signal(signal.SIGKILL)
            program.wait()
            with at(hosts.moon) as client:
                eventually(lambda: client.status()["pid"] == pid, "another one serves")
            eventually(lambda: descriptors(pid) == before, lambda: f"{before} descriptors, now {descriptors(pid)}")
        assert losses(accounts) == {}, missing(hosts, accounts)
        assert refused(hosts) == {}
        replace(hosts.moon)
        assert len(ping(hosts.moon, TUNNELS[1].address("sun", 6), 3)) == 3


@pytest.mark.parametrize("workers", [1, 2])
@in_netns
def test_a_successor_that_hangs_is_left_behind(workers: int) -> None:
    with two_hosts("--workers", str(workers)) as hosts:
        hosts.set_up(TUNNELS[0])

        def hangs(channel: socket.socket) -> None:
            hold(channel)
            assert channel.recv(1) == b"", "it is hung up on"

        refusing_successor(hosts.moon, hangs)
        assert "has not answered" in hosts.moon.last_words()
        assert len(ping(hosts.moon, TUNNELS[0].address("sun", 4), 3)) == 3


HURRIED = """
import sys
from xfrmi.daemon import handover
handover.SILENCE = 0.1
from xfrmi.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@in_netns
def test_a_successor_that_falls_silent_keeps_another_out_for_a_while_only() -> None:
    with two_hosts() as hosts:
        answers: list[dict[str, object]] = []

        def kept_out(channel: socket.socket) -> None:
            answers.append(refusing_successor(hosts.moon, ends_at_once))
            reloaded = hosts.moon.xfrmi("daemon", "--reload")
            assert (reloaded.returncode, reloaded.stdout) == (1, "")
            assert "has ended before it took over, and the old one goes on" in reloaded.stderr

        refusing_successor(hosts.moon, kept_out)
        assert [answer.get("errno") for answer in answers] == [errno.EBUSY]
        eventually(lambda: "which goes on: it has ended" in hosts.moon.last_words(), hosts.moon.last_words)
        old, command = hosts.daemons["moon"], [sys.executable, "-c", HURRIED, "daemon", "--replace"]
        hosts.daemons["moon"] = hosts.moon.start(command, "daemon.log")
        assert old.wait(20) == 0

        def makes_room(channel: socket.socket) -> None:
            hear(channel, told.Prepared)
            eventually(lambda: "result" in refusing_successor(hosts.moon, ends_at_once), "another is kept out")
            assert channel.recv(1) == b"", "it is hung up on"

        refusing_successor(hosts.moon, makes_room)
        assert "it has been silent for" in hosts.moon.last_words(lines=99)


@in_netns
def test_who_cannot_take_over_is_told_why() -> None:
    with two_hosts("--kernel-quirks") as hosts:
        another = refusing_successor(hosts.moon, ends_at_once, format=0)
        assert "is of another version" in str(another["error"])
        tell(hosts.moon, "policy add src 10.9.0.0/24 dst 10.8.0.0/24 dir out "
             "tmpl src 192.0.2.1 dst 198.51.100.1 proto esp reqid 99 mode tunnel\n")  # fmt: skip
        refused_ = hosts.moon.xfrmi("daemon", "--replace", "--workers", "2")
        assert refused_.returncode == 1
        assert refused_.stderr.endswith("there are policies without if_id, which workers cannot carry out: leave "
                                        "--workers out\n"), refused_.stderr  # fmt: skip
        eventually(lambda: "which goes on: it has ended" in hosts.moon.last_words(), hosts.moon.last_words)
        with at(hosts.moon), connect(OWN_NETNS, JSON_SOCKET, socket.SOCK_STREAM, 10) as control, hosts.sun:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with ours, theirs:
                line = json.dumps({"cmd": "hand-over", "format": told.FORMAT}).encode() + b"\n"
                socket.send_fds(control, [line], [theirs.fileno()])
                assert "in another network namespace" in control.recv(1 << 16).decode()


def with_device_elsewhere(hosts: Hosts, tunnel: Tunnel) -> Node:
    """Set up the tunnel with moon's device in another namespace than its daemon: the one that is returned."""
    hosts.set_up(tunnel)
    cell = hosts.lab.node("cell")
    inside = cell.start(["sleep", "1000"], "sleep.log")
    moved = hosts.moon.xfrmi("link", "set", tunnel.name, "netns", str(inside.pid))
    assert moved.returncode == 0, moved.stderr
    cell.up(tunnel.name)
    cell.address(tunnel.name, f"{tunnel.address('moon', 4)}/30")
    return cell


@in_netns
def test_many_times_and_with_a_device_elsewhere() -> None:
    """One after another, with workers and without: the last has no more descriptors than the first of its kind. The
    device lives in another namespace than its daemon."""
    with two_hosts("--kernel-quirks") as hosts:
        tunnel = TUNNELS[0]
        cell = with_device_elsewhere(hosts, tunnel)
        used: dict[str, list[tuple[int, int]]] = {}
        for number in range(12 if EVERYTHING else 6):
            workers = "12"[number // 2 % 2]
            old, hosts.daemons["moon"] = hosts.daemons["moon"], replace(hosts.moon, "--workers", workers)
            assert old.wait(30) == 0
            pid = hosts.daemons["moon"].pid
            assert len(ping(cell, tunnel.address("sun", 4), 2)) == 2
            used.setdefault(workers, []).append((descriptors(pid), resident(pid)))
        print("descriptors and KB resident, by workers:", used)
        for workers, at_most in (("1", 26), ("2", 32)):  # one has the sockets of two
            assert used[workers][-1][0] <= max(used[workers][0][0] + 2, at_most), used
        assert refused(hosts) == {}


def resident(pid: int) -> int:
    """KB."""
    with open(f"/proc/{pid}/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


OTHER_VERSION = """
import sys
from dataclasses import field, make_dataclass
from xfrmi.core import saved
saved.FIELDS = tuple(name for name in saved.FIELDS if name != "mapping_time")
from xfrmi.daemon import handover_format as told
DeviceIn = make_dataclass("DeviceIn", [("colour", str, field(default=""))], bases=(told.DeviceIn,), frozen=True)
told.DeviceIn = DeviceIn
told.KINDS.add(DeviceIn)
from xfrmi.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
"""Devices have a field more, states a field less."""


@in_netns
def test_another_version_takes_over_and_is_taken_over() -> None:
    with two_hosts("--kernel-quirks") as hosts:
        tunnel = TUNNELS[0]
        hosts.set_up(tunnel)
        other = [sys.executable, "-c", OTHER_VERSION, "daemon", "--replace"]
        for command in (other, xfrmi_command("daemon", "--replace")):
            old, hosts.daemons["moon"] = hosts.daemons["moon"], hosts.moon.start(command, "daemon.log")
            assert old.wait(20) == 0
            assert len(ping(hosts.moon, tunnel.address("sun", 4), 3)) == 3
        assert refused(hosts) == {}


@in_netns
def test_sighup_starts_the_successor() -> None:
    """For `systemctl reload`: systemd is told which process it is now by the one that it knows. The new one has only
    the capabilities that the old one has kept, and still hears what becomes of a device in another namespace."""
    with two_hosts() as hosts:
        tunnel = TUNNELS[0]
        cell = with_device_elsewhere(hosts, tunnel)
        first = serving(hosts.moon)
        assert first == hosts.daemons["moon"].pid
        os.kill(first, signal.SIGHUP)
        try:
            eventually(lambda: serving(hosts.moon) != first, lambda: hosts.moon.last_words(lines=99), seconds=20)
            second = serving(hosts.moon)
            reloaded = hosts.moon.xfrmi("daemon", "--reload")
            assert reloaded.stdout == f"pid {serving(hosts.moon)} serves now\n"
            assert serving(hosts.moon) not in (first, second)
            assert len(ping(cell, tunnel.address("sun", 4), 3)) == 3
            cell.up(tunnel.name, mtu=1300)
            with at(hosts.moon) as client:
                eventually(lambda: [link.mtu for link in client.links()] == [1300], "it has not heard of the MTU")
        finally:
            os.kill(serving(hosts.moon), signal.SIGTERM)
        eventually(lambda: "stopping" in hosts.moon.last_words(), "it does not stop")


def serving(host: Node) -> int:
    """The process."""
    with at(host) as client:
        return int(client.status()["pid"])
