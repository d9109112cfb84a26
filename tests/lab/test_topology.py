"""Labs as such: where they keep their things, what their nodes are, how they end."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from tests.netns import in_netns
from tests.system.hosts import eventually
from xfrmi.lab import topology
from xfrmi.lab.topology import Lab
from xfrmi.lab.traffic import NumberedStream, ping, tcp_transfer
from xfrmi.lab.wiretap import Wiretap

DOZE = "import time; [time.sleep(1) for _ in range(600)]"
SLEEP = [sys.executable, "-c", DOZE]


def test_sockets_fit_below_a_deep_tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a Unix socket has at most 107 bytes, whatever $TMPDIR is."""
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    for folder in (deep, tmp_path):
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        with Lab() as lab:
            assert len(f"{lab.folder}/internet/4294967295/route") <= 107
            assert lab.folder.is_dir()
        assert not lab.folder.exists()


@in_netns
def test_a_tap_outlives_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """It hears no more, and that is no error: an interrupted demo may have no time to close its tap first."""
    errors: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", errors.append)
    with Lab() as lab:
        left, right = lab.node("left"), lab.node("right")
        lab.link(left, "eth0", [], right, "eth0", [])
        with Wiretap(left, "eth0") as tap:
            right.close()
            eventually(lambda: not tap._thread.is_alive(), "it listens to nothing")
    assert errors == []


@in_netns
def test_hosts_cables_and_traffic() -> None:
    """Two nodes with a router: echoes, a transfer and a numbered stream get through, and a tap sees them."""
    with Lab() as lab:
        left, router, right = (lab.node(name) for name in ("left", "router", "right"))
        lab.link(
            left, "eth0", ["192.0.2.1/30", "2001:db8:1::1/64"], router, "eth0", ["192.0.2.2/30", "2001:db8:1::2/64"]
        )
        lab.link(
            right,
            "eth0",
            ["198.51.100.1/30", "2001:db8:2::1/64"],
            router,
            "eth1",
            ["198.51.100.2/30", "2001:db8:2::2/64"],
        )
        router.forward()
        for node, via4, via6 in ((left, "192.0.2.2", "2001:db8:1::2"), (right, "198.51.100.2", "2001:db8:2::2")):
            node.route("0.0.0.0/0", via=via4)
            node.route("::/0", via=via6)
        with Wiretap(router, "eth1") as tap:
            for address in ("198.51.100.1", "2001:db8:2::1"):
                assert len(ping(left, address, 3)) == 3
                assert tcp_transfer(left, right, address, 300_000).intact
                account = NumberedStream(left, right, address, per_second=500).finish()
                assert (account.lost, account.duplicates) == (0, 0)
            assert tap.kinds()["IPv4 protocol 6"] > 0
            assert tap.kinds()["IPv6 protocol 17"] > 0
        assert ping(left, "192.0.2.77", 1, timeout=0.1) == []


@in_netns
def test_programs_end_with_their_lab() -> None:
    """SIGTERM first; who does not listen is killed."""
    topology.STOP_SECONDS = 0.1  # this process is forked for this test
    with Lab() as lab:
        node = lab.node("host")
        polite = node.start(SLEEP)
        stubborn = node.start([sys.executable, "-uc", f"import signal; signal.signal(15, print); print(1); {DOZE}"])
        eventually(lambda: node.last_words("log") == "1", "no program")
        assert os.readlink(f"/proc/{polite.pid}/ns/net") == os.readlink(f"/proc/self/fd/{node.fd}")
        with pytest.raises(ValueError, match="eth7"):
            node.address("eth7", "192.0.2.1/30")
        folder = lab.folder
    assert polite.poll() == -signal.SIGTERM
    assert stubborn.poll() == -signal.SIGKILL
    assert not folder.exists()


@in_netns
def test_a_daemon_that_does_not_start_says_why() -> None:
    with Lab() as lab:
        node = lab.node("host")
        node.folder.chmod(0o777)
        with pytest.raises(
            RuntimeError, match=r"did not start on host: xfrmi: .* is not a directory of this user alone"
        ):
            node.start_daemon()
