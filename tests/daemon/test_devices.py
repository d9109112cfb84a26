"""Interfaces and the TUNs that stand for them: made together, changed together, gone together, found again."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.iproute import ip
from tests.netns import Namespace, in_netns, need_tun
from xfrmi.core.engine import Engine
from xfrmi.daemon.devices import Devices
from xfrmi.daemon.left_behind import alias_of
from xfrmi.daemon.loop import Loop
from xfrmi.daemon.route_handler import link_info
from xfrmi.daemon.xfrm_device import XfrmDevice
from xfrmi.dev.netns import netns_inode
from xfrmi.dev.rtnl import IFF_MULTICAST, Link, Rtnl
from xfrmi.dev.tun import Tun
from xfrmi.errors import XfrmError
from xfrmi.wire.link_types import IFF_LOWER_UP, IFF_NOARP, IFF_UP, LinkInfo


class Daemon:
    """Engine, loop and devices, and what was logged."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.loop = Loop()
        self.lines: list[str] = []
        self.readable: list[XfrmDevice] = []
        self.devices = Devices(self.engine, self.loop, self.readable.append, self.lines.append)

    def names(self) -> list[str]:
        return [interface.name for interface in self.engine.interfaces]

    def turn(self) -> None:
        """What is readable now has its turn, no more."""
        self.loop.stop()
        self.loop._running = True
        self.loop.run(lambda now: None, lambda: None if self.loop.stop() else 0.0)


@contextmanager
def daemon(remove: bool = True) -> Iterator[Daemon]:
    need_tun()
    made = Daemon()
    try:
        yield made
    finally:
        made.devices.close(remove)
        made.loop.close()


def kernel_link(name: str) -> Link | None:
    rtnl = Rtnl()
    try:
        return rtnl.link(name)
    finally:
        rtnl.close()


def refused(call: object, *arguments: object) -> XfrmError:
    assert callable(call)
    with pytest.raises(XfrmError) as failure:
        call(*arguments)
    return failure.value


# Making and changing -------------------------------------------------------------------------------------------------


@in_netns
def test_a_device_looks_like_an_xfrm_device() -> None:
    """1.2, TUN-07: as far as a TUN can; the rest is said by our own listing."""
    with daemon() as made:
        interface = made.devices.add(LinkInfo(name="ipsec0", if_id=42, link=1))
        link = kernel_link("ipsec0")
        assert link is not None
        assert (link.mtu, link.qlen, link.kind, link.flags & IFF_MULTICAST) == (1500, 1000, "tun", 0)
        assert link.alias == alias_of(interface, netns_inode()) == f"xfrmi if_id 0x2a link 1 home {netns_inode()}"
        assert (interface.ifindex, interface.mtu, interface.up) == (link.ifindex, 1500, False)
        shown = link_info(made.devices[interface])
        assert (shown.if_id, shown.link, shown.flags) == (42, 1, IFF_NOARP)
        made.devices.set(interface, LinkInfo(flags=IFF_UP | IFF_MULTICAST, change=IFF_UP | IFF_MULTICAST))
        shown = link_info(made.devices[interface])
        assert shown.flags & (IFF_UP | IFF_LOWER_UP | IFF_MULTICAST) == IFF_UP | IFF_LOWER_UP | IFF_MULTICAST
        assert made.lines == ["interface ipsec0 (if_id 0x2a) added"]


@in_netns
def test_names_are_given_where_none_is_asked_for() -> None:
    with daemon() as made:
        for if_id in (1, 2):
            made.devices.add(LinkInfo(if_id=if_id))
        assert made.names() == ["xfrm0", "xfrm1"]


@in_netns
def test_an_external_device_says_so() -> None:
    with daemon() as made:
        interface = made.devices.add(LinkInfo(name="ext0", external=True))
        assert alias_of(interface, 7) == "xfrmi external link 0 home 7"


