"""The daemon's own network namespace, which has a name (`ip netns`), loses it while packets flow.

A namespace lives as long as somebody is in it, and the daemon is. So nothing changes for the packets; orders come from
inside. When the last process has ended it is gone, and so are the devices.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.daemon.test_main import Process, lower_up, somewhere
from tests.iproute import ip
from tests.lacks import MS_BIND, call, own_mounts
from tests.netns import Namespace, in_netns
from tests.system.hosts import eventually, tell, two_hosts
from tests.system.test_fail_closed import TUNNELS, carries, key_again, load
from xfrmi.client import Client
from xfrmi.lab.namespace import xfrmi_command
from xfrmi.wire.link_types import IFF_UP, LinkInfo

MNT_DETACH = 2
NAMES = Path("/run/netns")
NAME = "blue"


@contextmanager
def named(fd: int) -> Iterator[Path]:
    """As `ip netns attach` does it, in a place where no other program sees it. Skips where there is none."""
    try:
        own_mounts()
        call("mount", b"tmpfs", str(NAMES if NAMES.exists() else NAMES.parent).encode(), b"tmpfs", 0, None)
        NAMES.mkdir(exist_ok=True)
    except OSError as error:
        pytest.skip(f"NO PLACE FOR NAMES OF NAMESPACES HERE, NOT TESTED: {error}")
    path = NAMES / NAME
    path.touch()
    call("mount", f"/proc/self/fd/{fd}".encode(), str(path).encode(), None, MS_BIND, None)
    yield path


def delete(path: Path) -> None:
    """As `ip netns del`."""
    call("umount2", str(path).encode(), MNT_DETACH)
    path.unlink()


@in_netns
def test_the_name_goes() -> None:
    """Packets, new keys and new interfaces go on; the end is as any."""
    with two_hosts(daemons=False) as hosts, named(hosts.moon.fd) as path:
        hosts.sun.start_daemon()
        with open(hosts.moon.folder / "daemon.log", "ab") as log:
            daemon = subprocess.Popen(xfrmi_command("-n", NAME, "daemon"), stdout=log, stderr=log, env=hosts.moon.env)
        try:
            hosts.moon.await_daemon(daemon)
            hosts.set_up(*TUNNELS)
            carries(hosts)
            with load(hosts, size=300, pause=0.005):
                delete(path)
                tell(hosts.moon, "state flush\npolicy flush\n")
                key_again(hosts)
            carries(hosts)
            assert hosts.shown() == []
            tell(hosts.moon, "link add more type xfrm if_id 9\nlink del more\n")
            gone = subprocess.run(xfrmi_command("-n", NAME, "state", "list"), capture_output=True, text=True)
            assert (gone.returncode, NAME in gone.stderr) == (2, True), gone
        finally:
            daemon.terminate()
            assert daemon.wait(10) == 0


@in_netns
def test_the_last_one_in_it() -> None:
    """The daemon alone is left there. It serves on, ends with status 0, and the other end of its cable is gone."""
    with somewhere() as notices:
        there = Namespace()
        ip("link add here type veth peer name there")
        ip(f"link set there netns {there}")
        with there:
            daemon = Process(notices)
            assert daemon.notice() == "READY=1"
            client = Client()
            assert client.links() == []  # from here on it has its connection
        os.close(there.fd)
        with client:
            client.add_link(LinkInfo(name="ipsec0", if_id=42, flags=IFF_UP, change=IFF_UP))
            assert [link.name for link in client.links()] == ["ipsec0"]
        assert lower_up("here") is not None
        assert daemon.stop()[0] == 0
        assert daemon.notice() == "STOPPING=1"
        eventually(lambda: lower_up("here") is None, "the namespace is still there")
