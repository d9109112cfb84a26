"""What the daemon and its workers may still do once they serve, and that what they promise goes without the rest."""

from __future__ import annotations

import ctypes
import os
import resource
import socket
import struct
import time
from pathlib import Path

import pytest

from tests.daemon.test_main import CAPABILITIES, Process, lower_up, somewhere
from tests.netns import Namespace, in_netns
from xfrmi.cli.main import main
from xfrmi.client import Client
from xfrmi.dev import privileges
from xfrmi.dev.tun import Tun
from xfrmi.errors import XfrmError
from xfrmi.wire.link_types import IFF_UP, LinkInfo

PR_GET_DUMPABLE, PR_GET_NO_NEW_PRIVS = 3, 39
KEPT = 1 << CAPABILITIES["CAP_NET_ADMIN"] | 1 << CAPABILITIES["CAP_NET_RAW"]
SYS_ADMIN = 1 << 21
IPSEC0 = LinkInfo(name="ipsec0", if_id=42, flags=IFF_UP, change=IFF_UP)
ESP = "proto esp spi 0x4201 mode tunnel if_id 42 aead rfc4106(gcm(aes)) 0x" + "5e" * 20 + " 128"
STATE = f"state add src 192.0.2.1 dst 192.0.2.2 {ESP}"
ENCAPSULATED = f"state add src 192.0.2.1 dst 192.0.2.3 {ESP} encap espinudp 4500 4500 0.0.0.0"
POLICY = "policy add src 10.0.0.0/8 dst 10.0.0.0/8 dir out tmpl src 192.0.2.1 dst 192.0.2.2 proto esp mode tunnel"


def status(pid: int) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())


def sets(pid: int) -> list[int]:
    """Inheritable, permitted, effective, bounding, ambient."""
    words = status(pid)
    return [int(words[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")]


def closed(pid: int) -> bool:
    core = next(line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if line.startswith("Max core"))
    return core.split()[4:6] == ["0", "0"] and status(pid)["NoNewPrivs"] == "1"


def say(line: str) -> int:
    return main(line.split())


@in_netns
def test_two_capabilities_are_kept_and_do() -> None:
    """Interfaces come and go, filters on devices, ports, settings: all of it when the rest has been given up."""
    with somewhere() as notices:
        daemon = Process(notices, "--remove-on-exit")
        assert daemon.notice() == "READY=1"
        pid = daemon.process.pid
        assert sets(pid) == [0, KEPT, KEPT, KEPT, 0]
        assert closed(pid)
        assert len(os.listdir(f"/proc/{pid}/task")) == 1, "capabilities are a thread's own"
        assert say("link add ipsec0 type xfrm if_id 42") == say("link set ipsec0 up mtu 1400") == 0
        assert say(STATE) == say(ENCAPSULATED) == say(POLICY) == 0
        assert lower_up("xfrmi-policy"), "filters and their TUN"
        assert say("policy flush") == say("state flush") == say("link del ipsec0") == 0
        status, said = daemon.stop()
        assert status == 0
        assert not [line for line in said if "refused" in line or "ermi" in line], said


@in_netns
def test_workers_keep_no_more() -> None:
    with somewhere() as notices:
        daemon = Process(notices, "--remove-on-exit", "--workers", "2", "--keep", "sys_admin")
        assert daemon.notice() == "READY=1"
        assert sets(daemon.process.pid)[1] == KEPT | SYS_ADMIN
        with Client() as client:
            client.add_link(IPSEC0)  # answered when the workers have taken it in
            workers = client.status()["workers"]
        assert len(workers) == 2
        for pid in workers:
            while sets(pid)[1] != KEPT:  # another second and the test is stopped
                time.sleep(0.01)
            assert sets(pid)[:3] == [0, KEPT, KEPT]
            assert closed(pid)
        assert daemon.stop()[0] == 0


@in_netns
def test_a_device_elsewhere_takes_one_more() -> None:
    """Without it the order is refused, with what mends that; the device works on, and goes when it is told to."""
    with somewhere() as notices:
        there = Namespace()
        for options in ((), ("--keep", "sys_admin")):
            daemon = Process(notices, "--remove-on-exit", *options)
            assert daemon.notice() == "READY=1"
            with Client() as client:
                client.add_link(IPSEC0)
                assert say(f"link set ipsec0 netns {there}") == 0
                change = LinkInfo(ifindex=client.links()[0].ifindex, kind="", mtu=1400)
                if options:
                    client.set_link(change)
                    assert client.links()[0].mtu == 1400
                else:
                    with pytest.raises(XfrmError, match=r"may not enter.*--keep sys_admin"):
                        client.set_link(change)
                client.delete_link("ipsec0")
                assert client.links() == []
            assert daemon.stop()[0] == 0
            assert daemon.notice() == "STOPPING=1"


@in_netns
def test_none_with_the_interfaces_of_an_earlier_daemon() -> None:
    """Nothing is left, and they are served; there will be no others."""
    with somewhere() as notices:
        first = Process(notices)
        assert first.notice() == "READY=1"
        with Client() as client:
            client.add_link(IPSEC0)
        assert first.stop()[0] == 0
        assert first.notice() == "STOPPING=1"
        second = Process(notices, "--keep", "none")
        assert second.notice() == "READY=1"
        assert sets(second.process.pid) == [0] * 5
        assert lower_up("ipsec0")
        assert say(STATE) == say("state flush") == 0
        with Client() as client, pytest.raises(XfrmError, match="CAP_NET_ADMIN"):
            client.add_link(LinkInfo(name="ipsec1", if_id=43))
        assert second.stop()[0] == 0
        assert lower_up("ipsec0") is False
        assert second.notice() == "STOPPING=1"
        third = Process(notices, "--remove-on-exit")
        assert third.notice() == "READY=1"
        assert third.stop()[0] == 0


@in_netns
def test_what_a_file_permits_is_taken_into_use() -> None:
    """As in the image of Containerfile, whose Python may have two capabilities and begins with none in effect."""
    child = os.fork()
    if not child:
        try:
            before = KEPT & 0xFFFF_FFFF
            header, data = struct.pack("=Ii", 0x2008_0522, 0), struct.pack("=6I", 0, before, 0, 0, 0, 0)
            assert ctypes.CDLL(None).capset(header, data) == 0
            assert privileges.capabilities() == (0, KEPT)
            with pytest.raises((OSError, XfrmError)):
                Tun("tun0")
            privileges.use_capabilities()
            assert privileges.capabilities() == (KEPT, KEPT)
            Tun("tun0").close()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_memory_is_closed() -> None:
    """In a child: what the system says of it afterwards; it may still look at itself, as the daemon does."""
    child = os.fork()
    if not child:
        try:
            libc = ctypes.CDLL(None)
            resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
            privileges.close_memory()
            privileges.no_new_privileges()
            assert libc.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0
            assert libc.prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1
            assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
            with socket.socket() as any_socket:
                assert os.readlink(f"/proc/self/fd/{any_socket.fileno()}").startswith("socket:")
            os.stat("/proc/thread-self/ns/net")
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
