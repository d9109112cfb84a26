"""The inner edge: a TUN device that hands over super-packets and takes them back.

IFF_VNET_HDR puts a virtio_net_hdr (wire/vnet.py) in front of each packet, and TUNSETOFFLOAD tells the kernel that we
finish checksums and cut segments ourselves: one read then brings up to 64 KiB of a TCP stream. A persistent device
outlives its daemon without carrier (TUN-06), so that its routes keep leading nowhere instead of into the clear, and
is taken over by the next daemon that names it.

A device may have several queues (IFF_MULTI_QUEUE), each a Tun of its own for a process of its own. The kernel spreads
what is routed into the device over the attached ones, flow by flow: by a hash, or to where the answers to a flow were
written. Whether a device may have several is settled when it is made, also for whoever takes it over.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Sequence

import pytun

from xfrmi.dev.rtnl import Rtnl
from xfrmi.errors import XfrmError
from xfrmi.wire.link_types import XFRM_LINK_MTU, XFRM_LINK_QLEN
from xfrmi.wire.vnet import (
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    NO_OFFLOAD,
    VNET_HDR_LEN,
    Packet,
    SuperPacket,
    emit,
    parse,
)

DEVICE_NODE = "/dev/net/tun"

IFNAMSIZ = 16
TUNSETIFF = 0x400454CA
TUNSETPERSIST = 0x400454CB
TUNSETOFFLOAD = 0x400454D0
TUNSETVNETHDRSZ = 0x400454D8
TUNSETQUEUE = 0x400454D9
TUNSETIFINDEX = 0x400454DA
TUNSETCARRIER = 0x400454E2
TUNGETIFF = 0x800454D2
IFF_ATTACH_QUEUE, IFF_DETACH_QUEUE = 0x0200, 0x0400

TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN, TUN_F_USO4, TUN_F_USO6 = 0x01, 0x02, 0x04, 0x08, 0x20, 0x40
OFFLOADS = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN
USO = TUN_F_USO4 | TUN_F_USO6
"""UDP segmentation, since Linux 6.2; the kernel refuses an offload it does not know."""

BURST_PACKETS = 128
BURST_BYTES = 3 << 16
"""recv_burst stops at either: a few long super-packets, which are in the caches until they are sent."""

GSO_MAX_SIZE = 61500
"""Bytes of a super-packet, or somewhat fewer: with what ESP adds to full-size segments it is then one run of a UDP
socket (UDP_SEGMENT), and not one and a piece."""

SHORT_QLEN = 16
"""Packets or super-packets in the TUN's own queue, where all flows wait behind each other."""

_ROW = 65536 + 1088
"""Bytes between rows; not a power of two, for the cache's sake."""
_LEAD = 16 - VNET_HDR_LEN
"""Puts the IP packet behind the virtio_net_hdr on a 16-byte boundary."""


