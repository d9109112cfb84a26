"""The xfrm devices of this daemon: an Interface of the engine and the TUN that stands for it in the kernel, joined.

The kernel's TUN is the truth for what `ip link set` can change (name, mtu, up, namespace): it is watched, and the
Interface follows. The engine is the truth for what makes it an xfrm device (if_id, link): that is written into the
TUN's alias, so that the next daemon knows the TUNs of a killed one again and takes them over. TUNs are persistent:
while no daemon holds them they have no carrier, and routes into them lead nowhere rather than into the clear.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from xfrmi.core.engine import Engine
from xfrmi.core.interface import Interface
from xfrmi.daemon.left_behind import alias_of, left_behind, read_alias
from xfrmi.daemon.loop import Loop
from xfrmi.daemon.xfrm_device import XfrmDevice
from xfrmi.dev.link_monitor import LinkMonitor
from xfrmi.dev.netns import inside, netns_inode, netns_of_tun, open_netns, same_netns
from xfrmi.dev.rtnl import IFF_MULTICAST, Link, Rtnl
from xfrmi.dev.tun import Tun, is_attached, keep_routes, name_of, shape_like_xfrm, shown_qlen
from xfrmi.errors import XfrmError
from xfrmi.wire.link_types import IFF_UP, XFRM_LINK_MAX_MTU, XFRM_LINK_MIN_MTU, XFRM_LINK_MTU, LinkInfo

LONGEST_RESTORED = 128
"""Characters of an alias that somebody has written over ours."""


class Devices:
    """All of them. `readable(device)` is called from the loop when the TUN of a device has packets."""

    def __init__(
        self, engine: Engine, loop: Loop, readable: Callable[[XfrmDevice], None], log: Callable[[str], None]
    ) -> None:
        self._engine = engine
        self._loop = loop
        self._readable = readable
        self._log = log
        self._devices: dict[Interface, XfrmDevice] = {}
        self._home_fd = open_netns()
        self._rtnl = Rtnl()
        self._monitor = LinkMonitor()
        loop.watch(self._monitor.fileno(), self.sync)

    def __getitem__(self, interface: Interface) -> XfrmDevice:
        return self._devices[interface]

    def __iter__(self) -> Iterator[XfrmDevice]:
        return iter(self._devices.values())

    # Orders (route_handler) --------------------------------------------------------------------------------------

    def find(self, which: str | int, nsid: int | None = None) -> Interface | None:
        """By name or ifindex. Namespaces count on their own: of two devices with one number, the one at home, or in
        the namespace with our number `nsid`."""
        if nsid is not None:
            away = (device.interface for device in self if device.nsid == nsid)
            return next((interface for interface in away if interface.ifindex == which), None)
        if isinstance(which, str):
            with contextlib.suppress(XfrmError):
                return self._engine.interfaces[which]
            return None
        numbered = (interface for interface in self._engine.interfaces if interface.ifindex == which)
        return min(numbered, key=lambda interface: interface.away, default=None)

    def alias(self, device: XfrmDevice) -> str:
        """What the user calls it besides. The kernel does not announce it, while a device is down."""
        link = self._rtnl.link(device.interface.ifindex, device.nsid) if device.interface.ifindex else None
        if link is None:
            return ""
        tag = read_alias(link.alias)
        if tag is None:
            self._restore(device, link.alias)
            return link.alias
        return tag.text

    def add(self, info: LinkInfo) -> Interface:
        """RTM_NEWLINK: rules DEV-01..05, then the TUN. Leaves nothing behind if anything is refused. An alias is for
        later, as in the kernel, which does not look at it here."""
        check_mtu(XFRM_LINK_MTU if info.mtu is None else info.mtu)
        name = info.name or "xfrm%d"
        self._engine.interfaces.check_add(name, info.if_id or 0, info.link or 0, info.external)
        if self._rtnl.link(name) is not None:
            raise XfrmError(errno.EEXIST, detail=f'a device "{name}" exists already')
        if info.ifindex and self._rtnl.link(info.ifindex) is not None:
            raise XfrmError(errno.EEXIST, detail=f"a device with the index {info.ifindex} exists already")
        tun = self._open(name, info.ifindex)
        try:
            shape_like_xfrm(self._rtnl, tun.name, XFRM_LINK_MTU if info.mtu is None else info.mtu)
            interface = self._engine.add_interface(tun.name, info.if_id or 0, info.link or 0, info.external)
            try:
                self._attach(interface, tun)
                self._remember(self._devices[interface], "")
                if info.change or info.txqlen is not None:
                    self.set(interface, LinkInfo(flags=info.flags, change=info.change, txqlen=info.txqlen))
            except XfrmError:
                self._forget(interface)
                raise
        except XfrmError:
            tun.set_persist(False)
            tun.close()
            raise
        self._log(f"{_title(interface)} added")
        return interface

    def check_change(self, interface: Interface, info: LinkInfo) -> None:
        """Would `change` be refused? Rules DEV-08..13."""
        self._engine.interfaces.check_change(interface, info.if_id or 0, info.link or 0, info.external)

    def change(self, interface: Interface, info: LinkInfo) -> None:
        """RTM_NEWLINK with IFLA_INFO_DATA for an existing device: rules DEV-08..13."""
        device = self._devices[interface]
        before, alias = (interface.if_id, interface.link, interface.external), self.alias(device)
        self._engine.change_interface(interface.name, info.if_id or 0, info.link or 0, info.external)
        try:
            self._remember(device, alias)
        except XfrmError:  # not allowed to, for example: then the next daemon would find what it had been
            self._engine.change_interface(interface.name, *before)
            raise

    def set(self, interface: Interface, info: LinkInfo, netns_fd: int | None = None) -> None:
        """Name, mtu, queue length, up, multicast, and the move to another namespace: one order, one answer."""
        if info.change & ~(IFF_UP | IFF_MULTICAST):
            raise XfrmError(errno.EOPNOTSUPP, detail="of the flags only up, down and multicast can be switched")
        device = self._devices[interface]
        alias = None if info.alias is None else alias_of(interface, netns_inode(), info.alias)
        with self._rtnl_at(device) as rtnl:
            rtnl.set_link(
                interface.ifindex,
                up=bool(info.flags & IFF_UP) if info.change & IFF_UP else None,
                multicast=bool(info.flags & IFF_MULTICAST) if info.change & IFF_MULTICAST else None,
                mtu=info.mtu,
                name=info.name or None,
                alias=alias,
                txqlen=info.txqlen,
                netns_fd=netns_fd,
                netns_pid=info.netns_pid,
            )
        self._refresh(device)

    def remove(self, interface: Interface) -> None:
        """RTM_DELLINK: the device goes, its states and policies stay (DEV-14)."""
        device = self._detach(interface)
        with contextlib.suppress(OSError):
            device.tun.set_persist(False)
        device.close()
        self._log(f"{_title(interface)} removed")

    def sync(self) -> None:
        """Take in what the kernel has announced up to now."""
        changed = self._monitor.changed()
        if changed is not None and not changed:  # the usual case, also with thousands of devices
            return
        for device in list(self._devices.values()):
            if changed is None or (device.nsid, device.interface.ifindex) in changed:
                self._refresh(device)

    @property
    def ears(self) -> int | None:
        """For another process: the descriptor that hears of devices in other namespaces, if we have one."""
        return self._monitor.fileno() if self._monitor.everywhere else None

    def hear_by(self, fd: int) -> None:
        """Go on with another process's, if ours are not as good; it alone has heard what it has read from them."""
        if self._monitor.everywhere:
            os.close(fd)
            return
        self.sync()
        self._loop.unwatch(self._monitor.fileno())
        self._monitor.close()
        self._monitor = LinkMonitor(fd)
        self._loop.watch(fd, self.sync)
        for device in [device for device in self if device.interface.away]:
            self._refresh(device)

    # Start and end -----------------------------------------------------------------------------------------------

    def take_over(self) -> None:
        """Adopt the TUNs that an earlier daemon of this namespace left behind, wherever they are now."""
        for path, left in list(left_behind()):
            try:
                # Names are unique in a namespace, and these may be of several.
                name = left.name if path is None or self.find(left.name) is None else f"{left.name}.{left.if_id:x}"
                interface = self._engine.add_interface(name, left.if_id, left.link, left.external)
                try:
                    self._take(interface, left.name, path)
                except XfrmError:
                    self._forget(interface)
                    raise
            except XfrmError as error:
                self._log(f"{left.name} ({left.alias}) left alone: {error}")
            else:
                self._log(f"{_title(interface)} taken over")

    def _take(self, interface: Interface, name: str, path: str | None) -> None:
        with contextlib.ExitStack() as cleanup:
            nsid = None
            if path is None:
                tun = self._open(name)
            else:
                netns_fd = open_netns(path)
                cleanup.callback(os.close, netns_fd)
                with inside(netns_fd):
                    tun = self._open(name)
                nsid = self._rtnl.netns_id(netns_fd)
            self._attach(interface, tun, nsid)

    def adopt(self, name: str, if_id: int, link: int, external: bool, fds: Sequence[int], reads: int) -> Interface:
        """Go on with the TUN that another process has had until now, whose descriptors are taken: the queues that are
        to be read, so many, then perhaps one to be written to. XfrmError."""
        interface = self._engine.add_interface(name, if_id, link, external)
        first, *others = (Tun(name_of(fd), persist=True, fd=fd, alone=fd == fds[0]) for fd in fds)
        device = self._devices[interface] = XfrmDevice(interface, first)
        device.more, device.writer = others[: reads - 1], next(iter(others[reads - 1 :]), None)
        interface.takes = device.tun.takes
        self._relocate(device)
        self._watch(device)
        return interface

    def let_go(self, interface: Interface) -> None:
        """Undo `adopt`: it is somebody else's again, who need not notice."""
        device = self._detach(interface)
        for tun in device.queues:
            if tun.fileno() >= 0:
                os.close(tun.fileno())

    def close(self, remove: bool) -> None:
        """Let go of all TUNs: they stay, without carrier, or are removed."""
        for interface in list(self._devices):
            if remove:
                self.remove(interface)
            else:
                self._detach(interface).close()
        self._loop.unwatch(self._monitor.fileno())
        self._monitor.close()
        self._rtnl.close()
        os.close(self._home_fd)

    # Following the kernel ----------------------------------------------------------------------------------------

    def gone(self, device: XfrmDevice) -> bool:
        """Was the TUN deleted behind our back? Then its interface goes, too."""
        netns_fd = netns_of_tun(device.tun.fileno())
        if netns_fd is None:
            self.remove(device.interface)
            return True
        os.close(netns_fd)
        return False

    def _refresh(self, device: XfrmDevice) -> None:
        """Make the interface what its TUN is."""
        interface = device.interface
        link = self._rtnl.link(interface.ifindex, device.nsid) if interface.ifindex else None
        if link is not None and link.kind == "tun":
            self._mirror(device, link)
            if read_alias(link.alias) is None:
                self._restore(device, link.alias)
        elif not self.gone(device):
            self._relocate(device)

    def _mirror(self, device: XfrmDevice, link: Link) -> None:
        interface = device.interface
        if link.name != interface.name:
            with contextlib.suppress(XfrmError):  # another of ours has the name, in another namespace
                self._engine.interfaces.rename(interface, link.name)
        interface.ifindex = link.ifindex
        interface.up = bool(link.flags & IFF_UP)
        device.multicast = bool(link.flags & IFF_MULTICAST)
        device.txqlen = shown_qlen(link.qlen)
        if link.mtu != interface.mtu:
            interface.mtu = link.mtu
            interface.flows.clear()

    def _relocate(self, device: XfrmDevice) -> None:
        """The TUN was moved to another namespace; packets go on flowing through its descriptor (NS-04)."""
        interface = device.interface
        netns_fd = netns_of_tun(device.tun.fileno())
        if netns_fd is None:
            return
        interface.verdicts.clear()
        interface.away = not same_netns(netns_fd, self._home_fd)
        name = name_of(device.tun.fileno())
        try:
            device.nsid = self._rtnl.netns_id(netns_fd) if interface.away else None
            if (link := self._rtnl.link(name, device.nsid)) is not None:
                self._mirror(device, link)
                self._keep_routes(device, name)
        except XfrmError as error:
            # It works on, but nobody tells us any more what becomes of it.
            interface.ifindex = 0
            interface.up = True
            self._log(f"{_title(interface)} is in a network namespace that cannot be watched: {error}")
        finally:
            os.close(netns_fd)

    def _keep_routes(self, device: XfrmDevice, name: str) -> None:
        try:
            with self._inside(device):
                keep_routes(name)
        except (OSError, XfrmError) as error:
            why = error.strerror or error
            self._log(f"{_title(device.interface)}: without a daemon, routes into it will be passed over: {why}")

    @contextlib.contextmanager
    def _inside(self, device: XfrmDevice) -> Iterator[None]:
        """Where the device is: only somebody inside a namespace can give orders there."""
        netns_fd = netns_of_tun(device.tun.fileno()) if device.interface.away else None
        if netns_fd is None:
            yield
            return
        with contextlib.ExitStack() as there:
            there.callback(os.close, netns_fd)
            try:
                there.enter_context(inside(netns_fd))
            except XfrmError as error:
                why = "is in a namespace that this daemon may not enter: ip -n NETNS, or start it with --keep sys_admin"
                raise XfrmError(error.errno, detail=f"{device.interface.name} {why}") from None
            yield

    @contextlib.contextmanager
    def _rtnl_at(self, device: XfrmDevice) -> Iterator[Rtnl]:
        if not device.interface.away:
            yield self._rtnl
            return
        with self._inside(device):
            rtnl = Rtnl()
        with contextlib.closing(rtnl):
            yield rtnl

    # Who reads the TUN -------------------------------------------------------------------------------------------

    def _open(self, name: str, ifindex: int = 0) -> Tun:
        return Tun(name, persist=True, ifindex=ifindex)

    def _watch(self, device: XfrmDevice) -> None:
        self._loop.watch(device.tun.fileno(), lambda: self._readable(device))
        for tun in list(device.more):  # a daemon's with workers
            if not is_attached(tun.fileno()):
                device.more.remove(tun)
                tun.close()
                continue
            self._loop.watch(tun.fileno(), partial(self._readable, XfrmDevice(device.interface, tun)))

    def _unwatch(self, device: XfrmDevice) -> None:
        for tun in device.queues:
            self._loop.unwatch(tun.fileno())

    # The two halves ----------------------------------------------------------------------------------------------

    def _attach(self, interface: Interface, tun: Tun, nsid: int | None = None) -> None:
        link = self._rtnl.link(tun.name, nsid)
        if link is None:
            raise XfrmError(errno.ENODEV, detail=f'the TUN "{tun.name}" vanished')
        device = self._devices[interface] = XfrmDevice(interface, tun)
        device.nsid = nsid
        interface.away = nsid is not None
        interface.takes = tun.takes
        self._mirror(device, link)
        self._keep_routes(device, tun.name)
        self._watch(device)

    def _detach(self, interface: Interface) -> XfrmDevice:
        device = self._devices[interface]
        self._forget(interface)
        return device

    def _forget(self, interface: Interface) -> None:
        device = self._devices.pop(interface, None)
        if device is not None:
            self._unwatch(device)
        self._engine.delete_interface(interface.name)

    def _restore(self, device: XfrmDevice, text: str) -> None:
        """Somebody wrote over it who did not know."""
        try:
            self._remember(device, text[:LONGEST_RESTORED])
        except XfrmError as error:
            self._log(f"{_title(device.interface)}: the next daemon will not know it, for its alias is lost: {error}")

    def _remember(self, device: XfrmDevice, text: str) -> None:
        """Write into its alias what it is, and what the user calls it."""
        with self._rtnl_at(device) as rtnl:
            rtnl.set_link(device.interface.ifindex, alias=alias_of(device.interface, netns_inode(), text))


def check_mtu(mtu: int) -> None:
    """As the kernel says it of a device that there is already: no index is taken for one that cannot be."""
    if mtu < XFRM_LINK_MIN_MTU:
        raise XfrmError(errno.EINVAL, "mtu less than device minimum", f"an xfrm device has {XFRM_LINK_MIN_MTU} or more")
    if mtu > XFRM_LINK_MAX_MTU:
        raise XfrmError(errno.EINVAL, "mtu greater than device maximum", f"an xfrm device has {XFRM_LINK_MAX_MTU}")


def _title(interface: Interface) -> str:
    key = "external" if interface.external else f"if_id {interface.if_id:#x}"
    return f"interface {interface.name} ({key})"
