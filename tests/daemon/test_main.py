"""The daemon as a process: started and stopped as systemd and people do it, with the privileges of its unit."""

from __future__ import annotations

import configparser
import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.daemon.server import runtime_directory
from tests.netns import Namespace, in_netns, need_tun
from xfrmi.client import Client
from xfrmi.dev.rtnl import Rtnl
from xfrmi.dev.tun import Tun
from xfrmi.errors import XfrmError
from xfrmi.wire.link_types import IFF_LOWER_UP, IFF_UP, LinkInfo

UNIT = Path(__file__).parents[2] / "examples" / "xfrmi.service"
CAPABILITIES = {"CAP_NET_BROADCAST": 11, "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}
LAST_CAPABILITY = 40
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38


def unit() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser["Service"]


def limited_to(numbers: set[int]) -> None:
    """In a child: what a unit's CapabilityBoundingSet and NoNewPrivileges do to the program it starts."""
    libc = ctypes.CDLL(None, use_errno=True)
    for number in range(LAST_CAPABILITY + 1):
        if number not in numbers and libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


class Process:
    def __init__(
        self, notices: socket.socket, *options: str, capabilities: set[int] | None = None, front: tuple[str, ...] = ()
    ) -> None:
        self._notices = notices
        self.process = subprocess.Popen(
            [sys.executable, "-m", "xfrmi", *front, "daemon", *options], stderr=subprocess.PIPE, text=True,
            preexec_fn=None if capabilities is None else lambda: limited_to(capabilities),
        )  # fmt: skip

    def notice(self) -> str:
        return self._notices.recv(100).decode()

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, list[str]]:
        self.process.send_signal(number)
        return self.end()

    def end(self) -> tuple[int, list[str]]:
        """Exit status and what it said."""
        _, said = self.process.communicate(timeout=20)
        return self.process.returncode, said.splitlines()


@contextmanager
def somewhere() -> Iterator[socket.socket]:
    """A runtime directory, and a NOTIFY_SOCKET to hear from."""
    need_tun()
    with runtime_directory() as base, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        path = f"{base}/notify"
        notices.bind(path)
        notices.settimeout(20)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NOTIFY_SOCKET", path)
            yield notices
        os.unlink(path)
        assert os.listdir(base) == [], "it cleared up"


def lower_up(name: str) -> bool | None:
    """None if there is no such device."""
    rtnl = Rtnl()
    link = rtnl.link(name)
    rtnl.close()
    return None if link is None else bool(link.flags & IFF_LOWER_UP)


def test_the_unit_starts_what_there_is() -> None:
    service = unit()
    assert service["ExecStart"].split() == ["xfrmi", "daemon"]
    assert service["Type"] == "notify"
    assert "-force -batch" in service["ExecStartPost"]


@in_netns
def test_a_life_with_the_privileges_of_the_unit() -> None:
    """READY when clients are served, STOPPING when told to stop; the interface stays, without carrier."""
    capabilities = {CAPABILITIES[name] for name in unit()["CapabilityBoundingSet"].split()}
    with somewhere() as notices:
        daemon = Process(notices, capabilities=capabilities)
        assert daemon.notice() == "READY=1"
        with Client() as client:
            client.add_link(LinkInfo(name="ipsec0", if_id=42, flags=IFF_UP, change=IFF_UP))
            assert client.links()[0].flags & IFF_UP
            assert client.status()["pid"] == daemon.process.pid
        status, said = daemon.stop()
        assert daemon.notice() == "STOPPING=1"
        assert status == 0
        assert [line.split(" ")[0] for line in said] == ["xfrmi", "interface", "stopping"]
        assert lower_up("ipsec0") is False
        again = Process(notices, "--remove-on-exit", capabilities=capabilities)
        assert again.notice() == "READY=1"
        assert lower_up("ipsec0") is True
        status, said = again.stop(signal.SIGINT)
        assert (status, lower_up("ipsec0")) == (0, None)
        assert again.notice() == "STOPPING=1"
        assert "interface ipsec0 (if_id 0x2a) taken over" in said


@in_netns
def test_only_one_for_a_namespace() -> None:
    """One sentence, and the first serves on."""
    with somewhere() as notices:
        first = Process(notices)
        assert first.notice() == "READY=1"
        status, said = Process(notices).end()
        assert status == 1
        assert said == [f"xfrmi: an xfrmi daemon (pid {first.process.pid}) serves this network namespace already"]
        assert Client().links() == []
        assert first.stop()[0] == 0


@in_netns
def test_a_refused_start_says_what_is_missing_and_leaves_nothing() -> None:
    with somewhere() as notices:
        status, said = Process(notices, capabilities={CAPABILITIES["CAP_NET_ADMIN"]}).end()
        assert status == 1
        (sentence,) = said
        assert sentence.startswith("xfrmi: ")
        assert "takes CAP_NET_RAW" in sentence


@in_netns
def test_from_outside() -> None:
    """`xfrmi -n NETNS ...`, the daemon included; devices are named as they are called in there."""
    with somewhere() as notices:
        there = Namespace()
        with there:
            Tun("only-there", persist=True).close()
        option = ("-n", f"/proc/{os.getpid()}/fd/{there.fd}")
        daemon = Process(notices, "--remove-on-exit", front=option)
        assert daemon.notice() == "READY=1"

        def xfrmi(line: str) -> str:
            command = [sys.executable, "-m", "xfrmi", *option, *line.split()]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        xfrmi("link add ipsec0 type xfrm dev only-there if_id 42")
        assert "ipsec0@only-there: <NOARP" in xfrmi("link show")
        assert lower_up("ipsec0") is None, "nothing of it is here"
        with there:
            assert lower_up("ipsec0") is False
            assert [link.name for link in Client().links()] == ["ipsec0"]
        with pytest.raises(XfrmError):
            Client().links()
        assert daemon.stop()[0] == 0


@in_netns
def test_killed_and_started_again() -> None:
    """SIGKILL: the device is there without carrier, the sockets are stale; the next one takes over both."""
    with somewhere() as notices:
        killed = Process(notices)
        assert killed.notice() == "READY=1"
        Client().add_link(LinkInfo(name="ipsec0", if_id=42, flags=IFF_UP, change=IFF_UP))
        status, _ = killed.stop(signal.SIGKILL)
        assert (status, lower_up("ipsec0")) == (-signal.SIGKILL, False)
        with pytest.raises(XfrmError, match="no xfrmi daemon serves"):
            Client().links()
        again = Process(notices, "--remove-on-exit")
        assert again.notice() == "READY=1"
        assert [link.if_id for link in Client().links()] == [42]
        assert again.stop()[0] == 0


STOPPED_EARLY = """
import os, signal, sys
from xfrmi.cli.main import main
from xfrmi.daemon import main as daemon
keep = daemon.keep_capabilities
def keep_and_be_stopped(names):
    keep(names)
    os.kill(os.getpid(), int(sys.argv[1]))
daemon.keep_capabilities = keep_and_be_stopped
sys.exit(main(["daemon"]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@in_netns
def test_stopped_before_it_serves(number: int) -> None:
    """Its sockets are there, and so somebody may know of it."""
    need_tun()
    with runtime_directory() as base:
        command = [sys.executable, "-c", STOPPED_EARLY, str(int(number))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "stopping"), done
        assert [path for path in Path(base).rglob("*") if path.is_socket()] == []
