"""Policies without if_id: those of classic, policy-based IPsec, which are for no device in particular.

A kernel looks every packet up in its SPD after routing, and again before delivery. Here filters on the devices of the
host do that (policy_filters.py decides which, dev/policy_filter.py makes a program of the SPD, dev/traffic_control.py
puts it there):

    out   a packet leaves by any device: if a policy blocks it or wants states, it is led into a hidden TUN instead,
          and goes from there like one that was routed into an xfrm device. It has its source, its ports, its mark, as
          routing, NAT and the socket have made them: nobody's routes or rules are touched
    in    a packet comes in by any device in the clear: if a policy might refuse it, it is led into another hidden
          TUN, is judged and counted, and only then goes on (core/plain.py)
    ESP   what came through states without a device, and passed the policies, comes out of the first TUN

They are there as long as a policy without if_id blocks or has templates, or no policy means block (setdefault).
A request is answered when what it asks for is in force on all devices. A device that is made later gets its filters
when the kernel has announced it.

When the daemon is killed, filters and TUNs stay: what they lead into a TUN without carrier is lost, and not sent in the
clear. So they do when one that exec has started goes because nobody needs it any more: an IKE daemon that crashes
leaves its policies in a kernel, too. The next daemon takes them over as they are; they stay until the first policy
without if_id comes or goes, policies are flushed, or the daemon is ended.

Looked at and not taken: IP rules that mirror the SPD, with routes into the TUN. They decide before a packet has a
source, ports of an unbound socket or its final mark, choose other sources than the host's routes would, and what they
get wrong leaves in the clear. Netfilter would do as well as these filters, but is a dependency.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from xfrmi.core.events import (
    DefaultChanged,
    PoliciesFlushed,
    PolicyAdded,
    PolicyDeleted,
    PolicyExpired,
    PolicyUpdated,
    StateAdded,
    StateUpdated,
)
from xfrmi.daemon.data_path import port_for
from xfrmi.daemon.handover_format import PolicyTuns
from xfrmi.daemon.left_behind import POLICY_TUN, REFUSED_TUN, hidden_alias
from xfrmi.daemon.policy_filters import PolicyFilters, demands
from xfrmi.daemon.xfrm_device import XfrmDevice
from xfrmi.dev.announcements import Announcements
from xfrmi.dev.hidden_tun import adopt_hidden, open_hidden, remove, reverse_path_filter, set_switches
from xfrmi.dev.host_devices import CHANGES
from xfrmi.dev.netns import netns_inode
from xfrmi.dev.rtnl import Rtnl
from xfrmi.errors import XfrmError
from xfrmi.wire.xfrm_const import Dir
from xfrmi.wire.xfrm_types import PolicyInfo

if TYPE_CHECKING:
    from xfrmi.core.engine import Engine
    from xfrmi.core.events import Event
    from xfrmi.daemon.data_path import DataPath
    from xfrmi.daemon.loop import Loop
    from xfrmi.dev.tun import Tun


def refuse_with_workers(info: PolicyInfo) -> None:
    """XfrmError for a policy that only a daemon without workers can carry out."""
    if demands(info):
        raise XfrmError(
            errno.EOPNOTSUPP,
            "Policy without if_id needs a daemon without workers",
            "with --workers no policy without if_id carries anything: start the daemon without them, or give "
            "the policy an if_id",
        )


class _Tuns:
    """Both TUNs, while there is something for them to do."""

    def __init__(self, rtnl: Rtnl, engine: Engine, fds: Sequence[int] = ()) -> None:
        """`fds`: those of another process, the TUN for what leaves first. XfrmError as Tun."""
        if fds:
            (tun, self.out_ifindex), (self.refused, self.in_ifindex) = (adopt_hidden(rtnl, fd) for fd in fds)
        else:
            tun, self.out_ifindex = self._open(rtnl)
        interface = engine.interfaces.add_policy_based()
        interface.ifindex = self.out_ifindex
        interface.takes = tun.takes
        interface.mtu = 65535
        self.device = XfrmDevice(interface, tun)
        self.switches: tuple[bool, int] | None = None

    def _open(self, rtnl: Rtnl) -> tuple[Tun, int]:
        home = netns_inode()
        tun, ifindex = open_hidden(rtnl, POLICY_TUN, hidden_alias(home))
        try:
            self.refused, self.in_ifindex = open_hidden(rtnl, REFUSED_TUN, hidden_alias(home))
        except XfrmError:
            remove(tun)
            raise
        return tun, ifindex

    @property
    def all(self) -> tuple[Tun, Tun]:
        return self.device.tun, self.refused


class PolicyPath:
    """All there is of it in one network namespace."""

    def __init__(self, engine: Engine, loop: Loop, data_path: DataPath, log: Callable[[str], None]) -> None:
        self._engine = engine
        self._loop = loop
        self._data_path = data_path
        self._log = log
        self._rtnl = Rtnl()
        self._filters = PolicyFilters(engine.spd, self._rtnl)
        self._tuns: _Tuns | None = None
        self._monitor = Announcements(CHANGES)
        self._held = False
        """What the filters do is an earlier daemon's will."""
        self._leaves = False
        self._complete = False
        """What is in force was what the tables say, before the latest change."""
        loop.watch(self._monitor.fileno(), self._host_changed)
        engine.subscribe(self._follow)

    def prepare(self, info: PolicyInfo) -> None:
        """Before such a policy is added: have ready what it takes, or raise XfrmError."""
        if not demands(info):
            return
        if info.dir == Dir.OUT and info.mark.mask:
            raise XfrmError(
                errno.EOPNOTSUPP,
                "Policy with a mark needs an if_id",
                "a policy with a mark and without if_id would not see the mark of a packet, which a TUN does "
                "not carry: give the policy and its states an if_id, and route by mark into an xfrm interface",
            )
        self._up()

    def let_pass(self, port: int) -> None:
        """From and to this UDP port of the host packets pass, whatever the policies say."""
        if port and port not in self._filters.ports:
            self._filters.ports.add(port)
            self._apply()

    def let_go(self) -> None:
        """What an earlier daemon's policies catch may go as it likes."""
        if self._held:
            self._held = False
            self._down()

    # Start and end ---------------------------------------------------------------------------------------------------

    def take_over(self) -> None:
        """Go on where a killed daemon has left filters: with them, or without if their TUN is gone."""
        alias = hidden_alias(netns_inode())
        if not any(link.alias == alias for link in self._rtnl.links()):
            self._filters.clear()
            return
        self._up()
        self._held = True
        self._log("what policies without if_id of an earlier daemon catch is dropped until there are new ones")

    def save(self) -> tuple[PolicyTuns, list[int]]:
        """For another process to go on with, and descriptors."""
        fds = [tun.fileno() for tun in self._tuns.all] if self._tuns is not None else []
        return PolicyTuns(tuple(self._filters.ports), self._held), fds

    def adopt(self, saved: PolicyTuns, fds: Sequence[int]) -> None:
        """Go on for another process, before its packets are ours. XfrmError as Tun."""
        self._filters.ports |= set(saved.ports)
        self._held = saved.held
        if fds:
            self._watch(_Tuns(self._rtnl, self._engine, fds))

    def begin(self) -> None:
        """They are. What is in force stays until it is exchanged for the same."""
        self._host_changed()

    def leave(self) -> None:
        """When this is closed, what is in force is to stay as if the daemon had been killed."""
        self._leaves = True

    def close(self) -> None:
        """With the daemon its policies end."""
        if self._tuns is None or not self._leaves:
            self._down()
        else:
            for tun in self._tuns.all:
                self._loop.unwatch(tun.fileno())
                tun.close()
            self._log("policies without if_id end here, but what they catch is dropped until there are new ones")
        self._loop.unwatch(self._monitor.fileno())
        self._monitor.close()
        self._rtnl.close()

    def _up(self) -> None:
        if self._tuns is not None:
            return
        tuns = _Tuns(self._rtnl, self._engine)
        try:
            self._filters.probe(tuns.out_ifindex)
        except XfrmError:
            self._engine.interfaces.remove_policy_based()
            for tun in tuns.all:
                remove(tun)
            raise
        self._watch(tuns)
        self._look(tuns)
        self._log("policies without if_id: filters on all devices lead to them")

    def _watch(self, tuns: _Tuns) -> None:
        self._tuns = tuns
        self._complete = False
        self._data_path.policy_device = tuns.device
        self._loop.watch(tuns.device.tun.fileno(), self._caught)
        self._loop.watch(tuns.refused.fileno(), self._came_in_clear)

    def _down(self) -> None:
        """Packets go on as they like before what caught them is gone."""
        tuns = self._tuns
        if tuns is None:
            return
        self._filters.clear()
        self._let_go(tuns)
        self._log("no policies without if_id any more")

    def _let_go(self, tuns: _Tuns) -> None:
        self._tuns = self._data_path.policy_device = None
        self._engine.interfaces.remove_policy_based()
        for tun in tuns.all:
            self._loop.unwatch(tun.fileno())
            remove(tun)

    # What changes ----------------------------------------------------------------------------------------------------

    def _follow(self, event: Event) -> None:
        """A table has changed; whoever changed it is answered after this."""
        changed: PolicyInfo | None = None
        match event:
            case StateAdded() | StateUpdated():
                if (wanted := port_for(event, self._engine.router)) is not None:
                    self.let_pass(wanted[1])
                return
            case PolicyAdded(info) | PolicyUpdated(info) | PolicyDeleted(info) | PolicyExpired(info, True):
                if info.if_id:
                    return
                changed = info
            case PoliciesFlushed() | DefaultChanged():
                pass
            case _:
                return
        self._held = False
        try:
            if self._filters.wanted:
                self._up()
                self._apply(changed)
            else:
                self._down()
        except XfrmError as error:
            self._log(f"policies without if_id are not in force as they should be: {error}")

    def _apply(self, changed: PolicyInfo | None = None) -> None:
        if self._tuns is not None and not self._held:
            known, self._complete = self._complete, False
            self._filters.apply(self._tuns.out_ifindex, self._tuns.in_ifindex, changed if known else None)
            self._complete = True

    def _host_changed(self) -> None:
        self._monitor.drain()
        tuns = self._tuns
        if tuns is None:
            return
        try:
            self._look(tuns)
            self._apply()
        except XfrmError as error:
            self._log(f"policies without if_id are not in force on all devices: {error}")

    def _look(self, tuns: _Tuns) -> None:
        self._filters.look()
        switches = self._filters.forwards, reverse_path_filter()
        if tuns.switches != switches:
            tuns.switches = switches
            set_switches(self._rtnl, tuns.out_ifindex, *switches)

    # Packets ---------------------------------------------------------------------------------------------------------

    def _caught(self) -> None:
        tuns = self._tuns
        assert tuns is not None
        packets = tuns.device.tun.recv_burst()
        if packets:
            self._data_path.take(tuns.device, packets)
        elif tuns.device.tun.gone:
            self._again(tuns)

    def _came_in_clear(self) -> None:
        tuns = self._tuns
        assert tuns is not None
        packets = tuns.refused.recv_burst()
        if packets:
            tuns.device.tun.send_burst(self._data_path.admit(packets))
        elif tuns.refused.gone:
            self._again(tuns)

    def _again(self, tuns: _Tuns) -> None:
        """Somebody has deleted a TUN. Until there is another, what is caught is lost."""
        self._let_go(tuns)
        self._up()
        self._apply()
