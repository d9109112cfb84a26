"""What the doctor says of the daemon of a network namespace: real daemons, well and unwell."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.daemon.server import runtime_directory
from tests.doctor.doctor import asked, found
from tests.lacks import NOBODY
from tests.netns import in_netns, need_tun
from xfrmi import __version__
from xfrmi.client import Client
from xfrmi.dev.netns import netns_inode
from xfrmi.errors import XfrmError
from xfrmi.lab.namespace import xfrmi_command
from xfrmi.wire.link_types import LinkInfo


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon of this namespace, serving."""
    need_tun()
    with subprocess.Popen(command or xfrmi_command("daemon"), stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 10
            while not serves() and time.monotonic() < deadline:
                time.sleep(0.02)
            yield process
        finally:
            process.kill()


def serves() -> bool:
    try:
        with Client() as client:
            return bool(client.status())
    except XfrmError:
        return False


@in_netns
def test_a_daemon_that_is_well() -> None:
    with runtime_directory():
        assert found("daemon") == ("warning", "none runs in this network namespace", "sudo xfrmi daemon &")
        with running() as process, Client() as client:
            client.add_link(LinkInfo(name="ipsec0", if_id=42))
            who = f"pid {process.pid}, xfrmi {__version__}, network namespace {netns_inode()}"
            assert found("daemon") == ("ok", f"{who}; 1 interfaces, 0 states, 0 policies", "")
            status, checks = asked()
            assert status == 0, checks
            client.delete_link("ipsec0")


@in_netns
def test_the_port_is_the_daemons_own() -> None:
    with runtime_directory(), running() as process:
        listing = "state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 1 encap espinudp 4500 4500 0.0.0.0 aead"
        words = [*listing.split(), "rfc4106(gcm(aes))", "0x" + "11" * 20, "128"]
        subprocess.run(xfrmi_command(*words), check=True)
        assert found("udp 4500") == ("ok", "open for ESP by the daemon", "")
        process.send_signal(signal.SIGTERM)


@in_netns
def test_a_daemon_that_does_not_answer() -> None:
    with runtime_directory(), running() as process:
        process.send_signal(signal.SIGSTOP)
        status, text, cure = found("daemon")
        assert (status, cure) == ("warning", f"sudo kill {process.pid}; sudo xfrmi daemon &")
        assert "does not answer" in text


@in_netns
def test_a_daemon_of_another_version() -> None:
    older = "import xfrmi; xfrmi.__version__ = '0.0.9'; from xfrmi.cli.main import main; main(['daemon'])"
    with runtime_directory(), running(sys.executable, "-c", older) as process:
        status, text, cure = found("daemon")
        assert (status, cure) == ("warning", f"sudo kill {process.pid}; sudo xfrmi daemon &")
        assert f"not the version of this command, {__version__}" in text


@in_netns
def test_a_daemon_with_a_mistake() -> None:
    """Exceptions nobody expected are counted by the loop, and told."""
    broken = (
        "from xfrmi.cli.main import main; from xfrmi.core.engine import Engine; "
        "Engine.tick = lambda *_: 1 / 0; Engine.next_deadline = lambda *_: 0.0; main(['daemon'])"
    )
    with runtime_directory(), running(sys.executable, "-c", broken):
        status, text, cure = found("daemon")
        assert (status, cure) == ("warning", "journalctl -u xfrmi")
        assert "have found a mistake in it" in text


@in_netns
def test_interfaces_that_wait_for_a_daemon() -> None:
    with runtime_directory():
        with running(), Client() as client:
            client.add_link(LinkInfo(name="ipsec0", if_id=42))
        status, text, cure = found("daemon")
        assert (status, cure) == ("warning", "sudo xfrmi daemon &")
        assert "ipsec0 without carrier: it waits for one" in text


@in_netns
def test_a_place_that_others_may_write() -> None:
    with runtime_directory() as base:
        os.chmod(base, 0o777)
        status, checks = asked()
        entry = checks["place"]
        assert (status, entry["status"]) == (1, "lack")
        assert entry["text"].startswith(f"{base} is not a directory of this user alone")
        assert entry["cure"].endswith(f"chmod 0700 {base}")
        os.chmod(base, 0o700)
        assert found("place") == ("ok", f"{base} for the sockets of daemons", "")


@in_netns
def test_a_place_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XFRMI_RUNTIME_DIR", "/nonexistent/xfrmi")
    status, text, cure = found("place")
    assert (status, text) == ("lack", "/nonexistent/xfrmi cannot be made")
    assert cure.startswith("sudo install -d ")


@in_netns
def test_a_daemon_of_another_user() -> None:
    """Seen from outside its directory: it is there, and answers only its own user."""
    if os.geteuid():
        pytest.skip("THERE IS NO OTHER USER TO BE, NOT TESTED")
    with runtime_directory() as base:
        os.mkdir(f"{base}/{netns_inode()}", 0o700)
        os.chown(base, 0, 0)
        os.chmod(base, 0o755)
        os.seteuid(NOBODY)
        try:
            status, text, cure = found("daemon")
        finally:
            os.seteuid(0)
        assert (status, cure) == ("warning", "sudo xfrmi doctor")
        assert text.startswith(f"{base}/{netns_inode()} is another user's")
