"""Network namespaces: their names, moving in and out, and where a TUN has gone."""

from __future__ import annotations

import contextlib
import errno
import os

import pytest

from tests.netns import Namespace, in_netns, need_tun
from xfrmi.dev import netns
from xfrmi.dev.link_monitor import LinkMonitor
from xfrmi.dev.rtnl import Rtnl
from xfrmi.dev.tun import Tun
from xfrmi.errors import XfrmError


@pytest.mark.parametrize(
    ("name", "path"),
    [("blue", "/run/netns/blue"), (1, "/proc/1/ns/net"), ("17", "/proc/17/ns/net"), ("/a/b", "/a/b")],
)
def test_names_of_namespaces(name: str | int, path: str) -> None:
    assert netns.netns_path(name) == path


@pytest.mark.parametrize("ask", [netns.open_netns, netns.netns_inode])
def test_a_namespace_that_is_not_there_is_named(ask: object) -> None:
    assert callable(ask)
    with pytest.raises(XfrmError) as refused:
        ask("/run/netns/no-such")
    assert refused.value.errno == errno.ENOENT
    assert "/run/netns/no-such" in refused.value.detail


@in_netns
def test_inside_comes_back_whatever_happens() -> None:
    there = Namespace()
    home = netns.netns_inode()
    with netns.inside(there.fd):
        assert netns.netns_inode() == os.fstat(there.fd).st_ino != home
    with contextlib.suppress(ZeroDivisionError), netns.inside(there.fd):
        raise ZeroDivisionError
    assert netns.netns_inode() == home


@in_netns
def test_what_is_no_namespace_cannot_be_entered() -> None:
    with open(os.devnull) as nothing, pytest.raises(XfrmError) as refused:
        netns.enter(nothing.fileno())
    assert refused.value.errno == errno.EINVAL


@in_netns
def test_a_tun_tells_where_it_is() -> None:
    """TUN-05: moved after it was opened; and deleted under its descriptor."""
    need_tun()
    there = Namespace()
    tun, rtnl = Tun("away0"), Rtnl()
    own = netns.open_netns()
    link = rtnl.link("away0")
    assert link is not None

    def place() -> int:
        fd = netns.netns_of_tun(tun.fileno())
        assert fd is not None
        with os.fdopen(fd):
            return os.fstat(fd).st_ino

    assert place() == os.fstat(own).st_ino
    rtnl.set_link(link.ifindex, netns_fd=there.fd)
    assert place() == os.fstat(there.fd).st_ino
    with netns.inside(there.fd):
        Rtnl().delete_link(link.ifindex)
    assert netns.netns_of_tun(tun.fileno()) is None


@in_netns
def test_a_namespace_has_a_number_here() -> None:
    """The same whenever it is asked for; links in there are found by it, until it ends."""
    there, rtnl = Namespace(), Rtnl()
    nsid = rtnl.netns_id(there.fd)
    assert rtnl.netns_id(there.fd) == nsid != rtnl.netns_id(Namespace().fd)
    with there:
        Tun("inside0", persist=True).close()
    assert rtnl.link("inside0") is None
    found = rtnl.link("inside0", nsid)
    assert found is not None
    assert rtnl.link(found.ifindex, nsid) == found
    assert rtnl.link("inside0", 4711) is None
    with open(os.devnull) as nothing, pytest.raises(XfrmError):
        rtnl.netns_id(nothing.fileno())
    rtnl.close()


@in_netns
def test_changes_are_heard_from_there_too() -> None:
    need_tun()
    there, rtnl, monitor = Namespace(), Rtnl(), LinkMonitor()
    nsid = rtnl.netns_id(there.fd)
    assert monitor.changed() == set()
    tun = Tun("here0")
    with there:
        inner = Rtnl()
        lo = inner.link("lo")
        assert lo is not None
        inner.set_link(lo.ifindex, mtu=5000)
        inner.close()
    changed = monitor.changed()
    assert changed is not None
    link = rtnl.link("here0")
    assert link is not None
    assert {(None, link.ifindex), (nsid, lo.ifindex)} <= changed
    tun.close()
    assert (None, link.ifindex) in (monitor.changed() or ())
    monitor.close()
    rtnl.close()


@in_netns
def test_announcements_that_were_lost_mean_anything_may_have_changed() -> None:
    rtnl, monitor = Rtnl(), LinkMonitor()
    lo = rtnl.link("lo")
    assert lo is not None
    for size in range(2000):
        rtnl.set_link(lo.ifindex, mtu=1300 + size)
    assert monitor.changed() is None
    assert monitor.changed() == set()
    monitor.close()
    rtnl.close()