@in_netns
def test_a_refusal_leaves_no_device_behind() -> None:
    """By the engine before there is a TUN, by the kernel after."""
    with daemon() as made:
        made.devices.add(LinkInfo(name="ipsec0", if_id=42))
        ip("link add veth0 type veth peer name veth1")
        cases = [
            (LinkInfo(name="a"), errno.EINVAL),
            (LinkInfo(name="a", if_id=42), errno.EEXIST),
            (LinkInfo(name="ipsec0", if_id=43), errno.EEXIST),
            (LinkInfo(name="veth0", if_id=43), errno.EEXIST),
            (LinkInfo(name="a", if_id=43, mtu=67), errno.EINVAL),
            (LinkInfo(name="a", if_id=43, mtu=65536), errno.EINVAL),
            (LinkInfo(name="a", if_id=43, flags=0x100, change=0x100), errno.EOPNOTSUPP),
        ]
        for info, number in cases:
            assert refused(made.devices.add, info).errno == number, info
            assert kernel_link("a") is None
        assert made.names() == ["ipsec0"]
        made.devices.add(LinkInfo(name="a", if_id=43))


@in_netns
def test_what_the_kernel_says_of_sizes() -> None:
    """The phrases of a real device."""
    with daemon() as made:
        interface = made.devices.add(LinkInfo(name="ipsec0", if_id=42))
        for mtu, phrase in ((67, "mtu less than device minimum"), (65536, "mtu greater than device maximum")):
            assert refused(made.devices.set, interface, LinkInfo(mtu=mtu)).extack == phrase
        assert interface.mtu == 1500
        made.devices.set(interface, LinkInfo(mtu=68, txqlen=5))
        assert (interface.mtu, made.devices[interface].txqlen) == (68, 5)


@in_netns
def test_the_alias_says_what_the_device_is() -> None:
    """Without it the next daemon would not know the device. The user's own is behind it."""
    with daemon() as made:
        interface = made.devices.add(LinkInfo(name="ipsec0", if_id=42))
        made.devices.set(interface, LinkInfo(alias="mine"))
        assert refused(made.devices.set, interface, LinkInfo(alias="x" * 250)).errno == errno.EINVAL
        made.devices.change(interface, LinkInfo(if_id=43))
        link = kernel_link("ipsec0")
        assert link is not None
        assert link.alias == f"xfrmi if_id 0x2b link 0 home {netns_inode()} alias mine"
        assert made.devices.alias(made.devices[interface]) == "mine"


@in_netns
def test_what_ip_does_to_the_tun_is_done_to_the_interface() -> None:
    """In the next turn of the loop, or at once if somebody asks (sync)."""
    with daemon() as made:
        interface = made.devices.add(LinkInfo(name="ipsec0", if_id=42))
        ip("link set ipsec0 up mtu 1400")
        made.turn()
        assert (interface.up, interface.mtu) == (True, 1400)
        ip("link set ipsec0 down")
        ip("link set ipsec0 name vpn0")
        made.devices.sync()
        assert (interface.name, interface.up) == ("vpn0", False)
        assert made.devices.find("vpn0") is interface
        assert made.devices.find("ipsec0") is None


@in_netns
def test_deleted_behind_our_back() -> None:
    with daemon() as made:
        for name, if_id in (("ipsec0", 42), ("ipsec1", 43)):
            made.devices.add(LinkInfo(name=name, if_id=if_id))
        ip("link del ipsec0")
        made.turn()
        assert made.names() == ["ipsec1"]
        made.devices.add(LinkInfo(name="ipsec0", if_id=42))
        assert made.names() == ["ipsec1", "ipsec0"]


# The next daemon -----------------------------------------------------------------------------------------------------


@in_netns
def test_what_one_leaves_the_next_takes_over() -> None:
    """Fail closed: in between the device is there, up, and without carrier."""
    with daemon(remove=False) as made:
        for info in (LinkInfo(name="ipsec0", if_id=42, link=1), LinkInfo(name="ext0", external=True)):
            made.devices.set(made.devices.add(info), LinkInfo(flags=IFF_UP, change=IFF_UP, mtu=1400))
        made.devices.add(LinkInfo(name="gone0", if_id=7))
        made.devices.remove(made.engine.interfaces["gone0"])
    left = kernel_link("ipsec0")
    assert left is not None
    assert left.flags & IFF_UP
    assert not left.flags & IFF_LOWER_UP
    with daemon() as made:
        made.devices.take_over()
        assert sorted(made.names()) == ["ext0", "ipsec0"]
        interface = made.engine.interfaces["ipsec0"]
        assert (interface.if_id, interface.link, interface.mtu, interface.up) == (42, 1, 1400, True)
        assert made.engine.interfaces["ext0"].external
        taken = kernel_link("ipsec0")
        assert taken is not None
        assert taken.flags & IFF_LOWER_UP
    assert kernel_link("ipsec0") is None, "this one removed them"