class Tun:
    """A Device[Packet, Packet]: a TUN, or one queue of it."""

    def __init__(
        self, name: str = "", *, persist: bool = False, offload: bool = True, multi_queue: bool = False, fd: int = -1,
        ifindex: int = 0, alone: bool = False,
    ) -> None:
        """Create the TUN `name` ('' or 'xfrm%d': the kernel picks one), or attach to a persistent one left behind.

        `multi_queue`: a new one may have several queues. One left behind is as it was made, see the attribute. `fd`: a
        queue that another process has opened, `alone`: and which we now have instead of it. `ifindex`: the number of a
        new one, 0 for any.

        Raises XfrmError ENOENT, ENODEV, EACCES, EPERM, EBUSY, EINVAL, each saying what is missing and how to mend it.
        """
        self._device: pytun.TunTapDevice | _Queue = _Queue(fd, name)
        self.multi_queue = multi_queue
        if fd < 0:
            self._device, self.multi_queue = (
                (_numbered(name, multi_queue, ifindex), multi_queue) if ifindex else _attach(name, multi_queue)
            )
        self._first = fd < 0 or alone
        self.name: str = self._device.name
        self.persist = persist
        self.errors = 0
        """Packets the kernel did not take: the device is down (EIO), or this is no IP packet (EINVAL); or did not take
        whole."""
        self.malformed = 0
        """Frames from the kernel whose virtio_net_hdr contradicts the packet."""
        self._alone = False
        """The last recv_burst has found one packet and nothing behind it."""
        self.emptied = True
        """The last recv_burst has left nothing."""
        self.gone = False
        """Somebody deleted the device: the descriptor stays in error for good, close it."""
        self._fd: int = self._device.fileno()
        try:
            os.set_blocking(self._fd, False)
            os.set_inheritable(self._fd, False)
            fcntl.ioctl(self._fd, TUNSETVNETHDRSZ, struct.pack("=i", VNET_HDR_LEN))
            fcntl.ioctl(self._fd, TUNSETPERSIST, int(persist))
            self.takes = self._set_offload(offload)
            """GSO types of the super-packets that may be written, and will be read."""
        except OSError as error:
            self._device.close()
            raise XfrmError(error.errno or errno.EIO, "", f'TUN "{self.name}": {error.strerror}') from None
        memory = memoryview(mmap.mmap(-1, BURST_PACKETS * _ROW))
        # Anonymous memory costs nothing until it is written: one super-packet a burst touches the first row only.
        self._rows = [memory[_LEAD + at * _ROW :][: VNET_HDR_LEN + 65535] for at in range(BURST_PACKETS)]

    def fileno(self) -> int:
        return self._fd

    def recv_burst(self) -> list[Packet]:
        """Up to BURST_PACKETS packets or BURST_BYTES bytes of them."""
        packets: list[Packet] = []
        room = BURST_BYTES
        self.emptied = False
        fd, readv = self._fd, os.readv
        for row in self._rows:
            try:
                length = readv(fd, (row,))
            except OSError as error:
                self.emptied = True
                if error.errno == errno.EBADFD:
                    self.gone = True
                elif error.errno != errno.EAGAIN:
                    raise
                break
            try:
                packets.append(parse(row[:length]))
            except ValueError:
                self.malformed += 1
            room -= length
            if room <= 0:
                break
            if self._alone:  # there is seldom more; if so the next call takes it
                self._alone = False
                return packets
        self._alone = len(packets) == 1 and not isinstance(packets[0], SuperPacket)
        return packets

    def send_burst(self, burst: Sequence[Packet]) -> int:
        """Give packets to the kernel's receive path. EIO (the device is down) and EINVAL only count."""
        taken = 0
        fd, writev = self._fd, os.writev
        for packet in burst:
            try:
                if isinstance(packet, SuperPacket):
                    pieces = packet.pieces()
                    whole = writev(fd, (emit(packet), *pieces)) == VNET_HDR_LEN + sum(map(len, pieces))
                else:
                    whole = writev(fd, (NO_OFFLOAD, packet)) == VNET_HDR_LEN + len(packet)
                taken += whole
            except OSError:
                pass
        self.errors += len(burst) - taken
        return taken

    def another_queue(self) -> Tun:
        """One more queue, attached; the device has to be a multi-queue one. To be called where the device is. Raises
        XfrmError."""
        queue = Tun(self.name, persist=self.persist, offload=bool(self.takes), multi_queue=True)
        queue._first = False
        return queue

    def set_attached(self, attached: bool) -> None:
        """Whether the kernel gives packets to this queue; it takes them either way. OSError EINVAL if it is so."""
        flags = IFF_ATTACH_QUEUE if attached else IFF_DETACH_QUEUE
        fcntl.ioctl(self._fd, TUNSETQUEUE, struct.pack("=16xH22x", flags))

    def set_carrier(self, up: bool) -> None:
        """Without carrier the device is DOWN to its users and its routes lead nowhere (TUN-06)."""
        fcntl.ioctl(self._fd, TUNSETCARRIER, struct.pack("=i", up))

    def set_persist(self, persist: bool) -> None:
        """Whether the device stays when its descriptor is closed."""
        fcntl.ioctl(self._fd, TUNSETPERSIST, int(persist))
        self.persist = persist

    def close(self) -> None:
        """The device vanishes with its last descriptor; a persistent one stays, without carrier once the Tun that is
        not another's queue is closed."""
        if self._fd < 0:
            return
        if self.persist and self._first:
            with contextlib.suppress(OSError):
                self.set_carrier(False)
        self._fd = -1
        self._device.close()

    def _set_offload(self, offload: bool) -> frozenset[int]:
        """Ask for super-packets; the kernel's answer."""
        if not offload:
            fcntl.ioctl(self._fd, TUNSETOFFLOAD, 0)
            return frozenset()
        try:
            fcntl.ioctl(self._fd, TUNSETOFFLOAD, OFFLOADS | USO)
            return frozenset((GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        fcntl.ioctl(self._fd, TUNSETOFFLOAD, OFFLOADS)
        return frozenset((GSO_TCPV4, GSO_TCPV6))


def _attach(name: str, multi_queue: bool) -> tuple[pytun.TunTapDevice, bool]:
    """Create the device or attach to it, and whether it may have several queues."""
    try:
        return _open(name, multi_queue), multi_queue
    except pytun.Error as error:
        refusal = error
    if refusal.errno == errno.EINVAL:  # what the kernel says to who takes a device for what it is not
        with contextlib.suppress(pytun.Error):
            return _open(name, not multi_queue), not multi_queue
    raise _explain(refusal, name)


def _open(name: str, multi_queue: bool) -> pytun.TunTapDevice:
    return pytun.TunTapDevice(name=name, flags=_flags(multi_queue))


def _flags(multi_queue: bool) -> int:
    flags: int = pytun.IFF_TUN | pytun.IFF_NO_PI | pytun.IFF_VNET_HDR
    return flags | pytun.IFF_MULTI_QUEUE if multi_queue else flags


def _numbered(name: str, multi_queue: bool, ifindex: int) -> _Queue:
    """A new device with this number; python-pytun knows nothing of numbers."""
    try:
        fd = os.open(DEVICE_NODE, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, TUNSETIFINDEX, struct.pack("=I", ifindex))
            answer = fcntl.ioctl(fd, TUNSETIFF, struct.pack("=16sH22x", name.encode(), _flags(multi_queue) & 0xFFFF))
        except OSError:
            os.close(fd)
            raise
    except OSError as error:
        raise _explain(error, name) from None
    return _Queue(fd, answer[:IFNAMSIZ].rstrip(b"\0").decode())


def name_of(fd: int) -> str:
    """Of the device behind a descriptor, in the namespace where it is."""
    return fcntl.ioctl(fd, TUNGETIFF, bytes(40))[:IFNAMSIZ].rstrip(b"\0").decode()


def is_attached(fd: int) -> bool:
    """Does the kernel give packets to this queue?"""
    flags: int = struct.unpack_from("=H", fcntl.ioctl(fd, TUNGETIFF, bytes(40)), IFNAMSIZ)[0]
    return not flags & IFF_DETACH_QUEUE


class _Queue:
    """As a TunTapDevice, for a descriptor that was opened elsewhere."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self.name = name

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)


def shape_like_xfrm(rtnl: Rtnl, name: str, mtu: int = XFRM_LINK_MTU) -> None:
    """Give the TUN the looks of an xfrm device (1.2, TUN-07): no MULTICAST flag, queue of 1000, MTU 1500.

    What waits for us is not in the TUN's own queue, which is a single one that holds up to 64 MB of super-packets: that
    is made SHORT_QLEN, and in front of it fq_codel has a queue for each flow, and keeps it short. An xfrm device has no
    queue at all, so `shown_qlen` is what to say of it.
    """
    link = rtnl.link(name)
    if link is None:
        raise XfrmError(errno.ENODEV, "", f'there is no device "{name}" in this network namespace')
    rtnl.set_link(link.ifindex, multicast=False, txqlen=XFRM_LINK_QLEN, mtu=mtu)
    with contextlib.suppress(XfrmError):  # a kernel that cannot only sends more runs, some of them short
        rtnl.set_link(link.ifindex, gso_max_size=GSO_MAX_SIZE)
    with contextlib.suppress(XfrmError):  # without it packets of all flows wait in one queue
        rtnl.set_qdisc(link.ifindex, "fq_codel")
        rtnl.set_link(link.ifindex, txqlen=SHORT_QLEN)


def shown_qlen(qlen: int) -> int:
    """The queue length to tell about a TUN that has this one."""
    return XFRM_LINK_QLEN if qlen == SHORT_QLEN else qlen


def keep_routes(name: str) -> None:
    """Routes into the device count while it has no carrier, whatever is the rule for new devices here.

    Passed over, they would leave packets to a less specific route, and that leads into the clear. OSError where it
    cannot be helped: /proc/sys is read-only, or the rule is one for all devices.
    """
    for family in ("ipv4", "ipv6"):
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            if _sysctl(family, name) != "0":
                _sysctl(family, name, "0")
    if _sysctl("ipv4", "all") != "0":  # in IPv6 that only sets those of each device
        raise OSError(errno.EPERM, "net.ipv4.conf.all.ignore_routes_with_linkdown is on, and stronger")


def _sysctl(family: str, name: str, value: str = "") -> str:
    """Read ignore_routes_with_linkdown of a device, or write it."""
    with open(f"/proc/sys/net/{family}/conf/{name}/ignore_routes_with_linkdown", "r+" if value else "r") as knob:
        if value:
            knob.write(value)
        return value or knob.read().strip()


def _explain(error: OSError, name: str) -> XfrmError:
    """The same errno, with what is missing and the line that mends it."""
    number = error.errno
    if number is None:  # pytun checks the length of a name itself
        return XfrmError(errno.EINVAL, "", f'"{name}" is too long: a device name has at most 15 bytes')
    if number in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        if os.path.exists(DEVICE_NODE):
            detail = f"{DEVICE_NODE} is there but the kernel has no TUN driver: modprobe tun"
        else:
            detail = f"{DEVICE_NODE} is missing: mkdir -p /dev/net && mknod {DEVICE_NODE} c 10 200 (or: modprobe tun)"
    elif number in (errno.EACCES, errno.EPERM) and not _opens():
        detail = f"{DEVICE_NODE}{_mode()} does not open for uid {os.geteuid()}: chmod 0666 {DEVICE_NODE}"
        if number == errno.EPERM:
            detail = f"{DEVICE_NODE} is forbidden here (a container's device list): allow `c 10:200 rwm`"
    elif number == errno.EPERM:
        detail = (
            f'creating TUN "{name}" takes CAP_NET_ADMIN in the user namespace that owns this network namespace: '
            "run as root, or rootless inside `unshare -Urn`"
        )
    elif number == errno.EBUSY:
        detail = f'another process holds "{name}" (who: grep -l "iff:.{name}$" /proc/[0-9]*/fdinfo/*): stop it'
    elif number == errno.EINVAL:
        detail = f'"{name}" exists and is not a TUN, or is no device name (look: ip -d link show dev {name})'
    else:
        detail = f'TUN "{name}": {os.strerror(number)}'
    return XfrmError(number, "", detail)


def _opens() -> bool:
    try:
        os.close(os.open(DEVICE_NODE, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _mode() -> str:
    try:
        return f" has mode {os.stat(DEVICE_NODE).st_mode & 0o777:04o} and"
    except OSError:
        return ""
