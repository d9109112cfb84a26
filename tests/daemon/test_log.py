"""The log of a daemon stays short, whatever packets and clients do: each line that they can provoke, flooded."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.core.packets import udp
from tests.core.pair import NOW, OUTER, Host, policies, tunnel_state
from tests.daemon.test_control import connect
from tests.daemon.test_main import Process, somewhere
from tests.netns import in_netns
from xfrmi.client import Client
from xfrmi.core.events import StateAdded
from xfrmi.daemon import loop as loops
from xfrmi.daemon.data_path import LOOP_WARNING_INTERVAL, DataPath
from xfrmi.daemon.devices import XfrmDevice
from xfrmi.daemon.handover_format import FORMAT
from xfrmi.daemon.log import BURST, PER_SECOND, Log
from xfrmi.daemon.loop import Loop
from xfrmi.daemon.runtime import JSON_SOCKET, ROUTE_SOCKET, XFRM_SOCKET
from xfrmi.daemon.state_file import StateFile
from xfrmi.dev.loopback import tun_pair
from xfrmi.wire.link_types import LinkInfo


def test_lines_are_limited_all_together(capfd: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    log = Log(lambda: clock[0])
    for number in range(BURST + 300):
        log(f"line {number}")
    clock[0] += 3 / PER_SECOND
    for number in range(100):
        log(f"later {number}")
    clock[0] += 1 / PER_SECOND
    log("last")
    said = capfd.readouterr().err.splitlines()
    assert said == [
        *(f"line {number}" for number in range(BURST)),
        "300 lines left out: there were too many",
        *(f"later {number}" for number in range(3)),
        "97 lines left out: there were too many",
        "last",
    ]


def test_who_says_little_is_never_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    log = Log(lambda: clock[0])
    for number in range(3 * BURST):
        log(f"line {number}")
        clock[0] += 1 / PER_SECOND
    assert capfd.readouterr().err.splitlines() == [f"line {number}" for number in range(3 * BURST)]


def test_faults_print_twenty_tracebacks(capfd: pytest.CaptureFixture[str]) -> None:
    """A packet that finds a bug of ours finds it again and again."""
    loop = Loop()
    reader, writer = os.pipe()
    os.write(writer, b"x")

    def fails() -> None:
        if loop.faults >= 500:
            loop.stop()
        raise RuntimeError("a bug of ours")

    loop.watch(reader, fails)
    loop.run(lambda now: None, lambda: None)
    said = capfd.readouterr().err
    assert loop.faults == 501 and said.count("RuntimeError: a bug of ours") == loops.MAX_FAULTS == 20
    loop.unwatch(reader)
    loop.close()
    os.close(reader)
    os.close(writer)


def test_routing_loops() -> None:
    """Packets that come back into their device, for twenty seconds: a line in five."""
    lines: list[str] = []
    clock = [NOW]
    host = Host()
    interface = host.interface()
    host.router.ifindex = interface.ifindex = 7
    host.engine.add_state(tunnel_state(*OUTER[4], 0x1000), NOW)
    for info in policies(*OUTER[4], out=True):
        host.engine.add_policy(info, NOW)
    loop: Any = SimpleNamespace(clock=lambda: clock[0])
    underlay: Any = _NoSockets()
    data_path = DataPath(host.engine, underlay, host.router, loop, lines.append)
    tun: Any = tun_pair()[0]
    device = XfrmDevice(interface, tun)
    for _ in range(2000):
        data_path.send(device, [udp("10.0.1.1", "10.0.2.1")] * 3)
        clock[0] += 0.01
    assert interface.collisions == 6000
    assert lines == ["xfrm0: Local routing loop detected!"] * round(20 / LOOP_WARNING_INTERVAL)
    tun.close()


class _NoSockets:
    icmp_errors = ()

    def __iter__(self) -> Any:
        return iter(())


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """One line for each state that cannot be noted, of as many as there may be lines."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    clock = [0.0]
    states = StateFile(str(tmp_path), Log(lambda: clock[0]))
    monkeypatch.setattr(os, "pwrite", full)
    for number in range(BURST + 1000):
        states.note(StateAdded(tunnel_state(*OUTER[4], 0x1000 + number)))
    said = capfd.readouterr().err.splitlines()
    assert len(said) == BURST and "No space left on device" in said[0]
    states.close(forget=True)


def spoil(name: str, requests: list[bytes]) -> None:
    """Each on a connection of its own, until the daemon has hung up."""
    for request in requests:
        with connect(name) as connection, contextlib.suppress(OSError):
            connection.send(request)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass


@in_netns
def test_clients_and_packets_that_are_no_good() -> None:
    """A daemon as a process: what it says of hundreds of bad requests, of a crowd at the door, of packets that are
    nobody's; and of replacements that end half-way, which it does log, each with two lines."""
    tries = BURST // 2 + 50
    with somewhere() as notices:
        daemon = Process(notices)
        assert daemon.notice() == "READY=1"
        begun = time.monotonic()
        for name in (XFRM_SOCKET, ROUTE_SOCKET):
            numbers = [number.to_bytes(4, "little") * 8 for number in range(20, 60)]
            spoil(name, [b"", b"\0" * 16, b"\xff" * 100, *numbers])
        spoil(JSON_SOCKET, [b"no json\n", b"[]\n", b'{"cmd": "nothing"}\n', b"\xff\xfe\n", b"x" * (1 << 17)] * 10)
        crowd = []
        with contextlib.suppress(OSError):
            for _ in range(300):
                crowd.append(connect(JSON_SOCKET))
        for connection in crowd:
            connection.close()
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, 50) as attacker:
            for length in range(500):
                attacker.sendto(b"\xab" * (length % 60 + 1), ("127.0.0.1", 0))
        with Client() as client:
            for number in range(50):
                with pytest.raises(Exception, match="if_id"):
                    client.add_link(LinkInfo(name=f"bad{number}", if_id=0))
        for _ in range(tries):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with ours, connect(JSON_SOCKET) as control:
                request = json.dumps({"cmd": "hand-over", "format": FORMAT}).encode() + b"\n"
                socket.send_fds(control, [request], [theirs.fileno()])
                theirs.close()
                answer = json.loads(control.makefile("rb").readline())
                if "result" not in answer:
                    assert "handing over to another process already" in answer["error"]
        with Client() as client:
            assert client.stat()["XfrmInNoStates"] + client.stat()["XfrmInHdrError"] > 0
        status, said = daemon.stop()
        seconds = time.monotonic() - begun
        assert status == 0
        replacements = [line for line in said if line.startswith("pid ")]
        others = [line for line in said if line not in replacements]
        assert len(said) <= BURST + seconds * PER_SECOND + 2
        assert len(replacements) >= 10
        assert len(others) <= 4 + said.count("left out"), others