@in_netns
def test_only_what_is_ours_is_taken_over() -> None:
    """Not the TUN of another program, whatever it is called; not one that another process holds."""
    need_tun()
    other = Tun("tun7", persist=True)
    other.close()
    with daemon(remove=False) as made:
        made.devices.add(LinkInfo(name="ipsec0", if_id=42))
        with daemon() as second:
            second.devices.take_over()
            assert second.names() == []
            assert any("ipsec0" in line and "left alone" in line for line in second.lines)
        assert kernel_link("ipsec0") is not None
    ip("link set ipsec0 alias xfrmi")
    with daemon() as made:
        made.devices.take_over()
        assert made.names() == []
    for name in ("ipsec0", "tun7"):
        ip(f"link del {name}")


@in_netns
def test_two_that_claim_one_if_id() -> None:
    """An alias is not to be trusted blindly: one device is taken, the other is left alone and named."""
    need_tun()
    for name in ("one0", "two0"):
        Tun(name, persist=True).close()
        rtnl = Rtnl()
        link = rtnl.link(name)
        assert link is not None
        rtnl.set_link(link.ifindex, alias=f"xfrmi if_id 0x2a link 0 home {netns_inode()}")
        rtnl.close()
    with daemon() as made:
        made.devices.take_over()
        assert made.names() == ["one0"]
        assert sum("two0" in line and "left alone" in line for line in made.lines) == 1
    ip("link del two0")


@contextmanager
def inhabited(namespace: Namespace) -> Iterator[None]:
    """Some process lives in it, so that it can be found."""
    with namespace:
        pid = os.fork()
        if not pid:
            signal.pause()
            os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@in_netns
def test_devices_are_found_where_they_were_moved_to() -> None:
    """Two containers, each with its `eth0` encrypted outside: they work again when the daemon is back."""
    here, there = Namespace(), Namespace()
    with daemon(remove=False) as made:
        for namespace, if_id in ((here, 42), (there, 43)):
            interface = made.devices.add(LinkInfo(name=f"ipsec{if_id}", if_id=if_id))
            made.devices.set(interface, LinkInfo(name="eth0", flags=IFF_UP, change=IFF_UP), namespace.fd)
    with inhabited(here), inhabited(there), daemon() as made:
        made.devices.take_over()
        assert {interface.if_id for interface in made.engine.interfaces} == {42, 43}
        assert all(interface.away for interface in made.engine.interfaces)
        assert len(set(made.names())) == 2
        for namespace, if_id in ((here, 42), (there, 43)):
            with namespace:
                link = kernel_link("eth0")
                assert link is not None
                assert link.flags & IFF_LOWER_UP
                assert f"if_id {if_id:#x}" in link.alias
                ip(f"link set eth0 mtu {1000 + if_id} up")
        made.turn()
        assert all(interface.mtu == 1000 + interface.if_id for interface in made.engine.interfaces)


@in_netns
def test_what_was_made_elsewhere_is_left_alone() -> None:
    """The daemon of the namespace a device was moved to does not mistake it for its own."""
    there = Namespace()
    with daemon(remove=False) as made:
        made.devices.set(made.devices.add(LinkInfo(name="ipsec0", if_id=42)), LinkInfo(), there.fd)
    with there:
        with daemon() as other:
            other.devices.take_over()
            assert other.names() == []
        assert kernel_link("ipsec0") is not None


# Other namespaces ----------------------------------------------------------------------------------------------------


@in_netns
def test_away_and_back() -> None:
    """NS-02: the interface follows its TUN wherever it goes, and hears what happens to it there."""
    with daemon() as made:
        there = Namespace()
        interface = made.devices.add(LinkInfo(name="ipsec0", if_id=42))
        made.devices.set(interface, LinkInfo(), there.fd)
        assert (interface.away, interface.up) == (True, False)
        assert kernel_link("ipsec0") is None
        with there:
            ip("link set ipsec0 up mtu 1300")
            ip("link set lo down")
        made.turn()
        assert (interface.up, interface.mtu) == (True, 1300)
        made.devices.set(interface, LinkInfo(mtu=1290))
        with there:
            link = kernel_link("ipsec0")
        assert link is not None
        assert link.mtu == interface.mtu == 1290
        with open("/proc/self/ns/net") as home:
            made.devices.set(interface, LinkInfo(), home.fileno())
        assert not interface.away
        assert kernel_link("ipsec0") is not None


@in_netns
def test_moved_by_ip_and_deleted_there() -> None:
    with daemon() as made:
        there, further = Namespace(), Namespace()
        interface = made.devices.add(LinkInfo(name="ipsec0", if_id=42))
        ip(f"link set ipsec0 netns {there}")
        made.turn()
        assert interface.away
        with there:
            ip("link set ipsec0 name eth0")
            ip(f"link set eth0 netns {further}")
        made.turn()
        assert (interface.away, interface.name) == (True, "eth0")
        with further:
            ip("link del eth0")
        made.turn()
        assert made.names() == []


@in_netns
def test_the_namespace_ends_with_the_device_in_it() -> None:
    """The daemon keeps nobody's namespace alive; the kernel deletes what is in it, and we hear of that."""
    with daemon() as made:
        there = Namespace()
        interface = made.devices.add(LinkInfo(name="ipsec0", if_id=42))
        made.devices.set(interface, LinkInfo(), there.fd)
        os.close(there.fd)
        deadline = time.monotonic() + 20
        while made.names() and time.monotonic() < deadline:
            time.sleep(0.05)  # the kernel takes a namespace down when it finds the time
            made.turn()
            for device in made.readable:  # what the data path does when there is nothing to read
                if device.interface in made.engine.interfaces:
                    made.devices.gone(device)
            made.readable.clear()
        assert made.names() == []


@in_netns
def test_numbers_and_names_of_different_namespaces() -> None:
    """The device at home is meant where another one, elsewhere, has the same name or number."""
    with daemon() as made:
        there = Namespace()
        away = made.devices.add(LinkInfo(name="ipsec0", if_id=42))
        made.devices.set(away, LinkInfo(name="eth0"), there.fd)
        home = made.devices.add(LinkInfo(name="ipsec0", if_id=43))
        assert made.devices.find("ipsec0") is home
        assert made.devices.find("eth0") is away
        home.ifindex, ifindex = away.ifindex, home.ifindex
        assert made.devices.find(away.ifindex) is home
        home.ifindex = ifindex
        assert made.devices.find(away.ifindex) is away


@in_netns
def test_a_namespace_that_cannot_be_entered() -> None:
    """Without CAP_SYS_ADMIN the device is followed all the same; only orders for it cannot be given from here."""
    with pytest.MonkeyPatch.context() as patch, daemon() as made:

        def forbidden(fd: int) -> None:
            raise XfrmError(errno.EPERM, detail="no")

        patch.setattr("xfrmi.dev.netns.enter", forbidden)
        there = Namespace()
        interface = made.devices.add(LinkInfo(name="ipsec0", if_id=42))
        made.devices.set(interface, LinkInfo(), there.fd)
        with there:
            ip("link set ipsec0 up mtu 1300")
        made.turn()
        assert (interface.away, interface.up, interface.mtu) == (True, True, 1300)
        assert refused(made.devices.set, interface, LinkInfo(mtu=1400)).errno == errno.EPERM
        assert interface.mtu == 1300


@in_netns
def test_a_namespace_that_cannot_be_watched() -> None:
    """The device works on, as if it were up; that nobody watches it is said once."""
    with pytest.MonkeyPatch.context() as patch, daemon() as made:

        def forbidden(rtnl: Rtnl, fd: int) -> int:
            raise XfrmError(errno.EPERM, detail="no")

        patch.setattr(Rtnl, "netns_id", forbidden)
        there = Namespace()
        interface = made.devices.add(LinkInfo(name="ipsec0", if_id=42))
        made.devices.set(interface, LinkInfo(), there.fd)
        made.turn()
        assert (interface.away, interface.up) == (True, True)
        assert sum("cannot be watched" in line for line in made.lines) == 1
